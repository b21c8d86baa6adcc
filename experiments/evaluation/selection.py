"""Scores during training, and which parameters they select."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from experiments import inputs
from experiments.methods import Experiment
from free_jax import keys
from free_jax.errors import InputError
from free_jax.fewshot import evaluation


class Judge(NamedTuple):
    """How a run looks at itself.

    Attributes:
      scores: ``(params, state) -> {metric: value in %}``, on validation classes and,
        where the rule needs it, on episodes of recovered images.
      rule: the metric whose maximum selects the parameters; None selects the last.
    """

    scores: Callable[[Any, Any], dict[str, float]]
    rule: str | None


def judge(
    config: Any,
    experiment: Experiment,
    place: Callable,
    map_tasks: Callable,
) -> Judge:
    """Builds the judge of ``config.eval``.

    Raises:
      InputError: the selection rule would never find a score.
    """
    options = config.eval
    rule = None
    if options.select == "val":
        rule = f"val_{options.shots[0]}shot_{options.protocol}"
    elif options.select == "pseudo":
        rule = f"pseudo_{options.protocol}"
        if experiment.memory_of is None and experiment.held_out is None:
            raise InputError(
                f"config.eval.select=pseudo: {config.algorithm} recovers no images; "
                "choose last or val"
            )
    if rule and not options.val_episodes:
        raise InputError(
            f"config.eval.select={options.select} needs config.eval.val_episodes > 0"
        )
    if options.select == "val" and options.split == "val":
        raise InputError(
            "config.eval.select=val with config.eval.split=val would report on the "
            "classes that selected the model; use select=last or split=test"
        )
    # Not "evaluation": selection must not see the episodes of the final one.
    key = keys.named(jax.random.key(config.seed), "selection")

    def evaluator(shots: int, queries: int) -> Callable:
        return evaluation.evaluator(
            next(iter(experiment.methods.values())),
            way=config.way,
            shots=shots,
            queries=queries,
            num_episodes=options.val_episodes,
            map_tasks=map_tasks,
        )

    if not options.val_episodes:
        return Judge(lambda params, state: {}, rule)
    bank = place(inputs.evaluation_bank(config, "val"))
    by_shots = {shots: evaluator(shots, options.queries) for shots in options.shots}
    pseudo = None
    held_out = experiment.held_out
    if options.select == "pseudo" or held_out is not None:
        pseudo_shots, pseudo_queries = experiment.pseudo_task
        pseudo = evaluator(pseudo_shots, pseudo_queries)

    def scores(params: Any, state: Any) -> dict[str, float]:
        found: dict[str, float] = {}
        for shots, evaluate in by_shots.items():
            for name, value in evaluate(key, params, bank).items():
                found[f"val_{shots}shot_{name}"] = value.mean
                found[f"val_{shots}shot_{name}_ci95"] = value.ci95
        recovered = held_out
        if recovered is None and experiment.memory_of is not None:
            recovered = experiment.memory_of(state)
        if pseudo is not None and recovered is not None:
            # Before enough classes were recovered there is no pseudo-task to draw.
            ready = int((recovered.counts >= sum(experiment.pseudo_task)).sum())
            if ready >= config.way:
                for name, value in pseudo(key, params, recovered).items():
                    found[f"pseudo_{name}"] = value.mean
        return found

    return Judge(scores, rule)
