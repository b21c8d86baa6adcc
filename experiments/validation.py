"""Values of a config that cannot be meant, refused before anything is computed."""

from typing import Any

from experiments import build
from free_jax.errors import InputError


def validate(config: Any) -> None:
    """Refuses, before anything is computed, values that cannot be meant.

    Raises:
      InputError: names the key and the remedy.
    """
    choices = {
        "algorithm": (config.algorithm, tuple(build.ALGORITHMS)),
        "eval.select": (config.eval.select, ("last", "pseudo", "val")),
        "eval.split": (config.eval.split, ("test", "val")),
        "eval.protocol": (config.eval.protocol, ("transductive", "inductive")),
        "mesh.local": (config.mesh.local, ("auto", "map", "vmap")),
        "align.distill": (config.align.distill, ("kl", "prob_dot")),
        "inversion.objective.agreement": (
            config.inversion.objective.agreement,
            ("kl", "prob_dot"),
        ),
        "inversion.outer_state": (
            config.inversion.outer_state,
            ("persistent", "fresh"),
        ),
        "inversion.meta_gradient": (config.inversion.meta_gradient, ("last", "sum")),
        "inversion.keep": (config.inversion.keep, ("last", "best")),
        "memory.store": (config.memory.store, ("all", "last")),
        "generator.labels": (config.generator.labels, ("none", "split", "concat")),
        "learner.kind": (config.learner.kind, ("maml", "anil", "protonet")),
    }
    for name in config.eval.yardsticks:
        known = ("random", "average", "teacher", "finetune", "panel")
        choices[f"eval.yardsticks ({name})"] = (name, known)
    for key, (value, known) in choices.items():
        if value not in known:
            hint = "; never test" if key == "eval.select" else ""
            raise InputError(
                f"config.{key}={value!r}: choose one of {', '.join(known)}{hint}"
            )
    positive = {
        "num_steps": config.num_steps,
        "eval.every_steps": config.eval.every_steps,
        "eval.episodes": config.eval.episodes,
        "eval.queries": config.eval.queries,
        "log.every_steps": config.log.every_steps,
        "replay.shots": config.replay.shots,
        "replay.queries": config.replay.queries,
        "replay.episodes_per_update": config.replay.episodes_per_update,
        "generator.width": config.generator.width,
        "generator.latent_dim": config.generator.latent_dim,
        "inversion.teachers_per_step": config.inversion.teachers_per_step,
        "inversion.images_per_class": config.inversion.images_per_class,
        **{f"eval.shots[{i}]": shots for i, shots in enumerate(config.eval.shots)},
    }
    for key, value in positive.items():
        if value < 1:
            raise InputError(f"config.{key}={value}: must be at least 1")
    if not config.eval.shots:
        raise InputError("config.eval.shots is empty: give at least one, as (1,)")
    pretrain = config.zoo.pretrain
    if pretrain.num_teachers and config.zoo.path:
        raise InputError(
            "config.zoo.path and config.zoo.pretrain.num_teachers exclude each other: "
            "load teachers or train them"
        )
    if pretrain.num_teachers:
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
