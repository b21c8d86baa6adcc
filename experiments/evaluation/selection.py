"""Scores during training, and which parameters they select."""

from collections.abc import Callable
from typing import Any

from experiments import inputs
from experiments.harness.method import Judge, Method
from experiments.harness.run import Run
from free_jax.errors import InputError
from free_jax.fewshot import evaluation


def judge(config: Any, method: Method, run: Run) -> Judge:
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
        if method.recovered is None and method.holdout is None:
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
    key = run.key("selection")

    def evaluator(shots: int, queries: int) -> Callable:
        return evaluation.evaluator(
            next(iter(method.predictors.values())),
            way=config.way,
            shots=shots,
            queries=queries,
            num_episodes=options.val_episodes,
            map_tasks=run.map_tasks,
        )

    if not options.val_episodes:
        return Judge(lambda params, state: {}, rule)
    bank = run.place(inputs.evaluation_bank(config, "val"))
    by_shots = {shots: evaluator(shots, options.queries) for shots in options.shots}
    pseudo = None
    held_out = method.holdout
    if options.select == "pseudo" or held_out is not None:
        pseudo_shots, pseudo_queries = method.pseudo_task
        pseudo = evaluator(pseudo_shots, pseudo_queries)

    def scores(params: Any, state: Any) -> dict[str, float]:
        found: dict[str, float] = {}
        for shots, evaluate in by_shots.items():
            for name, value in evaluate(key, params, bank).items():
                found[f"val_{shots}shot_{name}"] = value.mean
                found[f"val_{shots}shot_{name}_ci95"] = value.ci95
        recovered = held_out
        if recovered is None and method.recovered is not None:
            recovered = method.recovered(state)
        if pseudo is not None and recovered is not None:
            # Before enough classes were recovered there is no pseudo-task to draw.
            ready = int((recovered.counts >= sum(method.pseudo_task)).sum())
            if ready >= config.way:
                for name, value in pseudo(key, params, recovered).items():
                    found[f"pseudo_{name}"] = value.mean
        return found

    return Judge(scores, rule)
