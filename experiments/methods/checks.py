"""A config is read as the record of its run, before anything is computed.

What one key may be is said by its annotation, what several say together by the method's
``check``; here is the rest.
"""

from typing import Any

from experiments.harness import files, sections
from experiments.harness.command_line import Given
from experiments.inputs import former_keys
from experiments.inputs.options import TeacherRecipe, ZooOptions
from experiments.methods import ALGORITHMS
from experiments.methods.options import Comparison, Pretraining
from free_jax.errors import InputError
from free_jax.zoo import attacks

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


def validate(config: Given) -> Any:
    """Reads a config and refuses values that make no run.

    Returns:
      The record, for instance a `free.Config`.

    Raises:
      InputError: names the key and the remedy.
    """
    record = record_of(config.run, config.get("algorithm"))
    found: Any = sections.read(record, config)
    if "algorithm" in config:
        check_split(found)
        check = getattr(ALGORITHMS[found.algorithm], "check", None)
        if check:
            check(found)
        check_zoo(found.common.zoo, found.common.way)
    elif record is Comparison:
        check_zoo(found.zoo, found.way)
    else:
        check_pretraining(found.pretrain, "pretrain")
        if found.mesh.zoo > 1:
            raise InputError(
                f"config.mesh.zoo={found.mesh.zoo}: training teachers has no heads to "
                "split; leave it at 1, and spread teachers by config.mesh.task"
            )
    return found


def upgraded(flat: dict[str, Any]) -> dict[str, Any]:
    """The flat config of an earlier run, as a run of today would write it."""
    names = former_keys.NAMES
    if not names.is_former(flat):
        return flat
    algorithm = names.value_today("algorithm", flat.get("algorithm"))
    record = record_of(flat.get("run"), algorithm)
    return names.upgraded(flat, files.flatten(sections.defaults(record)))


def check_split(config: Any) -> None:
    """Refuses to split what a method holds of teachers where it does not know how."""
    zoo = config.common.mesh.zoo
    if zoo > 1 and not getattr(ALGORITHMS[config.algorithm], "SPLITS_HEADS", False):
        able = [n for n, m in ALGORITHMS.items() if getattr(m, "SPLITS_HEADS", False)]
        raise InputError(
            f"config.mesh.zoo={zoo}: {config.algorithm} has no heads to split (only "
            f"{', '.join(able)} has); leave it at 1, and spread tasks by "
            "config.mesh.task"
        )


def check_zoo(zoo: ZooOptions, way: int) -> None:
    """Refuses a section ``zoo`` that both finds and trains teachers."""
    pretrain = zoo.pretrain
    attacks.check(zoo.attack)
    if zoo.apis:
        for key, given in (
            ("pretrain.num_teachers", pretrain.num_teachers),
            ("attack.share", zoo.attack.share),
        ):
            if given:
                raise InputError(
                    f"config.zoo.apis and config.zoo.{key} exclude each other: the "
                    "teachers are endpoints, with or without others in config.zoo.path"
                )
    if not pretrain.num_teachers:
        return
    if zoo.path:
        raise InputError(
            "config.zoo.path and config.zoo.pretrain.num_teachers exclude each other: "
            "load teachers or train them"
        )
    check_pretraining(pretrain, "zoo.pretrain")
    if pretrain.way < way:
        raise InputError(
            f"config.zoo.pretrain.way={pretrain.way}: teachers of fewer classes than "
            f"config.way={way}, a task's; train them on as many at least"
        )


def check_pretraining(recipe: TeacherRecipe, section: str) -> None:
    """Refuses a section that is to train teachers and asks for none."""
    if recipe.num_teachers < 1:
        raise InputError(
            f"config.{section}.num_teachers={recipe.num_teachers}: must be positive"
        )
