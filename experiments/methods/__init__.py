"""Values of ``config.algorithm``: a file each, with ``Config`` and ``build``.

One whose ``build`` takes minutes has ``prepare`` as well, one that cannot use every
teacher ``able``, one that needs none ``TAKES_TEACHERS = False``.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

from etils import epath

from experiments import inputs
from experiments.harness.method import Method
from experiments.harness.run import Run
from experiments.methods import (
    baselines,
    bidf,
    episodic,
    free,
    panel,
    preinverted,
    purer,
    tgr,
    trustworthy,
)
from experiments.methods.options import Common, Settings
from experiments.stages.options import Recovery
from free_jax import zoo as zoo_lib
from free_jax.errors import InputError
from free_jax.zoo import tasks as task_lib

ALGORITHMS = {
    "free": free,
    "episodic": episodic,
    "panel": panel,
    "bidf": bidf,
    "purer": purer,
    "preinverted": preinverted,
    "baselines": baselines,
    "tgr": tgr,
    "trustworthy": trustworthy,
}
__all__ = [
    "ALGORITHMS",
    "Method",
    "able",
    "build",
    "check_untrained",
    "estimated",
    "for_devices",
    "learns_from",
    "may_have_more_steps",
    "paths",
    "prepare",
    "takes_teachers",
]


def build(config: Settings, zoo: zoo_lib.Zoo | None, run: Run) -> Method:
    """Builds what ``config.algorithm`` names.

    Args:
      config: of the run.
      zoo: teachers, or None.
      run: some methods recover images and ask teachers before their first step: it
        takes minutes, is kept in the working directory, and may stop.

    Raises:
      InputError: options that contradict each other or the teachers.
      Stopped: stop was requested; what is finished is kept.
    """
    return prepare(config, zoo, run)()


def prepare(
    config: Settings, zoo: zoo_lib.Zoo | None, run: Run
) -> Callable[[], Method]:
    """Does what `build` does at once; the rest, which may take minutes, is returned.

    Whatever is wrong with options, teachers or an earlier run's images is told here,
    and nothing is written.

    Args:
      config: of the run.
      zoo: teachers, or None.
      run: only looked at.

    Returns:
      What makes the method: recovers images and asks teachers, for some.

    Raises:
      InputError: options that contradict each other or the teachers.
    """
    if takes_teachers(config.algorithm) and zoo is None:
        raise InputError(f"config.zoo.path is empty: {inputs.HOW_TO_GIVE_TEACHERS}")
    module = ALGORITHMS[config.algorithm]
    if hasattr(module, "prepare"):
        return module.prepare(config, zoo, run)
    method = module.build(config, zoo, run)
    return lambda: method


def takes_teachers(algorithm: str) -> bool:
    """Whether a method has teachers; one that learns from real images has none."""
    return getattr(ALGORITHMS[algorithm], "TAKES_TEACHERS", True)


def able(config: Settings, zoo: zoo_lib.Zoo) -> task_lib.Able:
    """The teachers that a method can use: all, for most.

    Args:
      config: of the run.
      zoo: all teachers.

    Raises:
      InputError: it can use none.
    """
    of_method = getattr(ALGORITHMS[config.algorithm], "able", None)
    return of_method(config, zoo) if of_method else task_lib.able(zoo, 1)


def estimated(config: Settings, zoo: zoo_lib.Zoo | None, run: Run) -> str:
    """What a method's stages will take, in words; "" where nobody can say."""
    module = ALGORITHMS[config.algorithm]
    if zoo is None or not hasattr(module, "estimated"):
        return ""
    return module.estimated(config, zoo, run)


def for_devices(config: Settings) -> Common:
    """What opens the run; without a cluster for which there would be no job.

    Jobs are made where images are recovered before the first step, or teachers chosen.
    """
    common, recovery = config.common, getattr(config, "recover", None)
    choice = common.zoo.choose
    asks = choice.teachers and choice.by == "informative"
    if not common.cluster or asks or isinstance(recovery, Recovery):
        return common
    print(
        f"config.cluster={common.cluster}: {config.algorithm} has no jobs for it and "
        "does not connect",
        flush=True,
    )
    return common._replace(cluster="")


def learns_from(config: Settings) -> tuple[str, ...]:
    """Splits of real images that a method's model is made from; none, for most."""
    of_method = getattr(ALGORITHMS[config.algorithm], "learns_from", None)
    return of_method(config) if of_method else ()


def paths(config: Settings) -> dict[str, tuple[str, str]]:
    """What it is, to the key and its value: saved models that a method starts from."""
    of_method = getattr(ALGORITHMS[config.algorithm], "paths", None)
    return of_method(config) if of_method else {}


def may_have_more_steps(config: Settings) -> bool:
    """Whether a run goes on where it ended when it is asked for more steps."""
    module = ALGORITHMS[config.algorithm]
    return getattr(module, "may_have_more_steps", lambda config: True)(config)


def check_untrained(config: Settings, zoo: zoo_lib.Zoo | None, run: Run) -> None:
    """`prepare` for teachers that have yet to be trained.

    Args:
      config: of the run.
      zoo: the teachers with other weights; an earlier run's images are not theirs.
      run: only looked at.

    Raises:
      InputError: options that contradict each other or the teachers.
    """
    recovery = getattr(config, "recover", None)
    if isinstance(recovery, Recovery):
        for key in ("reuse", "against"):
            folder = getattr(recovery, key)
            if folder and not epath.Path(folder).is_dir():
                raise InputError(
                    f"config.recover.{key}={folder}: no such folder; give the workdir "
                    "of a panel run"
                )
        anew = recovery._replace(reuse="", against="")
        config = cast(Any, config)._replace(recover=anew)
    # What is kept in the run's own folder is not of them either.
    prepare(config, zoo, dataclasses.replace(run, workdir=f"{run.workdir}/untrained"))
