"""Values of a config that cannot be meant, refused before anything is computed."""

from typing import Any

from experiments.methods import ALGORITHMS, Choices
from free_jax.baselines import BASELINES
from free_jax.errors import InputError


def validate(config: Any) -> None:
    """Refuses values that cannot be meant.

    Raises:
      InputError: names the key and the remedy.
    """
    _check_choices({"algorithm": (config.algorithm, tuple(ALGORITHMS))})
    choices, positive = ALGORITHMS[config.algorithm].limits(config)
    choices |= {
        "eval.select": (config.eval.select, ("last", "pseudo", "val")),
        "eval.split": (config.eval.split, ("test", "val")),
        "eval.protocol": (config.eval.protocol, ("transductive", "inductive")),
        "dtype": (config.dtype, ("float32", "bfloat16")),
        "mesh.local": (config.mesh.local, ("auto", "map", "vmap")),
        "learner.kind": (config.learner.kind, ("maml", "anil", "protonet")),
    }
    for name in config.eval.yardsticks:
        choices[f"eval.yardsticks ({name})"] = (name, tuple(BASELINES))
    _check_choices(choices)
    positive |= {
        "num_steps": config.num_steps,
        "eval.every_steps": config.eval.every_steps,
        "eval.episodes": config.eval.episodes,
        "eval.queries": config.eval.queries,
        "log.every_steps": config.log.every_steps,
        **{f"eval.shots[{i}]": shots for i, shots in enumerate(config.eval.shots)},
    }
    for key, value in positive.items():
        if value < 1:
            raise InputError(f"config.{key}={value}: must be at least 1")
    if not config.eval.shots:
        raise InputError("config.eval.shots is empty: give at least one, as (1,)")
    if config.max_seconds < 0:
        raise InputError(
            f"config.max_seconds={config.max_seconds}: must not be negative; 0 is no "
            "limit"
        )
    check_zoo(config)


def _check_choices(choices: Choices) -> None:
    for key, (value, known) in choices.items():
        if value not in known:
            hint = "; never test" if key == "eval.select" else ""
            raise InputError(
                f"config.{key}={value!r}: choose one of {', '.join(known)}{hint}"
            )


def check_zoo(config: Any) -> None:
    """Refuses a section ``zoo`` that both loads and trains teachers."""
    pretrain = config.zoo.pretrain
    if config.zoo.apis:
        for key, given in (
            ("path", config.zoo.path),
            ("pretrain.num_teachers", pretrain.num_teachers),
            ("sabotage", config.zoo.sabotage),
        ):
            if given:
                raise InputError(
                    f"config.zoo.apis and config.zoo.{key} exclude each other: the "
                    "teachers are endpoints, or they are here"
                )
    if not pretrain.num_teachers:
        return
    if config.zoo.path:
        raise InputError(
            "config.zoo.path and config.zoo.pretrain.num_teachers exclude each other: "
            "load teachers or train them"
        )
    validate_pretraining(pretrain, "zoo.pretrain")
    if pretrain.way != config.way:
        raise InputError(
            f"config.zoo.pretrain.way={pretrain.way} differs from config.way="
            f"{config.way}"
        )


def validate_pretraining(recipe: Any, section: str) -> None:
    """The same for a section that trains teachers."""
    if not 0 < recipe.train_fraction < 1:
        raise InputError(
            f"config.{section}.train_fraction={recipe.train_fraction}: must be between "
            "0 and 1; the rest measures the teachers"
        )
    for key in ("num_teachers", "way", "epochs", "batch_size"):
        if recipe[key] < 1:
            raise InputError(f"config.{section}.{key}={recipe[key]}: must be positive")
