"""A config is read as the record of its run, before anything is computed.

What one key may be is said by its annotation; here is what several say together.
"""

from typing import Any

from experiments.harness import files, former_keys, sections
from experiments.inputs.options import TeacherRecipe
from experiments.methods import ALGORITHMS
from experiments.methods.options import Comparison, Pretraining
from free_jax.errors import InputError

# Values of ``config.run`` that are no method's.
OTHERS: dict[str, type] = {"compare": Comparison, "pretrain": Pretraining}


def record_of(run: Any, algorithm: Any) -> type:
    """The record that describes a run's whole config.

    Raises:
      InputError: there is no such algorithm.
    """
    if run in OTHERS:
        return OTHERS[run]
    if algorithm not in ALGORITHMS:
        known = ", ".join(ALGORITHMS)
        raise InputError(f"config.algorithm={algorithm!r}: choose one of {known}")
    return ALGORITHMS[algorithm].Config


def validate(config: Any) -> Any:
    """Reads a config and refuses values that make no run.

    Returns:
      The record, for instance a `free.Config`.

    Raises:
      InputError: names the key and the remedy.
    """
    record = record_of(config.run, config.get("algorithm"))
    found: Any = sections.read(record, config)
    if "algorithm" in config:
        RELATIONS.get(found.algorithm, _nothing)(found)
    if "zoo" in config:
        check_zoo(found)
    return found


def upgraded(flat: dict[str, Any]) -> dict[str, Any]:
    """The flat config of an earlier run, as a run of today would write it."""
    if not former_keys.is_former(flat):
        return flat
    algorithm = former_keys.value_today("algorithm", flat.get("algorithm"))
    record = record_of(flat.get("run"), algorithm)
    return former_keys.upgraded(flat, files.flatten(sections.defaults(record)))


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
    """Refuses a section that is to train teachers and asks for none."""
    recipe = sections.read(TeacherRecipe, recipe, f"config.{section}")
    if recipe.num_teachers < 1:
        raise InputError(
            f"config.{section}.num_teachers={recipe.num_teachers}: must be positive"
        )


def _nothing(config: Any) -> None:
    del config


def _bidf(config: Any) -> None:
    if config.replay.episodes_per_update < 2:
        raise InputError(
            f"config.replay.episodes_per_update={config.replay.episodes_per_update}: "
            "one task of an update is the distillation, so at least 2 are needed"
        )


def _purer(config: Any) -> None:
    if config.icfil.num_steps and config.learner.kind == "protonet":
        raise InputError(
            "config.icfil.num_steps > 0 follows an inner loop, which protonet has not; "
            "choose learner maml or anil, or icfil.num_steps=0"
        )
    if config.init != "random" and config.learner.init_from:
        raise InputError(
            f"config.init={config.init} and config.learner.init_from exclude each "
            "other: start from the teachers, or from a saved model"
        )


def _panel(config: Any) -> None:
    recover = config.recover
    if config.eval.select == "pseudo" and not config.panel.held_out_classes:
        raise InputError(
            "config.eval.select=pseudo: nothing is held out to select by; set "
            "config.panel.held_out_classes, or choose last or val"
        )
    if not recover.images_per_class and not recover.dead_leaves:
        raise InputError(
            "config.recover: images_per_class=0 and dead_leaves=0 leave nothing to "
            "learn from; ask for one of them"
        )
    if not recover.against:
        return
    if recover.reuse or config.panel.held_out_classes or config.panel.teachers:
        raise InputError(
            "config.recover.against: the earlier model was taught by all teachers; "
            "leave recover.reuse, panel.teachers and panel.held_out_classes unset"
        )
    if not recover.images_per_class:
        raise InputError(
            "config.recover.against: no image is recovered (images_per_class=0); ask "
            "for some, or use recover.reuse"
        )


def _preinverted(config: Any) -> None:
    if config.recover.dead_leaves:
        raise InputError(
            f"config.recover.dead_leaves={config.recover.dead_leaves}: they have no "
            "class and make no episodes; set it to 0"
        )
    if config.recover.against:
        raise InputError(
            "config.recover.against: there is no panel's model to be new to; leave it "
            "unset"
        )


def _baselines(config: Any) -> None:
    if config.num_steps != 1 or config.eval.select != "last":
        raise InputError(
            f"config.num_steps={config.num_steps}, config.eval.select="
            f"{config.eval.select}: baselines are not trained; use 1 and last"
        )


RELATIONS = {
    "bidf": _bidf,
    "purer": _purer,
    "panel": _panel,
    "preinverted": _preinverted,
    "baselines": _baselines,
}
