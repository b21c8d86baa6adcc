"""Scores during training, and which parameters they select."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from experiments.evaluation.options import EvalOptions
from experiments.evaluation.subject import Subject
from experiments.harness.method import Judge
from experiments.harness.run import Run
from free_jax.errors import InputError
from free_jax.fewshot import evaluation
from free_jax.types import ImageBank


def rule(options: EvalOptions, subject: Subject) -> str | None:
    """The metric whose maximum selects the model; None for the last one.

    Args:
      options: section ``eval``.
      subject: what is judged.

    Raises:
      InputError: the rule would never find a score, or look at the reported classes.
    """
    recovers = subject.recovered is not None or bool(subject.holdouts)
    if options.select == "pseudo" and not recovers:
        raise InputError(
            "config.eval.select=pseudo: this method recovers no images; choose last or "
            "val"
        )
    measured = evaluation.protocols(next(iter(subject.predictors.values())))
    protocol = options.protocol if options.protocol in measured else measured[0]
    return {
        "last": None,
        "val": f"val_{options.shots[0]}shot_{protocol}",
        "pseudo": f"pseudo_{protocol}",
    }[options.select]


def check(options: EvalOptions, splits: Sequence[str]) -> None:
    """Refuses keys of section ``eval`` that contradict each other, or the data.

    Args:
      options: section ``eval``.
      splits: of real images that there are.

    Raises:
      InputError: the rule would never find a score, or look at the reported classes.
    """
    if options.select == "val" and "val" not in splits and options.val_episodes:
        raise InputError(
            "config.eval.select=val: there are no real images to select by; give "
            "config.data.path, or choose last, or pseudo (panel.held_out_teachers)"
        )
    if options.select != "last" and not options.val_episodes:
        raise InputError(
            f"config.eval.select={options.select} needs config.eval.val_episodes > 0"
        )
    if options.select == "val" and options.split == "val":
        raise InputError(
            "config.eval.select=val with config.eval.split=val would report on the "
            "classes that selected the model; use select=last or split=test"
        )


def judge(
    run: Run,
    subject: Subject,
    options: EvalOptions,
    *,
    way: int,
    bank: ImageBank | None,
) -> Judge:
    """Scores on validation classes and, where asked for, on recovered images.

    Args:
      run: what the episodes are drawn from.
      subject: what is judged, by its first predictor.
      options: section ``eval``.
      way: classes of an episode.
      bank: of the validation classes; None where no episodes are drawn of them.

    Raises:
      InputError: see `rule`.
    """
    selects_by = rule(options, subject)
    if not options.val_episodes:
        return Judge(rule=selects_by)
    # Not "evaluation": selection must not see the episodes of the final one.
    key = run.key("selection")

    def evaluator(shots: int, queries: int) -> Callable:
        return evaluation.evaluator(
            next(iter(subject.predictors.values())),
            way=way,
            shots=shots,
            queries=queries,
            num_episodes=options.val_episodes,
            map_tasks=run.map_tasks,
        )

    validation, by_shots = None, {}
    if bank is not None:
        validation = run.place(bank)
        by_shots = {shots: evaluator(shots, options.queries) for shots in options.shots}
    pseudo = None
    if options.select == "pseudo" or subject.holdouts:
        pseudo = evaluator(*subject.pseudo_task)

    def scores(model: Any, state: Any) -> dict[str, float]:
        found: dict[str, float] = {}
        for shots, evaluate in by_shots.items():
            for name, value in evaluate(key, model, validation).items():
                found |= _figures(f"val_{shots}shot_{name}", value, interval=True)
        held = subject.holdouts
        if not held and subject.recovered is not None:
            held = (subject.recovered(state),)
        if pseudo is not None:
            # Before enough classes were recovered there is no pseudo-task to draw.
            ready = [
                bank
                for bank in held
                if int((bank.counts >= sum(subject.pseudo_task)).sum()) >= way
            ]
            # The first by the key that it had when there was no other.
            every = [
                pseudo(run.key("selection", number) if number else key, model, bank)
                for number, bank in enumerate(ready)
            ]
            for name in every[0] if every else ():
                values = [figures[name] for figures in every]
                found |= _figures(f"pseudo_{name}", _together(values))
        return found

    return Judge(scores, selects_by)


def _together(values: Sequence[evaluation.Accuracy]) -> evaluation.Accuracy:
    """The accuracy over the episodes of several banks."""
    if len(values) == 1:
        return values[0]
    rows = np.concatenate([value.per_episode for value in values])
    ci95 = 1.96 * float(rows.std()) / len(rows) ** 0.5
    return evaluation.Accuracy(float(rows.mean()), ci95, rows)


def _figures(
    name: str, value: evaluation.Accuracy, *, interval: bool = False
) -> dict[str, float]:
    """A score for the record; where episodes have none, how many instead."""
    if value.failed:
        return {f"{name}_failed": value.failed}
    found = {name: value.mean}
    if interval and math.isfinite(value.ci95):
        found[f"{name}_ci95"] = value.ci95
    return found
