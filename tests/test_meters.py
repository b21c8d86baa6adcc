"""Means of what a run noted, from a file of its metrics."""

import json
import sys

import pytest

from benchmarks import meters


def run(monkeypatch, *argv):
    monkeypatch.setattr(sys, "argv", ["meters.py", *map(str, argv)])
    meters.main()


@pytest.fixture
def noted(tmp_path):
    rows = [{"step": n, "loss": float(n)} for n in (1, 2, 3, 5)]
    rows[1]["share"] = 0.25
    (tmp_path / meters.FILE).write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_means_by_hand(noted, monkeypatch, capsys):
    run(monkeypatch, noted, "--every=2", "--names", "loss", "share")
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["1", "to", "2", "1.500", "0.250"] in said
    assert ["3", "to", "3", "3.000"] in said
    assert ["5", "to", "5", "5.000"] in said


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--names", "los"], "notes no los; choose from loss, share"),
        (["--names", "loss", "--every=0"], "must be at least 1"),
    ],
)
def test_what_cannot_be_told_is_refused(noted, monkeypatch, capsys, argv, message):
    with pytest.raises(SystemExit):
        run(monkeypatch, noted, *argv)
    assert message in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_refused(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path, "--names", "loss")
    assert "give the working directory of a run" in capsys.readouterr().err
