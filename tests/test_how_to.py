"""The pages of docs that say how to add something: their code runs."""

import pathlib
import re
import sys
import types

import harness_toy
import jax
import numpy as np
import pytest
import test_contract
import test_models
import toy

import free_jax as fj
from experiments import methods
from experiments import run as command
from experiments.harness import loop
from experiments.harness.method import Schedule
from experiments.inputs import command_line
from experiments.methods import checks
from free_jax import algorithms, models

ROOT = pathlib.Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"<!-- (file|lines|example):? ?(\S*) -->\n```\w+\n(.*?)```\n", re.S)
ROW = re.compile(r"^\| `(\S+)` \|", re.M)
METHOD = (ROOT / "docs" / "how_to" / "add_a_method.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "how_to" / "add_an_architecture.md").read_text()


def blocks(page, kind):
    """File name to the text of each block of a kind."""
    return {file: text for found, file, text in BLOCK.findall(page) if found == kind}


def added(page, file):
    """The lines that a page adds to a file, without what is there already."""
    lines = blocks(page, "lines")[file].splitlines()
    return "\n".join(line[1:] for line in lines if line.startswith("+"))


def entry(page, file):
    """The lines added to a table, without imports."""
    lines = added(page, file).splitlines()
    return "\n".join(line for line in lines if not line.startswith("from "))


def load(monkeypatch, page, file):
    """The module that a page gives, importable until the test ends."""
    name = file.removesuffix(".py").replace("/", ".").removeprefix("tests.")
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    package, _, last = name.rpartition(".")
    if package:
        monkeypatch.setattr(sys.modules[package], last, module, raising=False)
    exec(compile(blocks(page, "file")[file], file, "exec"), module.__dict__)
    return module


@pytest.mark.parametrize(
    ("page", "most", "new"), [(METHOD, 7, 4), (ARCHITECTURE, 5, 1)]
)
def test_pages_name_few_files(page, most, new):
    named = ROW.findall(page)
    assert len(named) == len(set(named)) <= most
    files, lines = blocks(page, "file"), blocks(page, "lines")
    assert set(files) | set(lines) <= set(named)
    # Every file that must be written or changed is shown.
    for file in set(named) - set(files) - set(lines):
        assert f"| `{file}` | only to " in page
    assert len(files) == new and not any((ROOT / file).exists() for file in files)
    assert all((ROOT / file).exists() for file in set(named) - set(files))


def zoo_of(network):
    """One untrained teacher."""
    teachers = toy.random_teachers(network, 1)
    group = fj.ZooGroup(network, teachers, np.full(1, np.nan))
    return fj.Zoo((group,), tuple("abcdefghi"))


@pytest.fixture
def walk(monkeypatch):
    """The page's method, added to every table as the page says."""
    module = load(monkeypatch, METHOD, "free_jax/algorithms/walk.py")
    exec(added(METHOD, "free_jax/algorithms/__init__.py"), names := {})
    monkeypatch.setattr(algorithms, "walk", names["walk"])
    load(monkeypatch, METHOD, "experiments/methods/walk.py")
    file = "experiments/methods/__init__.py"
    table = eval("{" + entry(METHOD, file) + "}", {"walk": methods.walk})
    monkeypatch.setitem(methods.ALGORITHMS, *table.popitem())
    return module


def test_a_new_method_keeps_the_contract(walk, monkeypatch):
    monkeypatch.setattr(test_contract, "CASES", dict(test_contract.CASES))
    exec(added(METHOD, "tests/test_contract.py"), dict(vars(test_contract)))
    of_every_row = [
        test
        for name, test in vars(test_contract).items()
        if name.startswith("test_") and hasattr(test, "pytestmark")
    ]
    assert len(of_every_row) > 5
    for test in of_every_row:
        test("walk")


def test_a_new_method_passes_its_own_test(walk, monkeypatch):
    module = load(monkeypatch, METHOD, "tests/test_walk.py")
    module.test_a_step_goes_a_tenth_of_the_way()


def test_a_new_method_trains_by_its_command(walk, tmp_path, capsys):
    file = tmp_path / "walk_cifar_fs.py"
    page = "experiments/configs/walk_cifar_fs.py"
    file.write_text(blocks(METHOD, "file")[page])
    line = ["run.py", f"--config={file}:smoke", "--config.student.kwargs.width=2"]
    given = command_line.parse([*line, "--config.walk.rate=0.5"]).config
    config = checks.validate(given)
    network = methods.base.student(config.common, config.common.way)
    zoo = zoo_of(network)
    run = harness_toy.open_run(tmp_path / "run")
    method = methods.build(config, zoo, run)
    outcome = loop.train(run, method, Schedule(config.common.num_steps))
    assert outcome.steps == config.common.num_steps == 4
    assert set(outcome.model) == {"params"}
    rows = harness_toy.rows(tmp_path / "run")
    assert len(rows) == 4 and rows[-1]["distance"] < rows[0]["distance"]
    with pytest.raises(fj.InputError, match=r"config.walk.rate=2.*between 0 and 1"):
        checks.validate(command_line.parse([*line, "--config.walk.rate=2.0"]).config)
    with pytest.raises(fj.InputError, match=r"did you mean '?walk.rate"):
        command_line.parse([*line, "--config.walk.rat=0.5"])
    with pytest.raises(fj.InputError, match="own network"):
        methods.build(config, zoo_of(toy.ARCH), run)


@pytest.mark.slow
def test_a_new_method_is_run_by_its_command(walk, tmp_path, monkeypatch, capsys):
    file = tmp_path / "walk_cifar_fs.py"
    file.write_text(blocks(METHOD, "file")["experiments/configs/walk_cifar_fs.py"])
    line = ["run.py", f"--config={file}:smoke", f"--workdir={tmp_path / 'run'}"]
    line += ["--distributed=off", "--config.zoo.pretrain.epochs=1"]
    line += ["--config.eval.baselines=()", "--config.eval.episodes=4"]
    assert command.main(line) == 0
    assert "walk (maml)" in capsys.readouterr().out
    assert fj.load_model(tmp_path / "run" / "model.npz")[0].num_classes == 5


def test_a_new_architecture_is_teacher_and_student(monkeypatch, tmp_path, capsys):
    module = load(monkeypatch, ARCHITECTURE, "free_jax/models/conv1.py")
    file = "free_jax/models/__init__.py"
    exec(added(ARCHITECTURE, file).splitlines()[0], names := {})
    assert names["Conv1"] is module.Conv1
    table = eval("{" + entry(ARCHITECTURE, file) + "}", names)
    monkeypatch.setitem(models._CLASSIFIERS, *table.popitem())
    row = entry(ARCHITECTURE, "tests/test_models.py").strip().rstrip(",")
    test_models.test_classifier_sizes_and_moments(*eval(row), jax.random.key(0))
    monkeypatch.chdir(tmp_path)
    (example,) = blocks(ARCHITECTURE, "example").values()
    exec(compile(example, "add_an_architecture.md", "exec"), found := {})
    told = example.rpartition("# ")[2]
    assert capsys.readouterr().out == told
    network = found["network"]
    variables = fj.take(found["zoo"].teachers[0], 0).variables
    fj.save_model(tmp_path / "model.npz", network, variables)
    assert fj.load_model(tmp_path / "model.npz")[0] == network
