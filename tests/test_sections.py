"""Config sections as records, and former names of their keys."""

import json
import pathlib
from typing import Annotated, Any, Literal, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.harness import files, same_run, sections
from experiments.harness import workdir as workdir_lib
from experiments.inputs import command_line, former_keys
from experiments.methods import ALGORITHMS, checks
from experiments.methods.options import Comparison, Pretraining
from free_jax.errors import InputError
from free_jax.inversion import Recipe
from free_jax.options import AtLeast, Between, Named, NotEmpty, OneOf, Positive, adam

ROOT = pathlib.Path(__file__).resolve().parents[1]
RECORDS = {name: module.Config for name, module in ALGORITHMS.items()}
RECORDS |= {"compare": Comparison, "pretrain": Pretraining}


class Inner(NamedTuple):
    """A section.

    Attributes:
      rate: of the steps,
        in two lines.
      share, other: of images.
    """

    rate: Annotated[float, Positive("0 is nothing")] = 0.1
    share: Annotated[float, Between(0, 1)] = 0.5
    other: Annotated[float, Between(0, 1, inclusive=True)] = 0.0


class Outer(NamedTuple):
    """A config."""

    steps: Annotated[int, AtLeast(1)] = 5
    least: Annotated[int, AtLeast(0, "0 is none")] = 0
    kind: Literal["a", "b"] = "a"
    name: Annotated[str, OneOf(("x", "y"), "never z")] = "x"
    shots: Annotated[tuple[Annotated[int, AtLeast(1)], ...], NotEmpty()] = (1, 5)
    pair: tuple[int, float] = (1, 2.0)
    flag: bool = False
    optimizer: Named = adam(0.1)
    inner: Inner = Inner(rate=0.2)
    maybe: Inner | None = None
    free: Any = None


@pytest.mark.parametrize("name", RECORDS)
def test_defaults_make_the_record(name):
    record = RECORDS[name]
    values = sections.defaults(record)
    json.dumps(values)  # Plain.
    assert sections.read(record, values) == sections.read(record, {}) == record()
    rows = {row.key: row for row in sections.document(record)}
    for key in files.flatten(values):  # Keywords of a call are one row.
        section = key.partition(".kwargs")[0].removesuffix(".name")
        assert {key, section, key.partition(".")[0]} & rows.keys(), key
    silent = [key for key, row in rows.items() if not row.text]
    assert set(silent) <= {"run", "algorithm"}, silent


@given(
    steps=st.integers(1, 10**6),
    kind=st.sampled_from("ab"),
    shots=st.lists(st.integers(1, 50), min_size=1).map(tuple),
    rate=st.floats(1e-6, 1e6) | st.integers(1, 9),
    other=st.floats(0, 1),
    maybe=st.none() | st.just({"rate": 1.0}),
)
def test_values_come_back(steps, kind, shots, rate, other, maybe):
    inner = {"rate": rate, "other": other}
    values = {"steps": steps, "kind": kind, "shots": list(shots), "maybe": maybe}
    found = sections.read(Outer, values | {"inner": inner})
    assert (found.steps, found.kind, found.shots) == (steps, kind, shots)
    assert found.inner == Inner(float(rate), 0.5, other)
    assert found.maybe == (Inner(1.0) if maybe else None)
    # What is left out has the default of the section itself, not of its place.
    assert sections.read(Outer, sections.plain(found)) == found


WRONG = {
    "steps": (st.integers(-9, 0), "must be at least 1"),
    "least": (st.integers(-9, -1), "must not be negative; 0 is none"),
    "kind": (st.text().filter(lambda x: x not in "ab"), "choose one of a, b"),
    "name": (st.text().filter(lambda x: x not in "xy"), "choose one of x, y; never z"),
    "inner.rate": (st.floats(max_value=0.0), "must be positive; 0 is nothing"),
    "inner.share": (
        st.floats(allow_nan=True).filter(lambda x: not 0 < x < 1),
        "must be between 0 and 1",
    ),
    "shots": (st.just(()), "is empty: give at least one"),
    "pair": (st.just((1,)), "must be 2 values"),
    "flag": (st.integers() | st.text(), "must be True or False"),
    "optimizer": (st.just({"rate": 1}), "must be dict(name=..., kwargs=...)"),
    "inner": (st.integers(), "must be a section"),
    "inner.other": (st.text() | st.booleans(), "must be a number"),
}


@given(st.data())
def test_what_is_wrong_is_named(data):
    key = data.draw(st.sampled_from(sorted(WRONG)))
    values, message = WRONG[key]
    value = data.draw(values)
    first, _, last = key.partition(".")
    with pytest.raises(InputError) as error:
        sections.read(Outer, {first: {last: value} if last else value})
    assert str(error.value).startswith(f"config.{key}") and message in str(error.value)


def test_types_are_not_confused():
    for wrong in (True, 1.0, "1"):
        with pytest.raises(InputError, match=r"steps=.*must be a whole number"):
            sections.read(Outer, {"steps": wrong})
    with pytest.raises(InputError, match=r"config.shots\[1\]=0 must be at least 1"):
        sections.read(Outer, {"shots": (1, 0)})
    with pytest.raises(InputError, match="did you mean 'rate'"):
        sections.read(Outer, {"inner": {"rat": 1.0}})


def test_records_say_what_they_hold():
    rows = {row.key: row for row in sections.document(Outer)}
    assert rows["inner.rate"] == sections.Row(
        "inner.rate", "a number", "0.2", "positive", "of the steps, in two lines."
    )
    assert rows["inner.other"].text == rows["inner.share"].text == "of images."
    assert rows["kind"].allowed == "a, b" and rows["maybe"].default == "None"
    assert rows["shots"].allowed == "at least 1, not empty"


class Shared(NamedTuple):
    """Of several sections.

    Attributes:
      seed: of everything.
      made: by the program alone.
      inner: a section.
    """

    seed: int = 0
    made: int = 7
    inner: Annotated[Inner, sections.Without(("other",))] = Inner()


class Whole(NamedTuple):
    """Its keys are those of `Shared` and its own."""

    shared: Annotated[Shared, sections.Flat(), sections.Without(("made",))] = Shared(3)
    own: int = 1


def test_keys_of_a_shared_record_stand_beside_others():
    values = sections.defaults(Whole)
    assert values.keys() == {"seed", "inner", "own"} and values["seed"] == 3
    assert values == sections.plain(Whole()) and "other" not in values["inner"]
    # What is not given keeps the value that this config gives the shared record.
    assert sections.read(Whole, {"own": 2}) == Whole(Shared(3), 2)
    # Fields that are no keys keep theirs, at every depth.
    built = Whole(Shared(1, 2, Inner(other=0.25)), 3)
    assert sections.read(Whole, built) == built
    for wrong in ({"made": 1}, {"shared": {}}, {"inner": {"other": 0.1}}):
        with pytest.raises(InputError, match="no such key"):
            sections.read(Whole, wrong)
    rows = [row.key for row in sections.document(Whole)]
    assert rows == ["seed", "inner.rate", "inner.share", "own"]


# ---- former names ------------------------------------------------------------------


def parse(file, *overrides):
    return command_line.parse(
        ["run.py", f"--config=experiments/configs/{file}", *overrides]
    ).config


def flat(config):
    return files.flatten(config)


# A former override, the config it was for, and what it is today.
OVERRIDES = [
    ("panel_cifar_fs.py", "eval.yardsticks=('panel',)", {"eval.baselines": ["panel"]}),
    ("panel_cifar_fs.py", "recover.scenes=7", {"recover.dead_leaves": 7}),
    ("panel_cifar_fs.py", "recover.start=noise", {"recover.inversion.init": "noise"}),
    (
        "preinverted_cifar_fs.py",
        "recover.start=scenes",
        {"recover.inversion.init": "dead_leaves"},
    ),
    (
        "panel_cifar_fs.py",
        "recover.backend=five",
        {
            "recover.inversion.source": "generator",
            "recover.meta_training.num_steps": 60,
            "recover.inversion.decay": "none",
            "recover.inversion.init": "noise",
        },
    ),
    (
        "panel_cifar_fs.py",
        "recover.objective.total_variation=2.0",
        {"recover.inversion.objective.total_variation": 2.0},
    ),
    ("panel_cifar_fs.py", "distill.calibrate_images=3", {"distill.fit_images": 3}),
    ("panel_cifar_fs.py", "distill.groups=2", {"distill.ghost_batches": 2}),
    ("panel_cifar_fs.py", "recover.renew=runs/a", {"recover.against": "runs/a"}),
    ("preinverted_cifar_fs.py", "learner.initial=m", {"learner.init_from": "m"}),
    ("preinverted_cifar_fs.py", "replay.labels=panel", {"labels": "panel"}),
    (
        "free_cifar_fs_5w1s.py",
        "generator.width=16",
        {"inversion.generator.width": 16},
    ),
    (
        "free_cifar_fs_5w1s.py",
        "inversion.latent_optimizer.kwargs.learning_rate=0.5",
        {"inversion.optimizer.kwargs.learning_rate": 0.5},
    ),
    (
        "free_cifar_fs_5w1s.py",
        "inversion.teachers_per_step=3",
        {"recover.teachers_per_step": 3},
    ),
    (
        "bidf_cifar_fs_5w1s.py",
        "black_box.gradient=where_given",
        {"inversion.estimator.teachers": "without_gradients"},
    ),
    (
        "bidf_cifar_fs_5w1s.py",
        "black_box.num_directions=9",
        {"inversion.estimator.num_directions": 9},
    ),
    (
        "bidf_cifar_fs_5w1s.py",
        "generator.start=fresh",
        {"recover.generator_init": "fresh"},
    ),
    (
        "purer_cifar_fs_5w1s.py",
        "pixels.source=sigmoid",
        {"inversion.source": "pixels"},
    ),
    ("purer_cifar_fs_5w1s.py", "start=average", {"init": "average"}),
    ("purer_cifar_fs_5w1s.py", "curriculum.start=9", {"curriculum.after_steps": 9}),
    (
        "purer_cifar_fs_5w1s.py",
        "calibration.inversion_rate=0.3",
        {"icfil.inversion.optimizer.kwargs.learning_rate": 0.3},
    ),
    ("compare_cifar_fs.py", "choose=('yardsticks',)", {"choose": ["baselines"]}),
]


@pytest.mark.parametrize(("file", "override", "today"), OVERRIDES)
def test_former_names_are_accepted_and_said(file, override, today, capsys):
    config = parse(file, f"--config.{override}")
    line = capsys.readouterr().out
    found = flat(config)
    assert {key: found[key] for key in today} == today
    before = flat(parse(file))
    changed = {key for key, value in found.items() if value != before[key]}
    extra = {"recover.inversion.optimizer.kwargs.b1"} if "five" in override else set()
    assert changed <= today.keys() | extra
    assert line.count("\n") == 1 and f"--config.{override} is now --config." in line
    assert all(key in line for key in today)


def test_every_former_key_leads_to_a_key_of_today():
    known = {"methods.baselines"}
    for record in RECORDS.values():
        known |= set(files.flatten(sections.defaults(record)))
    sectioned = {".".join(key.split(".")[:i]) for key in known for i in range(1, 6)}
    for key, today in former_keys.KEYS.items():
        assert today in known | sectioned, key
        assert former_keys.NAMES.key_today(today) == today


def test_today_is_said_without_a_line(capsys):
    parse("panel_cifar_fs.py", "--config.recover.dead_leaves=3")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("file", "wrong", "hint"),
    [
        ("panel_cifar_fs.py", "eval.yardstick=()", "eval.baselines"),
        ("panel_cifar_fs.py", "recover.scene=3", "recover.dead_leaves"),
        ("panel_cifar_fs.py", "recover.dead_leave=3", "recover.dead_leaves"),
        ("purer_cifar_fs_5w1s.py", "calibration.num_step=3", "icfil.num_steps"),
    ],
)
def test_a_misspelt_key_is_corrected_to_todays(file, wrong, hint):
    with pytest.raises(InputError, match=f"did you mean '{hint}'"):
        parse(file, f"--config.{wrong}")


# ---- earlier runs ------------------------------------------------------------------

FORMER = {
    "run": "meta_train",
    "algorithm": "panel",
    "recover": {
        "backend": "pixels",
        "start": "scenes",
        "num_steps": 50,
        "learning_rate": 0.1,
        "objective": {"cross_entropy": 1.0, "edges": "wrap"},
        "scenes": 10,
        "meta_steps": 60,
    },
    "eval": {"yardsticks": ["random"], "split": "test"},
    "student": {"name": "resnet10", "kwargs": {}},
}


def test_an_earlier_config_reads_as_todays():
    found = checks.upgraded(flat(FORMER))
    assert found == checks.upgraded(found)
    assert found["recover.inversion.init"] == "dead_leaves"
    assert found["recover.inversion.decay"] == "cosine"
    assert found["recover.meta_training.num_steps"] == 0  # Nothing was meta-trained.
    assert found["recover.dead_leaves"] == 10 and "recover.scenes" not in found
    assert found["recover.inversion.objective.crop_padding"] == 4  # Its own default.
    assert found["eval.baselines"] == ["random"]
    assert "student.kwargs.width" not in found  # Of another network.
    assert found["distill.fit_images"] == 4000  # New since: the default.
    assert found.keys() >= {"recover.inversion.keep", "checkpoint.every_secs"}


@pytest.mark.parametrize("backend", ["generator", "five"])
def test_an_earlier_generator_reads_as_todays(backend):
    recover = FORMER["recover"] | {"backend": backend}
    found = checks.upgraded(flat(FORMER | {"recover": recover}))
    assert found["recover.inversion.source"] == "generator"
    assert found["recover.inversion.decay"] == "none"
    assert found["recover.meta_training.num_steps"] == (60 if backend == "five" else 0)


def test_baselines_had_a_step_that_did_nothing():
    config = flat(parse("baselines_cifar_fs.py"))
    assert "num_steps" not in config
    assert checks.upgraded(config | {"num_steps": 1}) == config
    former = config | {"num_steps": 1, "algorithm": "yardsticks"}
    assert checks.upgraded(former) == config


def test_names_may_change_more_than_once(tmp_path):
    configs = [{"c": 1}, {"b": 1}, {"a": 1}]  # Oldest first.
    files.write_json(tmp_path / "config.json", configs[0])
    files.write_json(tmp_path / "format.json", {"keys": same_run.KEYS})
    (tmp_path / "result.json").write_text("{}")
    for config, key in zip(configs[1:], "ba", strict=True):
        workdir_lib.claim_workdir(
            tmp_path, config, upgrade=lambda flat, key=key: {key: 1}
        ).release()
    known = same_run.hashes(tmp_path, configs[-1])
    assert known == tuple(files.config_hash(x) for x in reversed(configs))


def test_an_earlier_run_is_recognised(tmp_path):
    former = {"seed": 0, "eval": {"yardsticks": ["random"], "split": "test"}}
    today = {"seed": 0, "eval": {"baselines": ["random"], "split": "test"}, "new": 1}

    def upgrade(flat_config):
        return former_keys.NAMES.upgraded(flat_config, {"new": 1})

    files.write_json(tmp_path / "config.json", former)
    files.write_json(tmp_path / "format.json", {"keys": same_run.KEYS})
    record = {"config_hash": files.config_hash(former)}
    files.write_json(tmp_path / "result.json", record)
    for _ in range(2):  # The second time config.json is of today already.
        workdir_lib.claim_workdir(tmp_path, today, upgrade=upgrade).release()
        assert record["config_hash"] in same_run.hashes(tmp_path, today)
    other = {**today, "seed": 1}
    assert record["config_hash"] not in same_run.hashes(tmp_path, other)
    with pytest.raises(InputError, match="seed: 0 -> 1;"):
        workdir_lib.claim_workdir(tmp_path, other, upgrade=upgrade)
    assert "baselines" in (tmp_path / "config.json").read_text()


def test_one_record_reads_every_inversion():
    for record in RECORDS.values():
        for _, section in _records_of(record()):
            if "estimator" in getattr(section, "_fields", ()):
                assert type(section) is Recipe


def _records_of(value):
    for key, item in value._asdict().items() if hasattr(value, "_asdict") else ():
        yield key, item
        yield from _records_of(item)


def test_the_home_folder_is_found_at_the_door(monkeypatch, tmp_path):
    """Half of a run went to ./~ and half to the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    name = "experiments/configs/panel_cifar_fs.py"
    paths = "zoo.path=~/a,~/b", "zoo.table=~/t.yaml", "recover.reuse=~/r"
    overrides = [f"--config.{path}" for path in paths]
    found = command_line.parse(["run", f"--config={name}", "--workdir=~/x", *overrides])
    assert found.workdir == f"{tmp_path}/x"
    config = checks.validate(found.config)
    assert config.common.zoo.path == f"{tmp_path}/a,{tmp_path}/b"
    assert config.common.zoo.table == f"{tmp_path}/t.yaml"
    assert config.recover.reuse == f"{tmp_path}/r"
