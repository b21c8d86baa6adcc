"""Comparison of methods, pre-inverted memory and baselines, at the smallest size."""

import json
import pathlib
import signal

import jax.numpy as jnp
import numpy as np
import pytest
import toy
from PIL import Image

from experiments import compare, train
from experiments.configs import compare_cifar_fs, compare_domains
from experiments.data import preset, procedural
from experiments.evaluation import comparison_report
from experiments.harness import loop, stopping
from experiments.harness.run import Run
from experiments.inputs import command_line
from experiments.methods import base, cells, checks
from experiments.methods.options import UNENDED
from experiments.stages import recover
from free_jax import (
    InputError,
    Teachers,
    Zoo,
    ZooGroup,
    make_network,
    map_tasks,
    panel,
    save_zoo,
)
from free_jax.baselines import BASELINES
from free_jax.types import Answers, SyntheticImages

CONFIG = "experiments/configs/compare_cifar_fs.py:smoke"
# Cells that compile little: what is tested is the harness. ProtoNet has no inner loop.
SMALL = (
    "--config.student.kwargs.width=4 --config.learner.kind=protonet "
    "--config.replay.queries=2 --config.num_steps=2 --config.eval.val_episodes=2"
)
METHODS = {
    "protonet_real": f"maml_real_cifar_fs.py:smoke {SMALL}",
    "baselines": (
        "baselines_cifar_fs.py:smoke --config.student.kwargs.width=4 "
        "--config.learner.kind=protonet --config.eval.val_episodes=0 "
        "--config.eval.yardsticks=\"('average',)\""
    ),
    "absent": "no_such_method.py",
    "broken": f"preinverted_cifar_fs.py:smoke {SMALL} --config.replay.shots=500",
}


def conv4(width, **kwargs):
    chosen = preset("procedural")
    return make_network(
        "conv4",
        num_classes=5,
        image_shape=(32, 32, 3),
        mean=chosen.mean,
        std=chosen.std,
        width=width,
        **kwargs,
    )


def zoo_of(*groups):
    """A zoo of untrained teachers, (architecture, count) a group."""
    names = procedural.class_names("train")
    made = [
        ZooGroup(
            arch,
            toy.random_teachers(arch, count, seed=seed, classes=8),
            np.full(count, np.nan),
            "procedural",
        )
        for seed, (arch, count) in enumerate(groups)
    ]
    return Zoo(tuple(made), names)


@pytest.mark.parametrize("variant, minutes", [("cpu", 2), ("minutes=20", 20)])
def test_a_budget_decides_what_time_does_not_end(variant, minutes):
    config = compare_cifar_fs.get_config(variant)
    of = {
        name: cells.config_of(config, cells.Cell(name, 0, pathlib.Path()), "")
        for name in config.methods
    }
    assert {cell.max_seconds for cell in of.values()} == {60 * minutes}
    assert of["panel"].num_steps == 200 * minutes
    assert of["panel"].recover.images_per_class == minutes // 2
    untimed = {n for n, cell in of.items() if cell.get("num_steps", 0) < UNENDED}
    assert untimed == {"panel", "baselines"}
    config.max_seconds = 0.0
    with pytest.raises(InputError, match="it is time that ends free"):
        cells.config_of(config, cells.Cell("free", 0, pathlib.Path()), "")


@pytest.mark.parametrize("configs", [compare_cifar_fs, compare_domains])
@pytest.mark.parametrize("minutes", [-1, 0.5, "inf"])
def test_a_budget_of_no_time_is_refused(configs, minutes):
    with pytest.raises(ValueError, match="minutes"):
        configs.get_config(f"minutes={minutes}")


def test_a_domains_budget_decides_teachers_images_and_steps():
    config = compare_domains.get_config("minutes=5,size=32")
    assert (config.max_seconds, config.zoo.num_teachers) == (300, 15)
    panel = cells.config_of(config, cells.Cell("panel", 0, pathlib.Path()), "")
    assert (panel.num_steps, panel.recover.dead_leaves) == (400, 500)
    full = compare_domains.get_config("minutes=0")
    assert (full.max_seconds, full.zoo.num_teachers) == (0, 0)


@pytest.fixture(scope="module")
def zoo_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo") / "zoo"
    save_zoo(zoo_of((conv4(4), 2)), folder)
    return folder


def parse(zoo_path, *extra):
    argv = ["run.py", f"--config={CONFIG}", f"--config.zoo.path={zoo_path}"]
    argv += ["--config.zoo.pretrain.num_teachers=0", "--config.eval.episodes=4"]
    argv += ["--config.eval.queries=2", "--config.eval.shots=(1,)", *extra]
    config = command_line.parse(argv).config
    config.methods = METHODS
    config.choose = tuple(METHODS)
    return config


@pytest.fixture(scope="module", autouse=True)
def let_go():
    """Counts when programs are let go of; they stay, for other tests have the same."""
    times = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare.jax, "clear_caches", lambda: times.append(1))
        yield times


@pytest.fixture(scope="module")
def finished(zoo_path, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("compare")
    yield workdir, compare.main(parse(zoo_path), str(workdir))


def test_one_table_holds_every_method(finished):
    workdir, result = finished
    rows = {row["method"]: row for row in result["rows"]}
    names = [BASELINES[name].label for name in ("random", "average")]
    for method in ("protonet_real", *names):
        accuracy = rows[method]["accuracy"]["1"]
        for protocol in ("transductive", "inductive"):
            assert 0 <= accuracy[protocol]["mean"] <= 100
        assert rows[method]["selection"] == "last"
    trained = rows["protonet_real"]
    assert trained["images_recovered"] == trained["recovery_seconds"] == 0
    assert trained["meta_updates"] == 2 and trained["wall_seconds"] > 0
    assert rows["teacher average"]["meta_updates"] == 0
    stored = json.loads((workdir / "result.json").read_text())
    assert stored["rows"] == json.loads(json.dumps(result["rows"]))
    table = (workdir / "table.md").read_text()
    assert all(f"| {method} |" in table for method in rows)
    for name in ("accuracy_over_time", "accuracy_and_cost"):
        assert np.asarray(Image.open(workdir / f"{name}.png")).std() > 1


def test_a_failed_cell_says_why_and_the_others_go_on(finished):
    workdir, result = finished
    rows = {row["method"]: row for row in result["rows"]}
    assert rows["absent"]["errors"]["0"].startswith("not available: there is no")
    assert "config.replay needs 502 images" in rows["broken"]["errors"]["0"]
    table = (workdir / "table.md").read_text()
    assert "failed: config.replay needs 502 images" in table
    assert "Traceback" in (workdir / "cells/broken/seed0/error.txt").read_text()


def test_programs_of_a_cell_are_let_go_of(finished, let_go):
    assert len(let_go) >= len(finished[1]["rows"]) - 1  # Baselines have two rows.


@pytest.mark.slow
def test_a_cell_equals_the_same_command_alone(finished, tmp_path):
    file, *overrides = METHODS["protonet_real"].split()
    argv = ["run.py", f"--config=experiments/configs/{file}", *overrides]
    argv += ["--config.eval.queries=2", "--config.eval.yardsticks=()"]
    argv += ["--config.eval.episodes=4"]
    alone = train.main(command_line.parse(argv).config, str(tmp_path))
    cell = finished[0] / "cells/protonet_real/seed0/result.json"
    assert alone["results"] == json.loads(cell.read_text())["results"]


def test_finished_cells_are_not_run_again(finished, zoo_path, monkeypatch):
    workdir, result = finished
    monkeypatch.setattr(loop, "train", lambda *a: pytest.fail("a cell was run again"))
    again = compare.main(parse(zoo_path), str(workdir))
    before = {row["method"]: row.get("accuracy") for row in result["rows"]}
    assert before == {row["method"]: row.get("accuracy") for row in again["rows"]}


@pytest.mark.slow
def test_a_stopped_comparison_continues(finished, zoo_path, tmp_path, monkeypatch):
    config = parse(zoo_path)
    config.choose = ("protonet_real", "absent")
    stop = stopping.StopRequest
    with monkeypatch.context() as patch:
        patch.setattr(stop, "reached", lambda self, step: step == 1)
        assert compare.main(config, str(tmp_path)) == {"stopped_at": 0}
    assert not (tmp_path / "table.md").exists()
    again = compare.main(config, str(tmp_path))
    first = {row["method"]: row for row in finished[1]["rows"]}
    for row in again["rows"]:
        assert row.get("accuracy") == first[row["method"]].get("accuracy")


def test_a_signal_within_a_cell_stops_the_comparison_too():
    with stopping.StopRequest() as outer:
        with stopping.StopRequest() as inner:
            signal.raise_signal(signal.SIGTERM)
            assert inner.requested
            # A second signal would end the process.
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        assert outer.requested
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choose": ("fre",)}, "unknown fre; choose from"),
        ({"seeds": ()}, "seeds is empty"),
        ({"zoo.path": ""}, "config.zoo.path is empty"),
        ({"eval.queries": 500}, "an episode needs 501"),
    ],
)
def test_what_cannot_be_compared_is_refused(zoo_path, tmp_path, change, message):
    config = parse(zoo_path)
    for key, value in change.items():
        section, _, name = key.rpartition(".")
        (config[section] if section else config)[name] = value
    with pytest.raises(InputError, match=message):
        compare.main(config, str(tmp_path))


def test_means_and_intervals_over_seeds():
    def cell(seed):
        return compare.Cell("m", seed, None)

    def result(mean, ci95):
        both = {"mean": mean, "ci95": ci95}
        scores = {"1": {"transductive": both, "inductive": both}}
        costs = dict(recovery_seconds=None, images_recovered=6, meta_updates=1)
        costs |= dict(seconds=2.0, evaluation_seconds=1.0)
        return {"results": {"x": scores}, "algorithm": "a", "selection": "last"} | costs

    outcomes = {
        cell(0): result(40.0, 3.0),
        cell(1): result(50.0, 4.0),
        cell(2): {"error": "out of | luck"},
    }
    (row,) = comparison_report._rows(outcomes, (1,))
    accuracy = row["accuracy"]["1"]["transductive"]
    assert accuracy == {"mean": 45.0, "ci95": 2.5, "by_seed": [40.0, 50.0]}
    assert row["wall_seconds"] == 3.0 and row["recovery_seconds"] is None
    shown = comparison_report.formatted(row)
    assert shown["1-shot"] == "45.0 +- 2.5" and shown["recovery s"] == "in training"
    assert shown["seeds"] == "2 (1 failed: out of / luck)"


def test_centrality_finds_the_teacher_that_disagrees():
    rng = np.random.default_rng(0)
    views = rng.normal(size=(50, 3))
    # Three teachers see the same in other coordinates, the last one noise.
    said = [views @ np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in range(3)]
    said = np.stack([*said, rng.normal(size=(50, 3))], axis=1)
    answers = Answers(said.reshape(50, -1), panel.equal_columns(4, 3))
    found = panel.centrality(answers)
    assert found[3] < 0.3 and found[:3].min() > 0.8
    # By its definition, with features in place of kernels.
    x = said[:, 0] - said[:, 0].mean(0)
    y = said[:, 1:].reshape(50, -1)
    y = y - y.mean(0)
    norm = np.linalg.norm
    wanted = norm(y.T @ x) ** 2 / (norm(x.T @ x) * norm(y.T @ y))
    assert found[0] == pytest.approx(wanted, rel=1e-9)


def test_memory_holds_every_teachers_images_by_class(monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    classes = np.asarray([2, 0, 2, -1, 2], np.int32)
    images = rng.integers(0, 255, (5, 32, 32, 3)).astype(np.uint8)
    pool = SyntheticImages(images, classes, np.zeros(5, np.int32), np.ones(5, bool))
    monkeypatch.setattr(panel, "recover_zoo", lambda *_, **__: pool)
    argv = ["run.py", "--config=experiments/configs/preinverted_cifar_fs.py:smoke"]
    config = checks.validate(command_line.parse(argv).config)
    wanted = base.images_wanted(config.recover, config.common)
    zoo = zoo_of((conv4(4), 1))
    run = Run(str(tmp_path), 0, lambda tree: tree, map_tasks, None)
    begun = recover.beginning(zoo, np.arange(zoo.num_teachers), run, wanted)
    bank = recover.pre_inverted(zoo, run, begun, way=5, images_per_episode=4)
    assert bank.counts[:3].tolist() == [1, 0, 3] and int(bank.counts.sum()) == 4
    np.testing.assert_array_equal(bank.images[2], images[[0, 2, 4]])
    np.testing.assert_array_equal(bank.images[0, 0], images[1])


def test_preinverted_counts_images_of_all_teachers_of_a_class(zoo_path):
    arch = conv4(4)
    ids = np.asarray([[0, 1, 2, 3, 4], [0, 1, 2, 3, 5]], np.int32)
    variables = toy.random_teachers(arch, 2).variables
    group = ZooGroup(arch, Teachers(variables, jnp.asarray(ids)), np.full(2, np.nan))
    zoo = Zoo((group,), procedural.class_names("train"))
    four = panel.RecoverOptions(images_per_class=4)
    base.check_episodes(zoo, four, 5, 4)
    # Four classes have 8 images, two have 4: too few for five.
    with pytest.raises(InputError, match="recovers at most 8"):
        base.check_episodes(zoo, four, 5, 5)
    # Ten from a teacher are two of each of its classes.
    with pytest.raises(
        InputError, match=r"images_per_teacher=10 .* recovers at most 4"
    ):
        few = four._replace(images_per_teacher=10)
        base.check_episodes(zoo, few, 5, 4)
