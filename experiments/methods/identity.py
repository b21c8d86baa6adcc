"""By what a run is known: which keys may change, and what its paths hold."""

from typing import Any

from experiments import methods
from experiments.harness.command_line import Given
from experiments.harness.contents import Contents
from experiments.inputs import contents as contents_lib
from experiments.inputs import further
from experiments.methods import measuring
from experiments.methods.options import Common, Settings
from experiments.stages import reuse, teachers
from experiments.stages.options import Recovery

# What may differ between the runs that share a working directory.
MAY_CHANGE = (
    "num_steps",
    "max_seconds",
    # A finished run may be evaluated anew: other episodes, classes, or calibration.
    "icfil",
    "eval.split",
    "eval.shots",
    "eval.queries",
    "eval.episodes",
    "eval.baselines",
    "eval.also",
)


def identity(config: Given, settings: Settings) -> dict[str, Any]:
    """By what a run is known in its working directory."""
    return {
        "identity": config,
        "may_change": may_change(settings),
        "contents": contents(settings),
    }


def may_change(config: Settings) -> tuple[str, ...]:
    """What may differ between the runs that share a working directory."""
    free = MAY_CHANGE
    common: Common = config.common
    if common.eval.select == "last":
        free += ("eval.val_episodes",)  # Scores then decide nothing.
    if not common.data.name and common.eval.select != "val":
        # Real images only measure the model: what it learns from has no data.  Of runs
        # that noted what their data held, `contents` says it of any data.
        free += ("data.path",)
    if not methods.may_have_more_steps(config):
        return tuple(key for key in free if key != "num_steps")
    return free


def contents(config: Settings) -> Contents:
    """What the keys that are paths hold, by which a run is known wherever it is."""
    common: Common = config.common
    learns = methods.learns_from(config)
    learns += ("train",) if common.zoo.pretrain.num_teachers else ()
    learns += ("val",) if common.eval.select == "val" else ()
    looked_at = dict.fromkeys((*learns, *measuring.splits(common)))
    found = {"data": contents_lib.of_data(common.data, learns, tuple(looked_at))}
    if teachers.is_given(common.zoo):
        found["zoo"] = contents_lib.of_teachers()  # Told when they are there.
    found |= further.contents(common.eval.also, common.eval.split)
    recovery = getattr(config, "recover", None)
    if isinstance(recovery, Recovery):
        found |= reuse.contents(recovery)
    if path := getattr(config.learner, "init_from", ""):
        named = "model of learner.init_from"
        found[named] = contents_lib.of_file("learner.init_from", path)
    for named, (key, path) in methods.paths(config).items():
        found[named] = contents_lib.of_file(key, path)
    return found
