"""The picture of accuracy against seconds, from files of finished runs."""

import json
import sys

import pytest

from benchmarks import accuracy_over_time
from experiments.harness import plots


def write(folder, **result):
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def cell(mean):
    return {"1": {"inductive": {"mean": mean, "ci95": 0.5}}}


@pytest.fixture
def drawn(monkeypatch):
    found = {}
    monkeypatch.setattr(
        plots, "save_curves", lambda path, series, **kw: found.update(series)
    )
    return found


def run(monkeypatch, *argv):
    monkeypatch.setattr(sys, "argv", ["accuracy_over_time.py", *map(str, argv)])
    accuracy_over_time.main()


def test_curves_and_level_lines(tmp_path, monkeypatch, capsys, drawn):
    metric = "val_1shot_inductive"
    curve = [
        {"seconds": 60.0, metric: 30.0, f"{metric}_ci95": 2.0},
        {"seconds": 90.0, "loss": 1.0},
        {"seconds": 120.0, metric: 40.0, f"{metric}_ci95": 2.0},
    ]
    learned = write(tmp_path / "a", curve=curve, results=cell(50.0), split="test")
    level = {"average": cell(25.0), "panel": cell(52.0), "few": {"5": {}}}
    flat = write(tmp_path / "b", curve=[{"seconds": 1.0}], results=level, split="val")
    run(monkeypatch, f"ours={learned}", f"all={flat}")
    assert drawn == {
        "ours": [(1.0, 30.0, 2.0), (2.0, 40.0, 2.0)],
        "average": [(1.0, 25.0, 0.5), (2.0, 25.0, 0.5)],
        "panel": [(1.0, 52.0, 0.5), (2.0, 52.0, 0.5)],
    }
    assert "ours: 40.0 +- 2.0 % after 2 minutes" in capsys.readouterr().out


def test_other_classes_are_not_mixed_in(tmp_path, monkeypatch, capsys, drawn):
    test = write(tmp_path / "a", curve=[], results={"x": cell(1.0)}, split="test")
    for argument, message in [
        (f"x={test}", "its table is on test classes"),
        (f"x={tmp_path / 'nowhere'}", "give NAME=WORKDIR of a finished run"),
        ("x", "give NAME=WORKDIR of a finished run"),
        (f"x={write(tmp_path / 'b', rows=[])}", "its table is on no classes"),
    ]:
        with pytest.raises(SystemExit, match="2"):
            run(monkeypatch, argument)
        assert message in capsys.readouterr().err
    level = write(tmp_path / "c", curve=[], results={"x": cell(1.0)}, split="val")
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, f"x={level}", f"y={level}")
    assert "there is another x" in capsys.readouterr().err
    assert not drawn
