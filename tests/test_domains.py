"""Zoos of several domains, and a comparison on them, at the smallest size."""

import json
from typing import Any

import numpy as np
import pytest
import toy
from PIL import Image

from experiments import compare
from experiments.configs import compare_domains
from experiments.data import preset, procedural
from experiments.evaluation import comparison_places, comparison_report
from experiments.inputs import command_line, teachers
from experiments.inputs.options import DataOptions, ZooOptions
from experiments.methods import cells
from experiments.methods.cells import Cell
from free_jax import InputError, Zoo, ZooGroup, make_network, save_zoo

CONFIG = "experiments/configs/compare_domains.py:smoke"
SMALL = ["--config.eval.episodes=4", "--config.eval.queries=2", "--config.seeds=(0,)"]
SMALL += ["--config.data.image_size=16"]
# Equal names, each in its own size and colours.
DOMAINS = {"procedural": (16, preset("procedural")), "other": (20, None)}


@pytest.fixture(scope="module")
def zoos(tmp_path_factory):
    """A zoo of each domain, and a folder of images of the second."""
    root = tmp_path_factory.mktemp("zoos")
    names = procedural.class_names("train")
    for seed, (domain, (size, known)) in enumerate(DOMAINS.items()):
        network = make_network(
            "conv4",
            num_classes=5,
            image_shape=(size, size, 3),
            mean=known.mean if known else (0.5,) * 3,
            std=known.std if known else (0.25,) * 3,
            width=4,
        )
        made = toy.random_teachers(network, 2, seed=seed, classes=8)
        group = ZooGroup(network, made, np.full(2, np.nan), domain)
        save_zoo(Zoo((group,), names), root / domain)
    rng = np.random.default_rng(0)
    for number in range(6):
        place = root / "images" / f"class{number}"
        place.mkdir(parents=True)
        for i in range(8):
            pixels = rng.integers(0, 255, (20, 20, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{i}.png")
    return root


@pytest.fixture(scope="module", autouse=True)
def programs_stay():
    """Both cells have the same, and so have other tests; see `test_compare`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare.jax, "clear_caches", lambda: None)
        yield


def test_equal_names_of_two_domains_are_two_classes_of_a_run(zoos):
    options = ZooOptions(path=f"{zoos / 'procedural'},{zoos / 'other'}")
    data = DataOptions(name="procedural", image_size=16)
    zoo = teachers.load_zoo(options, data)
    first, second = (set(np.asarray(t.class_ids).ravel()) for t in zoo.teachers)
    assert not first & second
    assert {zoo.class_names[i].partition("/")[0] for i in second} == {"other"}
    sizes = [network.image_shape[0] for network in zoo.networks]
    assert sizes == [16, 20] and zoo.networks[0].mean != zoo.networks[1].mean
    # One domain alone keeps the names of its data.
    alone = teachers.load_zoo(options._replace(path=str(zoos / "procedural")), data)
    assert alone.class_names == procedural.class_names("train")


def parse(zoos, *extra):
    both = f"{zoos / 'procedural'},{zoos / 'other'}"
    argv = ["run.py", f"--config={CONFIG}", *SMALL, f"--config.zoos.mh={both}"]
    argv += [f"--config.zoos.ss_cub={zoos / 'other'}"]
    argv += [f"--config.eval.also=other:{zoos / 'images'}", *extra]
    return command_line.parse(argv).config


# ProtoNet compiles no inner loop.
CHEAP = (
    "baselines_cifar_fs.py:smoke --config.eval.baselines=\"('teacher',)\" "
    "--config.learner.kind=protonet --config.student.kwargs.width=4"
)


@pytest.fixture(scope="module")
def finished(zoos, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("domains")
    config = parse(zoos, "--config.choose=('baselines','mh_baselines')")
    config.methods = {"baselines": CHEAP}
    return workdir, compare.main(config, str(workdir))


def test_a_cell_is_a_setting_and_a_method_measured_on_every_domain(finished):
    workdir, result = finished
    rows = {row["method"]: row for row in result["rows"]}
    assert {row["cell"] for row in rows.values()} == {
        "mh_baselines",
        "ss_cub_baselines",
    }
    assert "ss_cub_baselines: one teacher, centroids" in rows
    for row in rows.values():
        assert not row["errors"]
        assert list(row["places"]) == ["procedural", "other", "mean"]
        for shots in ("1", "5"):
            found = {p: c[shots]["inductive"] for p, c in row["places"].items()}
            both = [found["procedural"], found["other"]]
            assert found["mean"]["mean"] == pytest.approx(
                np.mean([cell["mean"] for cell in both])
            )
            width = np.hypot(*(cell["ci95"] for cell in both)) / 2
            assert found["mean"]["ci95"] == pytest.approx(width)
    second = (workdir / "table.md").read_text().split(comparison_places.TOLD)[1]
    assert "| method | shots | procedural | other | mean |" in second
    assert (workdir / "report.html").read_text().count(comparison_places.TOLD) == 1
    config = json.loads((workdir / "cells/mh_baselines/seed0/config.json").read_text())
    assert str(config).count("/other") and (workdir / "cells/ss_cub_baselines").is_dir()


def test_a_setting_may_be_added_later(finished, zoos, monkeypatch):
    workdir, _ = finished
    monkeypatch.setattr(compare, "_run", lambda given, cell, path: {"error": path})
    more = f"--config.zoos.sh={zoos / 'procedural'}"
    config = parse(zoos, more, "--config.choose=('sh_panel',)")
    (row,) = compare.main(config, str(workdir))["rows"]
    assert row["errors"] == {"0": str(zoos / "procedural")}


@pytest.mark.slow
def test_every_method_takes_teachers_of_several_domains(zoos, tmp_path):
    config = parse(zoos, "--config.zoos.ss_cub=", "--config.eval.shots=(1,)")
    result = compare.main(config, str(tmp_path))
    assert {row["method"].partition(":")[0] for row in result["rows"]} == {
        f"mh_{name}" for name in compare_domains.SMOKE["methods"]
    }
    assert not any(row["errors"] for row in result["rows"])


def test_names_of_cells_and_of_methods_choose(tmp_path):
    kinds: Any = dict(methods=("panel", "free"), zoos=("mh", "ss"), seeds=(0, 1))
    found = cells.chosen(tmp_path, ("ss_free", "panel", "mh_panel"), **kinds)
    names = [cell.name for cell in found]
    assert names == 2 * ["ss_free", "mh_panel", "ss_panel"]
    assert found[-1] == Cell("panel", 1, tmp_path / "cells/ss_panel/seed1", "ss")
    assert len(cells.chosen(tmp_path, (), **kinds)) == 8
    with pytest.raises(
        InputError, match="unknown sh_free; choose from panel, free, mh"
    ):
        cells.chosen(tmp_path, ("sh_free",), **kinds)
    assert cells.given_zoos({"mh": "a", "ss": ""}) == {"mh": "a"}
    assert cells.given_zoos({"mh": ""}) == {"": ""}


def test_what_has_no_transductive_figure_has_no_mean_of_it():
    both = {"transductive": {"mean": 40.0, "ci95": 3.0}}
    both["inductive"] = {"mean": 30.0, "ci95": 4.0}
    one = {"inductive": {"mean": 50.0, "ci95": 3.0}}
    places = {"a": {"1": both}, "b": {"1": one}}
    mean = comparison_places.with_mean(places)["mean"]["1"]
    assert mean == {"inductive": {"mean": 40.0, "ci95": 2.5}}
    row = {
        "method": "m",
        "accuracy": {"1": both},
        "places": places | {"mean": {"1": mean}},
    }
    (shown,) = comparison_places.formatted([row])
    assert (
        shown["a"] == "40.0 +- 3.0 / 30.0 +- 4.0" and shown["mean"] == "- / 40.0 +- 2.5"
    )
    skipped = {"a": {"1": {"skipped": "no"}}, "b": {"1": both}}
    assert comparison_places.with_mean(skipped)["mean"]["1"] == {}
    assert comparison_report.figure({"mean": "nan", "ci95": 1.0}) == "not finite"
