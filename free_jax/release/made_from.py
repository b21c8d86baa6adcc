"""What a model was made from, as plain values that are saved with it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from free_jax.types import PyTree
from free_jax.zoo import Zoo


def made_from(
    zoo: Zoo,
    model: PyTree = None,
    teachers: Sequence[int] | Int[np.ndarray, " n"] | None = None,
) -> list[dict[str, Any]]:
    """The teachers of a model, one entry each, for `save_model`'s notes.

    Args:
      zoo: that the model was trained on.
      model: its variables; a distilled one says how far each teacher was trusted.
      teachers: rows of the zoo that it learned from, in the order of its outputs;
        None: all.

    Returns:
      ``source, network, num_classes, classes, accuracy, trust, licence, guessed``
      of each; None where unknown, a licence of "" where its files state none, and what
      no file says of it and was guessed, e.g. "mean, std".
    """
    rows = range(zoo.num_teachers) if teachers is None else map(int, teachers)
    chosen = list(rows)
    trust = _trust(model, len(chosen))
    sources = zoo.sources
    return [
        {"source": sources[row], **_entry(zoo, row), "trust": each}
        for row, each in zip(chosen, trust, strict=True)
    ]


def _trust(model: PyTree, number: int) -> list[float | None]:
    weights = np.asarray((model or {}).get("descriptions", {}).get("weights", ()))
    if len(weights) != number:
        return [None] * number
    return [float(f"{weight:.6g}") for weight in weights]


def _entry(zoo: Zoo, teacher: int) -> dict[str, Any]:
    number, row = zoo.locate(teacher)
    group = zoo.groups[number]
    ids = np.asarray(group.teachers.class_ids[row])
    accuracy = float(group.accuracy[row])
    return {
        "network": group.network.name,
        "num_classes": group.network.num_classes,
        "classes": [zoo.class_names[i] for i in ids],
        "accuracy": float(f"{accuracy:.6g}") if np.isfinite(accuracy) else None,
        "licence": group.licences[row] if group.licences else None,
        "guessed": group.guesses[row] if group.guesses else None,
    }
