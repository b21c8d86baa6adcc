"""What the page of a comparison says."""

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from experiments.evaluation import comparison_places, comparison_report
from experiments.harness import page, pictures
from experiments.harness.page import Html

_PLOTS = {
    "accuracy_over_time.png": "Accuracy over recovery and training",
    "accuracy_and_cost.png": "Accuracy and all seconds, evaluation included",
    "recovery_time.png": "Seconds of recovery",
}
_ROWS = "rows are classes, or dead leaves (drawn, recovered from no teacher)"


def results(result: Mapping[str, Any]) -> Sequence[Html]:
    """The table, a row a method."""
    rows = [_signed(comparison_report.formatted(row)) for row in result["rows"]]
    columns = tuple(dict.fromkeys(name for row in rows for name in row))
    told = (
        "Transductive figures, and inductive ones (ind.). An interval is that of all "
        "seeds' episodes together."
    )
    found = [page.paragraph(told), page.table(rows, columns)]
    if by_place := comparison_places.formatted(result["rows"]):
        found.append(page.paragraph(comparison_places.TOLD))
        found.append(page.table(list(map(_signed, by_place)), tuple(by_place[0])))
    return found


def _signed(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: page.signed(cell) for name, cell in row.items()}


def plots(folder: epath.Path) -> Sequence[Html]:
    """Accuracy over time and cost."""
    drawn = [
        page.figure(pictures.file_uri(folder / name), caption)
        for name, caption in _PLOTS.items()
        if (folder / name).exists()
    ]
    return [page.figures(drawn)] if drawn else []


def pictures_of(folder: epath.Path) -> Sequence[Html]:
    """Images that each method recovered, a sheet each."""
    blocks = []
    for method in _folders(folder / "cells"):
        sheets = [seed / "recovered.png" for seed in _folders(method)]
        sheets = [sheet for sheet in sheets if sheet.exists()]
        if sheets:
            uri = pictures.file_uri(sheets[0])
            blocks.append(page.figure(uri, f"{method.name}: {_ROWS}"))
    return [page.figures(blocks)] if blocks else []


def cells(folder: epath.Path) -> Sequence[Html]:
    """The runs that the table is of, each with a page of its own."""
    found = []
    for method in _folders(folder / "cells"):
        for seed in _folders(method):
            name, file = f"{method.name}, {seed.name}", seed / page.PAGE_FILE
            failed = seed / "error.txt"
            if file.exists():
                place = f"cells/{method.name}/{seed.name}/{page.PAGE_FILE}"
                found.append(page.link(place, name))
            elif failed.exists():
                last = failed.read_text().strip().splitlines()[-1:]
                # Without the name of the exception's module.
                told = " ".join(last).rpartition("free_jax.errors.")[2]
                found.append(f"{name}: failed, {told}")
    return [page.items(found)] if found else []


def _folders(folder: epath.Path) -> list[epath.Path]:
    found = folder.iterdir() if folder.exists() else ()
    return sorted(path for path in found if path.is_dir())
