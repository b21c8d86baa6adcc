"""The command line from end to end, on the embedded images at the smallest size."""

import dataclasses
import json
import pathlib
import re
import shlex
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from golden import make
from PIL import Image

from experiments import inputs, pretrain_zoo, run, train
from experiments.configs import variants
from experiments.data import procedural
from experiments.harness import config_files, files, loop, stopping
from experiments.inputs import command_line
from experiments.methods import base, checks, free
from free_jax import (
    Teachers,
    Zoo,
    ZooGroup,
    load_model,
    load_zoo,
    make_network,
    maml,
    save_zoo,
)
from free_jax.errors import InputError

CONFIG = "experiments/configs/demo.py:smoke,free"
# Smaller than the smoke variant: what is tested is the harness, not the learning.
TINY = [
    *make.SMALL,
    *make.FREE,
    "--config.zoo.pretrain.model.kwargs.width=4",
    "--config.zoo.pretrain.epochs=1",
    "--config.log.every_secs=0",
    "--config.checkpoint.every_steps=1",
]

# Teachers trained in the run; the other baselines are measured elsewhere.
RANDOM = "--config.eval.baselines=('random',)"
# JAX is running already when a test calls the command line's main function.
ALONE = ["--compilation_cache=off", "--distributed=off"]


def parse(*extra, config=CONFIG):
    return command_line.parse(["run.py", f"--config={config}", *TINY, *extra]).config


@pytest.fixture(scope="module")
def teachers(smoke_run):
    """What runs of CONFIG train before they begin; theirs, where it stands in them."""
    return smoke_run("teachers") / "zoo"


@pytest.fixture(scope="module")
def finished(smoke_run):
    """The folder and the result of a finished run, without interruption."""
    workdir = smoke_run("free")
    return workdir, json.loads((workdir / "result.json").read_text())


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """As `finished`, in this process, with teachers that were trained in the run."""
    workdir = tmp_path_factory.mktemp("straight")
    return workdir, train.main(parse(RANDOM), str(workdir))


def test_writes_everything_a_reader_wants(finished):
    workdir, stored = finished
    for name in ("table.md", "model.npz", "metrics.jsonl", "recovered.png"):
        assert (workdir / name).stat().st_size > 0
    assert stored["selection"] == "last" and stored["episodes"] == 8
    assert stored["images_recovered"] == 4 * 2 * 5 * 6
    assert set(stored["results"]) == {"free (maml)"}
    for cells in stored["results"].values():
        for name in ("transductive", "inductive"):
            cell = cells["1"][name]
            assert len(cell["per_episode"]) == 8
            assert cell["mean"] == pytest.approx(np.mean(cell["per_episode"]), abs=1e-2)
    steps = [json.loads(x)["step"] for x in open(workdir / "metrics.jsonl")]
    assert steps == [1, 2, 3, 4]
    assert np.asarray(Image.open(workdir / "recovered.png")).std() > 1


def test_saved_model_predicts(finished, teachers):
    workdir, _ = finished
    arch, variables, _ = load_model(workdir / "model.npz")
    images = jax.random.uniform(jax.random.key(0), (5, *arch.image_shape))
    learner = maml(arch, num_steps=1)
    adapted = learner.adapt(variables["params"], images, jax.numpy.arange(5))
    assert learner.predict(adapted, images).shape == (5, 5)
    assert load_zoo(teachers).num_teachers == 3


@pytest.mark.slow
def test_interrupted_run_equals_uninterrupted(straight, tmp_path, monkeypatch):
    workdir, result = straight
    # The same teachers: their training is resumable too, but not what is tested here.
    shutil.copytree(workdir / "zoo", tmp_path / "zoo")
    real = stopping.StopRequest.reached
    monkeypatch.setattr(stopping.StopRequest, "reached", lambda self, step: step == 3)
    config = parse("--config.eval.yardsticks=()")  # They take nothing from training.
    assert train.main(config, str(tmp_path)) == {"stopped_at": 3}
    monkeypatch.setattr(stopping.StopRequest, "reached", real)
    again = train.main(config, str(tmp_path))
    ours = "free (maml)"
    assert again["results"] == {ours: result["results"][ours]}
    assert (tmp_path / "metrics.jsonl").read_text() == (
        workdir / "metrics.jsonl"
    ).read_text()


def test_selection_needs_a_score_and_other_classes(teachers, tmp_path):
    for override, message in [
        ("--config.eval.val_episodes=0", "val_episodes"),
        ("--config.eval.split=val", "classes that selected"),
    ]:
        config = parse("--config.eval.select=val", override)
        shutil.copytree(teachers, tmp_path / "zoo", dirs_exist_ok=True)
        with pytest.raises(InputError, match=message):
            train.main(config, str(tmp_path))
        assert not (tmp_path / "config.json").exists(), "nothing is claimed"


@pytest.mark.slow
def test_a_longer_run_continues_a_finished_one(straight, tmp_path, capsys):
    workdir, before = straight
    shutil.copytree(workdir, tmp_path / "run")
    config = parse("--config.num_steps=5", "--config.eval.yardsticks=('random',)")
    result = train.main(config, str(tmp_path / "run"))
    assert "resuming after step 4/5" in capsys.readouterr().out
    assert result["steps"] == 5 and result["curve"][:-1] == before["curve"]
    ours = "free (maml)"
    assert result["results"][ours] != before["results"][ours]
    assert set(result["results"]) == {ours, "random initialisation"}
    assert load_model(tmp_path / "run" / "model.npz")[2]["steps"] == 5


def test_sabotage_reaches_teachers_trained_in_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(train.methods, "check_untrained", lambda *_: None)
    seen = []

    def build(config, zoo, run):
        seen.append(zoo)
        raise stopping.Stopped

    monkeypatch.setattr(train.methods, "prepare", build)
    config = parse("--config.zoo.sabotage=0.3")
    assert train.main(config, str(tmp_path)) == {"stopped_at": 0}
    honest, used = load_zoo(tmp_path / "zoo").groups[0], seen[0].groups[0]
    changed = np.asarray(honest.teachers.class_ids != used.teachers.class_ids).any(1)
    assert changed.sum() == 1


def test_finished_run_is_not_trained_again(finished, teachers, tmp_path, monkeypatch):
    workdir, result = finished
    shutil.copytree(workdir, tmp_path / "free")
    monkeypatch.setattr(
        loop.checkpointing.Checkpoints,
        "save",
        lambda *a, **k: pytest.fail("a finished run was trained again"),
    )
    argv = ["run.py", *make.command("free", tmp_path, teachers)]
    again = train.main(command_line.parse(argv).config, str(tmp_path / "free"))
    assert again["results"] == result["results"]


def test_teachers_that_are_named_take_the_place_of_those_to_be_trained():
    named = "--config.zoo.path=somewhere"
    assert parse(named).zoo.pretrain.num_teachers == 0
    assert parse().zoo.pretrain.num_teachers == 3
    with pytest.raises(InputError, match="exclude each other"):
        checks.validate(parse(named, "--config.zoo.pretrain.num_teachers=3"))


@pytest.mark.parametrize(
    "name", ["panel", "pretrain_cifar_fs_conv4", "compare_cifar_fs"]
)
def test_help_lists_every_key_of_a_config(name, capsys):
    file = f"experiments/configs/{name}.py"
    argv = ["run.py", "--help", f"--config={file}", "--config.seed=7"]
    assert run.main(argv) == 0
    told = capsys.readouterr().out
    keys = files.flatten(command_line.parse(["run.py", f"--config={file}"]).config)
    said = {line.split("=")[0] for line in told.splitlines() if line[:8] == "--config"}
    # A network's keywords stand under its name.
    said = {each.removeprefix("--config.") for each in said}
    assert all(any(key == s or key.startswith(f"{s}.") for s in said) for key in keys)
    assert "--config.seed=7" in told
    assert run.main(["run.py", "--help", "--config=nothing.py"]) == 2


def test_help_lists_the_configs_and_commands_that_are_understood(capsys):
    assert run.main(["run.py", "--help"]) == 0
    told = capsys.readouterr().out
    named = {line.split()[0] for line in told.splitlines() if line[:2] == "  "}
    files_there = (config_files.REPOSITORY / "experiments/configs").glob("*.py")
    for file in files_there:
        assert (file.name in named) == ("def get_config(" in file.read_text())
    assert all(config_files.listed().values())
    lines = re.sub(r"\\\n\s*", " ", told)
    shown = [shlex.split(x) for x in re.findall(r"(?m)^  python (.*)$", lines)]
    assert len(shown) == 3
    for _, *words in shown:
        checks.validate(command_line.parse(["run.py", *words]).config)
    for words in re.findall(r"--config\.[a-z.]+=[^\s\"]+", lines):
        if "KEY" not in words:
            panel = "--config=experiments/configs/panel.py"
            command_line.parse(["run.py", panel, words.rstrip(",")])


@pytest.mark.slow
def test_pretraining_stops_and_resumes(tmp_path, monkeypatch):
    config = "experiments/configs/pretrain_cifar_fs_conv4.py:smoke"
    argv = ["run.py", f"--config={config}", "--config.pretrain.model.kwargs.width=4"]
    argv += ["--config.pretrain.num_teachers=2"]  # Three steps an epoch, as by default.
    argv += ["--config.pretrain.train_fraction=0.2", "--config.pretrain.batch_size=40"]
    straight = command_line.parse(argv).config
    pretrain_zoo.main(straight, str(tmp_path / "a"))
    stop = stopping.StopRequest
    with monkeypatch.context() as patch:
        patch.setattr(stop, "reached", lambda self, step: step == 1)
        outcome = pretrain_zoo.main(straight, str(tmp_path / "b"))
    assert outcome == {"stopped_at": 1}
    pretrain_zoo.main(straight, str(tmp_path / "b"))
    # One after the other they are the same teachers, and the finished are kept.
    parts = command_line.parse([*argv, "--config.pretrain.at_once=1"]).config
    second = tmp_path / "c/pretraining/teachers_1_to_1"
    with monkeypatch.context() as patch:
        patch.setattr(
            stop, "reached", lambda self, step: (second / "checkpoints").exists()
        )
        assert pretrain_zoo.main(parts, str(tmp_path / "c")) == {"stopped_at": 1}
    first = tmp_path / "c/pretraining/teachers_0_to_0/zoo/zoo.json"
    written = first.stat().st_mtime_ns
    pretrain_zoo.main(parts, str(tmp_path / "c"))
    assert first.stat().st_mtime_ns == written
    zoos = [load_zoo(tmp_path / name / "zoo") for name in "abc"]
    for other in zoos[1:]:
        assert other.class_names == zoos[0].class_names
        (a,), (b,) = zoos[0].groups, other.groups
        np.testing.assert_array_equal(a.accuracy, b.accuracy)
        jax.tree.map(np.testing.assert_array_equal, a.teachers, b.teachers)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.eval.select=test", "never test"),
        ("--config.algorithm=fre", "choose one of free, episodic"),
        ("--config.learner.kind=mml", "choose one of maml, anil, protonet"),
        ("--config.student.name=conv5", "unknown model 'conv5'"),
        ("--config.way=9", "zoo.pretrain.way=5: teachers of fewer classes than"),
        ("--config.eval.queries=500", "an episode needs 501"),
        ("--config.replay.queries=500", "images_per_class=6 recovers fewer"),
        ("--config.align.distill=kll", "choose one of kl, prob_dot"),
        ("--config.memory.per_class=1", "exceeds memory.per_class"),
        ("--config.data.name=cifar", "cifar_fs"),
        ("--config.optimizer.name=adamm", "did you mean 'adam'"),
        ("--config.mesh.task=3", "does not fit"),
        ("--config.mesh.local=foo", "choose one of auto, map, vmap"),
        ("--config.eval.yardsticks=('randm',)", "choose one of random"),
        ("--config.eval.every_steps=0", "must be at least 1"),
        ("--config.zoo.path=somewhere", "somewhere"),
        ("--config.zoo.pretrain.train_fraction=1.0", "between 0 and 1"),
    ],
)
def test_bad_config_is_one_clear_line(teachers, tmp_path, capsys, override, message):
    shutil.copytree(teachers, tmp_path / "zoo")
    argv = ["run.py", f"--config={CONFIG}", *TINY, f"--workdir={tmp_path}", override]
    assert run.main([*argv, *ALONE]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def write_images(folder, per_class=21, classes=5):
    split = procedural.make_split("test", images_per_class=per_class, image_size=32)
    for name, images in zip(split.class_names[:classes], split.images, strict=False):
        (folder / name).mkdir(parents=True)
        for i, image in enumerate(images):
            Image.fromarray(image).save(folder / name / f"{i}.png")


def test_zoo_and_data_must_fit(teachers, tmp_path, capsys):
    data = tmp_path / "data"
    for split in ("train", "val", "test"):
        write_images(data / split)
    argv = ["run.py", "--config=experiments/configs/free_cifar_fs_5w1s.py", *TINY]
    argv += ["--config.data.name=image_folder", "--config.data.image_size=32"]
    argv += [f"--config.data.path={data}", f"--config.data.cache_dir={tmp_path}/cache"]
    argv += [
        "--compilation_cache=off",
        "--distributed=off",
        f"--workdir={tmp_path}/run",
    ]
    zoo = load_zoo(teachers)
    other, larger = tmp_path / "other", tmp_path / "larger"
    group = dataclasses.replace(zoo.groups[0], domain="image_folder")
    save_zoo(Zoo((group,), zoo.class_names), other)
    arch = dataclasses.replace(
        group.network,
        image_shape=(48, 48, 3),
        kwargs=(("global_pool", True), ("width", 4)),
    )
    made = toy.random_teachers(arch, 3)._replace(class_ids=group.teachers.class_ids)
    group = dataclasses.replace(group, network=arch, teachers=made)
    save_zoo(Zoo((group,), zoo.class_names), larger)
    for zoo, message in [
        ("", "config.zoo.path is empty"),
        (str(tmp_path / "nowhere"), "nowhere"),
        (str(other), "the zoo knows"),
        (str(larger), "see images of 48 pixels"),
    ]:
        assert run.main([*argv, f"--config.zoo.path={zoo}"]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
        shutil.rmtree(tmp_path / "run", ignore_errors=True)


def test_every_config_parses():
    for path in pathlib.Path(run.REPOSITORY / "experiments/configs").glob("*.py"):
        if path.name in ("common.py", "variants.py", "__init__.py"):
            continue
        for variant in ("", ":smoke", ":seed=3"):
            config = command_line.parse(["run.py", f"--config={path}{variant}"]).config
            assert config.run in run.RUNS


def test_unknown_zoo_section_is_an_input_error():
    with pytest.raises(InputError, match="did you mean"):
        command_line.parse(["run.py", f"--config={CONFIG}", "--config.zoo.pth=x"])


def test_teachers_and_meta_model_compute_in_the_type_that_is_asked():
    config = variants.make(free.Config, variants.CIFAR_FS)
    config.student.kwargs.width = 4
    preset = inputs.preset(config.data)
    arch = make_network(
        "conv4",
        num_classes=5,
        image_shape=(preset.image_size, preset.image_size, 3),
        mean=preset.mean,
        std=preset.std,
        width=4,
    )
    init = jax.jit(jax.vmap(arch.init))
    teachers = Teachers(
        init(jax.random.split(jax.random.key(0), 1)), jnp.arange(5)[None]
    )
    zoo = Zoo((ZooGroup(arch, teachers, np.ones(1)),), tuple("abcde"))
    assert inputs.computing_in(zoo, config.dtype).networks == (arch,)
    assert base.student(config, 5) == arch  # So that teachers can be averaged.
    config.dtype = "bfloat16"
    (half,) = inputs.computing_in(zoo, config.dtype).networks
    assert half.module.dtype == "bfloat16" and half == base.student(config, 5)
