"""Curves of accuracy against answers or teachers, from files of finished runs."""

import json
import sys

import pytest

from benchmarks import panel_curves
from experiments.harness import plots


def write(folder, mean, answers, split="val"):
    folder.mkdir()
    cells = {
        n: {"inductive": {"mean": m, "ci95": 0.5}}
        for n, m in zip(("1", "5"), (mean, mean + 10), strict=True)
    }
    result = {
        "split": split,
        "cost": {"answers": answers, "networks": [{"teachers": answers // 8}] * 2},
        "results": {panel_curves.ROW: cells},
    }
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def run(monkeypatch, *argv):
    monkeypatch.setattr(sys, "argv", ["panel_curves.py", *map(str, argv)])
    panel_curves.main()


def test_seeds_of_a_point_are_averaged_and_losses_told(tmp_path, monkeypatch, capsys):
    drawn = {}
    monkeypatch.setattr(
        plots, "save_curves", lambda path, series, **kw: drawn.update(series)
    )
    runs = [
        write(tmp_path / name, mean, answers)
        for name, mean, answers in [
            ("all0", 46.0, 800),
            ("all1", 44.0, 800),
            ("some", 44.5, 200),
        ]
    ]
    told = tmp_path / "told.json"
    curve = "mine=" + ",".join(map(str, runs))
    run(monkeypatch, curve, f"--json={told}")
    assert drawn == {"mine": [(200, 44.5, 0.5), (800, 45.0, 0.5)]}
    assert json.loads(told.read_text())[0]["5-shot"] == "54.5 +- 0.5 (-0.5)"
    assert "800" in capsys.readouterr().out
    run(monkeypatch, curve, "--over=teachers")
    assert drawn == {"mine": [(50, 44.5, 0.5), (200, 45.0, 0.5)]}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"split": "test"}, "set config.eval.split=val"),
        ({"answers": 0}, "no answers were counted"),
    ],
)
def test_what_is_no_point_is_refused(tmp_path, monkeypatch, capsys, given, message):
    folder = write(tmp_path / "a", 1.0, **{"answers": 5} | given)
    with pytest.raises(SystemExit):
        run(monkeypatch, f"x={folder}")
    assert message in capsys.readouterr().err


def test_an_unfinished_run_is_refused(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, f"x={tmp_path}")
    assert "not the working directory of a finished run" in capsys.readouterr().err
