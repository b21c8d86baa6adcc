"""``report.html``: the page of a working directory, made of what is kept in it.

It can be made anew at any time, also of runs of earlier versions, by
``python experiments/report.py --workdir=DIR``.
"""

import json
import os
from collections.abc import Sequence
from typing import Any

from etils import epath

from experiments.evaluation import (
    comparison_sections,
    former_rows,
    run_sections,
    samples,
    teacher_sections,
)
from experiments.harness import chunks, files, metrics, page, same_run
from experiments.harness.page import PAGE_FILE, Part
from free_jax import model_io

_TABLE_FILE = "table.md"


def write(
    folder: epath.PathLike,
    sample: samples.Samples | None = None,
    *,
    upgrade: same_run.Upgrade = dict,
) -> bool:
    """Writes the page of a finished run, a comparison or a trained zoo.

    Args:
      folder: its working directory.
      sample: images and answers, where the folder keeps none.
      upgrade: the flat config of an earlier version as it reads today; a run that is
        opened has one of today already.

    Returns:
      Whether it was written; else one line has said why not.
    """
    path = epath.Path(folder)

    print(f"making {PAGE_FILE}: tables, plots, pictures ...", flush=True)

    def put() -> bool:
        files.write_text(path / PAGE_FILE, _page(path, sample, upgrade))
        return True

    return bool(page.attempted("writing", put)[0])


def say_where(folder: epath.PathLike) -> None:
    """Prints where the page is, if there is one."""
    path = epath.Path(folder) / PAGE_FILE
    if path.exists():
        print(f"look at {path}", flush=True)


def _page(
    folder: epath.Path, sample: samples.Samples | None, upgrade: same_run.Upgrade
) -> str:
    result = former_rows.read_result(folder)
    keys = same_run.read_config(folder, upgrade)
    table = folder / _TABLE_FILE
    title = table.read_text().partition("\n")[0] if table.exists() else ""
    about = [title, f"{os.fspath(folder)}"]
    if "rows" in result:
        name, parts = "Comparison", _of_comparison(folder, result, keys)
    elif "held_out_accuracy" in result:
        name, parts = "Trained teachers", _of_teachers(folder, result, keys)
        about[0] = f"mean held-out accuracy {100 * result['held_out_accuracy']:.1f} %"
    else:
        name = str(result.get("algorithm", "run"))
        parts = _of_run(folder, result, keys, sample)
    lines = [line for line in about if line]
    return page.page(f"Report: {name}", lines, page.made(parts))


def _of_run(
    folder: epath.Path,
    result: dict[str, Any],
    keys: dict[str, Any],
    sample: samples.Samples | None,
) -> Sequence[Part]:
    rows = metrics.read_rows(folder / metrics.METRICS_FILE)
    sample = sample or samples.read(folder)
    trust = _json(folder / "teachers.json")
    model = folder / model_io.MODEL_FILE
    notes = model_io.load_model(model)[2] if model.exists() else {}
    table = folder / _TABLE_FILE
    # Below the title: a table, or why there is none.
    untold = " ".join(table.read_text().splitlines()[1:]).strip()
    asking = chunks.seconds_spent(folder, "described")
    return [
        Part("Results", lambda: run_sections.results(result, trust, untold)),
        Part("Training", lambda: run_sections.training(result, rows)),
        Part(
            "Recovered images",
            lambda: teacher_sections.recovered(sample, folder / "recovered.png"),
        ),
        Part(
            "Teachers, and how far they were believed" if trust else "Teachers",
            lambda: teacher_sections.trusted(notes.get("teachers", ()), trust, result),
        ),
        Part(
            "How differently teachers see the same images",
            lambda: teacher_sections.differences(sample),
        ),
        Part("Cost", lambda: run_sections.costs(result, asking)),
        Part(
            "Config, versions, and how to go on",
            lambda: run_sections.going_on(
                os.fspath(folder), result, keys, model=model.exists()
            ),
        ),
    ]


def _of_comparison(
    folder: epath.Path, result: dict[str, Any], keys: dict[str, Any]
) -> Sequence[Part]:
    return [
        Part("Results", lambda: comparison_sections.results(result)),
        Part("Training", lambda: comparison_sections.plots(folder)),
        Part("Recovered images", lambda: comparison_sections.pictures_of(folder)),
        Part("Cells", lambda: comparison_sections.cells(folder)),
        Part(
            "Config, versions, and how to go on",
            lambda: run_sections.going_on(os.fspath(folder), result, keys, model=False),
        ),
    ]


def _of_teachers(
    folder: epath.Path, result: dict[str, Any], keys: dict[str, Any]
) -> Sequence[Part]:
    rows = result["teachers"]
    columns = tuple(rows[0]) if rows else ()
    return [
        Part("Teachers", lambda: [page.table(rows, columns)]),
        Part(
            "Config, versions, and how to go on",
            lambda: run_sections.going_on(os.fspath(folder), result, keys, model=False),
        ),
    ]


def _json(file: epath.Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.exists() else {}
