"""The second table of a comparison: each row on all images that it was measured on."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.evaluation import final
from free_jax.fewshot.evaluation import PROTOCOLS
from free_jax.interop.hub.names import no_formula

MEAN = "mean"
TOLD = (
    "Transductive / inductive. Intervals of the mean take the episodes of different "
    "images as independent."
)


def placed(name: str, place: str, first: str) -> str:
    """What the row of a cell is called on some images; its own are the first."""
    return final.placed(name, "" if place == first else place)


def is_placed(name: str, places: Sequence[str]) -> bool:
    """Whether a row of a cell is another row on further images."""
    return any(name.endswith(final.placed("", place)) for place in places[1:])


def with_mean(
    by_place: Mapping[str, dict[str, dict[str, Any]]],
) -> dict[str, dict[str, dict[str, Any]]]:
    """Accuracies by place and shots, and their mean over the places.

    Args:
      by_place: place to shots to ``{protocol: {mean, ci95}}``, or ``{"skipped": why}``.
    """
    mean: dict[str, dict[str, Any]] = {}
    for shots in next(iter(by_place.values())):
        cells = [found[shots] for found in by_place.values()]
        mean[shots] = {
            protocol: {
                "mean": float(np.mean([cell[protocol]["mean"] for cell in cells])),
                "ci95": float(
                    np.linalg.norm([cell[protocol]["ci95"] for cell in cells])
                    / len(cells)
                ),
            }
            for protocol in PROTOCOLS
            if all(protocol in cell for cell in cells)
        }
    return {**by_place, MEAN: mean}


def formatted(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The table, a row a method and number of shots; empty where there is one place."""
    return [
        {"method": no_formula(row["method"]), "shots": shots}
        | {place: _both(cells[shots]) for place, cells in row["places"].items()}
        for row in rows
        if len(row.get("places", ())) > 1
        for shots in row["accuracy"]
    ]


def _both(cell: Mapping[str, Any]) -> str:
    if "skipped" in cell:
        return f"- ({cell['skipped']})"
    return " / ".join(
        # A network without batch norm has no transductive figure.
        figure(cell[name]) if name in cell else "-"
        for name in PROTOCOLS
    )


def figure(value: Mapping[str, Any]) -> str:
    """A mean and its interval, as tables show them."""
    # Numbers that are not finite are text in files.
    mean, ci95 = float(value["mean"]), float(value["ci95"])
    if not math.isfinite(mean):
        return "not finite"
    return f"{mean:.1f}" + (f" +- {ci95:.1f}" if math.isfinite(ci95) else "")
