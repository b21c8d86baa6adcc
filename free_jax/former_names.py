"""Former names of modules, so that code written for them still imports.

Each is the new module itself; nothing in this repository uses a former name.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys

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
    "pretraining": "zoo.pretraining",
    "replay": "fewshot.replay",
    "scenes": "inversion.dead_leaves",
    "supervised": "zoo.supervised",
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


def install() -> None:
    """Makes former names importable."""
    sys.meta_path.append(Finder())
