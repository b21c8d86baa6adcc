"""Pictures beside a run's table: curves, and images that were recovered."""

from collections.abc import Sequence

import jax
import numpy as np

from experiments.harness import pictures, plots
from experiments.harness.method import Method, Outcome
from experiments.harness.run import Run
from free_jax.fewshot.evaluation import PROTOCOLS
from free_jax.types import ImageBank


def recovered(
    run: Run, method: Method, outcome: Outcome, class_names: Sequence[str]
) -> None:
    """The most recent recovered images, a row for each of twelve classes."""
    if not method.subject.recovered:
        return
    bank = jax.device_get(method.subject.recovered(outcome.state))
    shown = min(10, bank.images.shape[1])
    recent = _most_recent(bank, shown)[:12]
    if len(recent):
        known = np.flatnonzero(np.asarray(bank.counts) >= shown)[:12]
        pictures.save_grid(
            run.path("recovered.png"),
            recent.reshape(-1, *recent.shape[2:]),
            rows=len(recent),
            labels=[str(class_names[i]) for i in known] if class_names else None,
        )


def curves(
    run: Run,
    method: Method,
    outcome: Outcome,
    shots: Sequence[int],
    protocol: str,
    title: str,
) -> None:
    """Accuracy on validation classes over time, and over queries where counted."""
    curve = [row | {"minutes": row["seconds"] / 60} for row in outcome.curve]
    axes = {"accuracy.png": ("minutes", "minutes")}
    if method.meters.queries_of:
        axes["queries.png"] = ("queries", "images that teachers were asked about")
    for file, (x, xlabel) in axes.items():
        series = {}
        for number in shots:
            names = [f"val_{number}shot_{p}" for p in (protocol, *PROTOCOLS)]
            found = (plots.points(curve, x, name) for name in names)
            points = next(filter(None, found), None)
            if points:
                series[f"{number}-shot, validation classes"] = points
        if series:
            plots.save_curves(
                run.path(file),
                series,
                xlabel=xlabel,
                ylabel="accuracy (%)",
                title=title,
            )


def _most_recent(bank: ImageBank, images: int) -> np.ndarray:
    """The last images stored of every class that has as many, [C', images, h, w, c]."""
    counts, cursor = np.asarray(bank.counts), np.asarray(bank.cursor)
    rows = []
    for class_id in np.flatnonzero(counts >= images):
        index = (cursor[class_id] - 1 - np.arange(images)) % counts[class_id]
        rows.append(np.asarray(bank.images[class_id])[index])
    shape = (0, images, *bank.images.shape[2:])
    return np.stack(rows) if rows else np.zeros(shape, np.uint8)
