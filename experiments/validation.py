"""Values of a config that cannot be meant, refused before anything is computed."""

from collections.abc import Callable
from typing import Any

from experiments import build, build_inversion
from free_jax.errors import InputError

Choices = dict[str, tuple[Any, tuple[str, ...]]]
YARDSTICKS = ("random", "average", "teacher", "finetune", "panel", "panel_heads")


def validate(config: Any) -> None:
    """Refuses values that cannot be meant.

    Raises:
      InputError: names the key and the remedy.
    """
    _check_choices({"algorithm": (config.algorithm, tuple(build.ALGORITHMS))})
    choices, positive = _OF_ALGORITHM[config.algorithm](config)
    choices |= {
        "eval.select": (config.eval.select, ("last", "pseudo", "val")),
        "eval.split": (config.eval.split, ("test", "val")),
        "eval.protocol": (config.eval.protocol, ("transductive", "inductive")),
        "mesh.local": (config.mesh.local, ("auto", "map", "vmap")),
        "learner.kind": (config.learner.kind, ("maml", "anil", "protonet")),
    }
    for name in config.eval.yardsticks:
        choices[f"eval.yardsticks ({name})"] = (name, YARDSTICKS)
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
    _check_zoo(config)


def _check_choices(choices: Choices) -> None:
    for key, (value, known) in choices.items():
        if value not in known:
            hint = "; never test" if key == "eval.select" else ""
            raise InputError(
                f"config.{key}={value!r}: choose one of {', '.join(known)}{hint}"
            )


def _episodic(config: Any) -> tuple[Choices, dict[str, float]]:
    replay = config.replay
    positive = ("shots", "queries", "episodes_per_update")
    return {}, {f"replay.{key}": replay[key] for key in positive}


def _free(config: Any) -> tuple[Choices, dict[str, float]]:
    inversion = config.inversion
    choices: Choices = {
        "align.distill": (config.align.distill, ("kl", "prob_dot")),
        "inversion.objective.agreement": (
            inversion.objective.agreement,
            ("kl", "prob_dot"),
        ),
        "inversion.outer_state": (inversion.outer_state, ("persistent", "fresh")),
        "inversion.meta_gradient": (inversion.meta_gradient, ("last", "sum")),
        "inversion.keep": (inversion.keep, ("last", "best")),
        "memory.store": (config.memory.store, ("all", "last")),
        "generator.labels": (config.generator.labels, ("none", "split", "concat")),
    }
    positive = {
        "generator.width": config.generator.width,
        "generator.latent_dim": config.generator.latent_dim,
        "inversion.teachers_per_step": inversion.teachers_per_step,
        "inversion.images_per_class": inversion.images_per_class,
    }
    return choices, _episodic(config)[1] | positive


def _panel(config: Any) -> tuple[Choices, dict[str, float]]:
    recover = config.recover
    if config.eval.select == "pseudo":
        raise InputError(
            "config.eval.select=pseudo: the panel keeps no tasks to select by; choose "
            "last or val"
        )
    if recover.images_per_class < 0 or recover.scenes < 0:
        raise InputError(
            f"config.recover: images_per_class={recover.images_per_class} and scenes="
            f"{recover.scenes} must not be negative"
        )
    if not recover.images_per_class and not recover.scenes:
        raise InputError(
            "config.recover: images_per_class=0 and scenes=0 leave nothing to learn "
            "from; ask for one of them"
        )
    choices: Choices = {
        "recover.backend": (recover.backend, build_inversion.BACKENDS),
        "distill.mix": (config.distill.mix, ("none", "mixup", "cutmix")),
    }
    positive = {
        "recover.num_steps": recover.num_steps,
        "recover.teachers_at_once": recover.teachers_at_once,
        "recover.generator_width": recover.generator_width,
        "distill.batch_size": config.distill.batch_size,
    }
    return choices, positive


_OF_ALGORITHM: dict[str, Callable[[Any], tuple[Choices, dict[str, float]]]] = {
    "free": _free,
    "episodic": _episodic,
    "panel": _panel,
}


def _check_zoo(config: Any) -> None:
    pretrain = config.zoo.pretrain
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
