"""A run of an earlier version: read, evaluated anew, reused, and never continued."""

import functools
import json
import pathlib
import tarfile

import jax
import numpy as np
import pytest

import free_jax as fj
from experiments import run

ARCHIVE = pathlib.Path(__file__).parent / "golden" / "old_workdir" / "run.tar.gz"
OPTIONS = ["--distributed=off", "--compilation_cache=off"]
WRITTEN = [
    "--config=experiments/configs/panel_cifar_fs.py:smoke",
    "--config.zoo.pretrain.model.kwargs.width=4",
    "--config.student.kwargs.width=4",
    "--config.eval.episodes=8",
    "--config.recover.scenes=10",
]
QUICK = ["--config.eval.yardsticks=()", "--config.eval.val_episodes=2"]


@pytest.fixture
def old(tmp_path):
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "run"


def call(workdir, *arguments) -> int:
    line = ["run.py", *WRITTEN, f"--workdir={workdir}", *arguments, *OPTIONS]
    return run.main(line)


def results(workdir):
    return json.loads((workdir / "result.json").read_text())["results"]


def means(found):
    return sorted(
        (shots, protocol, cell["mean"])
        for cells in found.values()
        for shots, protocols in cells.items()
        for protocol, cell in protocols.items()
    )


def test_its_zoo_and_its_model_load(old):
    zoo = fj.load_zoo(old / "zoo")
    assert zoo.num_teachers == 3
    network = zoo.networks[0]
    images = jax.random.uniform(jax.random.key(0), (5, *network.image_shape))
    teacher = fj.take(zoo.teachers[0], 1)
    logits = jax.jit(network.apply)(teacher.variables, images)
    assert logits.shape == (5, 5) and bool(np.isfinite(logits).all())

    model, variables, _ = fj.load_model(old / "model.npz")
    embed = jax.jit(functools.partial(fj.distilled.embed, model))
    described = embed(variables, images)
    assert described.shape[0] == 5 and bool(np.isfinite(described).all())
    classify = fj.heads.centered(fj.heads.ridge(5), "none")
    scores = classify(described, jax.numpy.arange(5), described)
    np.testing.assert_array_equal(scores.argmax(-1), np.arange(5))


def test_it_is_read_again_without_training(old, capsys):
    before = {path: path.stat().st_mtime_ns for path in (old / "recovered").iterdir()}
    model = (old / "model.npz").read_bytes()
    numbers = means(results(old))
    assert call(old) == 0, capsys.readouterr().err
    assert means(results(old)) == numbers
    assert (old / "model.npz").read_bytes() == model
    for path, when in before.items():
        assert path.stat().st_mtime_ns == when, path


@pytest.mark.slow  # That a finished run is measured again: `test_no_data`.
def test_it_is_evaluated_anew(old, capsys):
    rows = (old / "metrics.jsonl").read_text()
    again = [*QUICK[:1], "--config.eval.episodes=3", "--config.eval.shots=(1,)"]
    assert call(old, *again) == 0, capsys.readouterr().err
    cells = [cell for row in results(old).values() for cell in row.values()]
    assert {len(cell["inductive"]["per_episode"]) for cell in cells} == {3}
    assert (old / "metrics.jsonl").read_text() == rows


def test_its_images_and_answers_are_reused(old, tmp_path, capsys):
    reused = [f"--config.recover.reuse={old}", f"--config.zoo.path={old / 'zoo'}"]
    reused += ["--config.zoo.pretrain.num_teachers=0"]
    short = ["--config.num_steps=1", "--config.eval.episodes=2"]
    shots = "--config.eval.shots=(1,)"
    new = tmp_path / "new"
    assert call(new, *reused, *short, *QUICK, shots) == 0, capsys.readouterr().err
    assert results(new)
    assert not list(new.glob("recovered/group*.npz"))


def test_unfinished_it_is_refused_in_one_line(old, capsys):
    (old / "result.json").unlink()
    assert call(old) == 2
    told = capsys.readouterr().err
    assert "holds an unfinished run of an earlier version" in told
    assert told.count("\n") == 1
