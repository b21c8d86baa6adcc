"""The table that asks whether a judge without data orders as real classes do."""

import json
import sys

import pytest

from benchmarks import choosing
from experiments.configs import panel_ablation_cifar_fs
from experiments.methods import base, checks


def write(folder, judged, real):
    folder.mkdir()
    early = {"step": 1, "distill_loss": 0.5}
    row = {"step": 2, choosing.JUDGE: judged}
    for score in choosing.TRUTH:
        row |= {score: real, f"{score}_ci95": 0.5}
    text = "\n".join(json.dumps(line) for line in (early, row))
    (folder / "metrics.jsonl").write_text(text)
    return str(folder)


def test_orders_by_the_judge_and_correlates_ranks(tmp_path, monkeypatch, capsys):
    runs = [
        write(tmp_path / name, judged, real)
        for name, judged, real in [
            ("a", 30.0, 41.0),
            ("b", 50.0, 40.0),
            ("c", 40.0, 42.0),
        ]
    ]
    monkeypatch.setattr(sys, "argv", ["choosing.py", *runs, str(tmp_path / "none")])
    choosing.main()
    printed = capsys.readouterr().out.splitlines()
    assert [line[2] for line in printed[2:5]] == ["b", "c", "a"]
    # Ranks 3 2 1 against 1 3 2: 1 - 6 * (4 + 1 + 1) / (3 * 8).
    assert printed[5].endswith("-0.50 over 3 settings")


def test_runs_that_held_nothing_out_are_one_clear_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "metrics.jsonl").write_text(json.dumps({"step": 1}))
    monkeypatch.setattr(sys, "argv", ["choosing.py", str(tmp_path / "a")])
    with pytest.raises(SystemExit, match="2"):
        choosing.main()
    assert "config.panel.held_out_classes" in capsys.readouterr().err


@pytest.mark.parametrize("name", panel_ablation_cifar_fs.CHANGES)
@pytest.mark.parametrize("smoke", ["", ",smoke"])
def test_every_ablation_is_a_config_that_can_run(name, smoke):
    config = panel_ablation_cifar_fs.get_config(f"what={name}{smoke}")
    checks.validate(config)
    assert config.eval.split == "val"
    assert base.student(config, 15).num_classes == 15
