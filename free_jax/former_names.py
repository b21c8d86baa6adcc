"""Former names of modules and of what is in them, so that code written for them runs.

Each is the new one itself, and a name within a module says in a warning what it is
called today; nothing in this repository uses a former name.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

MODULES = {
    "alignment": "algorithms.bell",
    "architecture": "zoo.network",
    "bilevel": "algorithms.bidf_bilevel",
    "black_box": "inversion.answers",
    "calibration": "algorithms.icfil",
    "curriculum": "algorithms.purer_curriculum",
    "distilled": "panel.model",
    "endpoints": "remote",
    "episodes": "fewshot.episodes",
    "evaluation": "fewshot.evaluation",
    "fusion": "baselines",
    "heads": "fewshot.heads",
    "initialization": "fewshot.initialization",
    "memory": "fewshot.banks",
    "metalearning": "fewshot.learners",
    # What was in it is in two modules, and in the package.
    "panel.choice": "panel",
    "panel.describe": "panel.embed",
    "panel.judging": "panel.held_out_tasks",
    "panel.testimony": "panel.agreement",
    "pretraining": "zoo.pretraining",
    "replay": "fewshot.replay",
    "scenes": "inversion.dead_leaves",
    "supervised": "zoo.supervised",
}

# Module -> former names in it and those of today, in the same module.
NAMES: dict[str, dict[str, str]] = {
    "baselines.ensemble": {"described": "embedded"},
    "inversion": {
        "Critic": "ObjectiveGradient",
        "build_critic": "build_objective_gradient",
    },
    "inversion.objective": {"Critic": "ObjectiveGradient", "look": "view"},
    "inversion.recipe": {"build_critic": "build_objective_gradient"},
    "panel": {
        "calibration_images": "fit_images",
        "compiled_describer": "compiled_embedder",
        "describe_bank": "embed_bank",
        "describer": "embedder",
    },
    "panel.agreement": {
        "ENOUGH": "MIN_IMAGES",
        "Evidence": "PanelLabels",
        "Heard": "Agreement",
        "Taken": "HardLabels",
        "heard_out": "agreement_among",
        "unheard": "no_agreement",
    },
    "panel.embed": {
        "compiled_describer": "compiled_embedder",
        "describe_bank": "embed_bank",
        "describe_parts": "embed_parts",
        "describer": "embedder",
    },
    "panel.model": {"calibrate": "fit_statistics", "describe": "embed"},
    "panel.student": {"calibration_images": "fit_images"},
    "panel.trust": {"NOBODY": "NONE_INFORMATIVE"},
}


def module(name: str):
    """The module that `name` was once called, or None."""
    new = MODULES.get(name)
    return importlib.import_module(f"free_jax.{new}") if new else None


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports ``free_jax.<former name>`` as the module it is now."""

    def find_spec(self, fullname, path=None, target=None):
        """A spec of ours for a former name, else None."""
        package, _, former = fullname.partition(".")
        if package != "free_jax" or former not in MODULES:
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def exec_module(self, module):
        """Puts the module under its new name in the place of the empty one."""
        name = module.__name__
        sys.modules[name] = importlib.import_module(
            f"free_jax.{MODULES[name.partition('.')[2]]}"
        )


def attributes(name: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's ``__getattr__`` that knows its former names.

    Args:
      name: of the module.
      names: former name to today's.
    """

    def found(former: str) -> Any:
        today = names.get(former)
        if today is None:
            raise AttributeError(f"module {name!r} has no attribute {former!r}")
        warnings.warn(
            f"{name}.{former} is called {today} now", FutureWarning, stacklevel=2
        )
        return getattr(sys.modules[name], today)

    return found


def install() -> None:
    """Makes former names importable; every module of `NAMES` is loaded by then."""
    sys.meta_path.append(Finder())
    for short, names in NAMES.items():
        # Set from here, so that a checker of types goes on refusing unknown names.
        name = f"free_jax.{short}"
        vars(sys.modules[name])["__getattr__"] = attributes(name, names)
