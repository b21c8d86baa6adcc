"""``result.json`` of every format, and cells of a table that are measured once."""

import contextlib
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import toy

from experiments.evaluation import final, former_rows
from experiments.harness import results, stopping
from experiments.harness.method import Outcome
from experiments.harness.run import Run
from free_jax import baselines
from free_jax.fewshot.evaluation import Accuracy

CELL = {"1": {"inductive": {"mean": 40.0, "ci95": 1.0}}}
FORMER = {
    "schema_version": 1,
    "config_hash": "0" * 12,
    "algorithm": "yardsticks",
    "seconds": 3.0,
    "results": {
        "panel distilled, centroids": CELL,
        "panel distilled, ridge / rounds": CELL,
        "panel of all teachers, ridge / rounds": CELL,
        "panel of all teachers, whitened, ridge / rounds": CELL,
    },
    "queries": {"queries": 7, "budget": 0, "endpoints": {}},
}


def test_a_result_of_format_1_is_read_with_the_names_of_today(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps(FORMER))
    found = former_rows.read_result(tmp_path)
    assert found == former_rows.read_result(tmp_path / "result.json")
    assert found["format"] == 2 and "schema_version" not in found
    assert found["algorithm"] == "baselines" and found["seconds"] == 3.0
    assert list(found["results"]) == [
        "panel distilled, centroids",
        "panel distilled, ridge / soft k-means",
        baselines.BASELINES["panel_heads"].label,
        baselines.BASELINES["panel_whitened"].label,
    ]
    assert found["queries"] == {"total": 7, "budget": 0, "endpoints": {}}


def test_rows_of_a_comparison_are_renamed_behind_their_cell(tmp_path):
    rows = [{"method": "panel: panel distilled, ridge / rounds", "seeds": [0]}]
    (tmp_path / "result.json").write_text(json.dumps({"rows": rows}))
    (row,) = former_rows.read_result(tmp_path)["rows"]
    assert row["method"] == "panel: panel distilled, ridge / soft k-means"


def test_a_methods_own_entry_hides_none_that_every_run_has(tmp_path):
    result = {"selection": "last"}
    written = results.write_result(tmp_path, result, told={"policy": np.arange(2)})
    assert written["selection"] == "last" and written["policy"] == [0, 1]
    with pytest.raises(ValueError, match="selection"):
        results.write_result(tmp_path, result, told={"selection": []})


def test_what_is_written_is_read_again(tmp_path):
    written = results.write_result(tmp_path, {"results": {"x": CELL}}, {"a": 1})
    assert written["format"] == 2 and former_rows.read_result(tmp_path) == written


@pytest.mark.parametrize("text", ["[]", "{", '{"format": 3}'])
def test_what_is_no_result_is_refused(tmp_path, text):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(ValueError):
        former_rows.read_result(tmp_path)


def run_of(folder, stop):
    return Run(str(folder), 0, lambda x: x, lambda f: f, stop, identity={"a": 1})


def test_cells_are_kept_and_measured_once(tmp_path, monkeypatch):
    measured = []

    def row(name):
        def run(setting):
            measured.append((name, setting.shots))
            if name == "none":
                raise baselines.NotApplicable("no teachers")
            value = Accuracy(50.0, 1.0, np.float32([40, 60]))
            return {"transductive": value, "inductive": value}

        return baselines.Baseline(name, "nothing", run)

    table = {name: row(name) for name in ("a", "none", "b")}
    monkeypatch.setattr(final, "BASELINES", table)
    outcome = Outcome(None, None, 3, 3, 1.0, [], None)
    setting = baselines.make_setting(jax.random.key(0), toy.bank(per_class=1), None)

    def measure(stop, names=("a", "none", "b")):
        return final.measure(
            run_of(tmp_path, stop),
            {},
            outcome,
            setting,
            shots=(1, 5),
            baselines=names,
        )

    def stop_after(cells):
        class Stop:
            @property
            def requested(self):
                return len(measured) >= cells

        return Stop()

    with pytest.raises(stopping.Stopped) as stopped:
        measure(stop_after(2))
    assert stopped.value.step == 3 and measured == [("a", 1), ("none", 1)]
    found = measure(SimpleNamespace(requested=False))
    assert measured == [(n, s) for s in (1, 5) for n in ("a", "none", "b")]
    assert found.results["none"]["5"] == {"skipped": "no teachers"}
    assert found.results["a"]["1"]["inductive"]["per_episode"] == [40, 60]
    assert final.shown(found.results["b"]["5"]) == ("50.00 +- 1.00", "50.00 +- 1.00")
    assert measure(SimpleNamespace(requested=True)).results == found.results
    # Cells of an unfinished run of before keep their values under their new names.
    file = tmp_path / final.CELLS_FILE
    stored = json.loads(file.read_text())
    stored["results"]["panel distilled, ridge / rounds"] = stored["results"].pop("a")
    file.write_text(json.dumps(stored))
    with contextlib.suppress(stopping.Stopped):
        measure(SimpleNamespace(requested=True))
    known = measure(SimpleNamespace(requested=False)).results
    assert "panel distilled, ridge / soft k-means" in known
