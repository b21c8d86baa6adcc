"""What config files share: variants after the colon, and changes to a method's config.

Nothing here computes; a wrong name is answered at once.
"""

import ast
import difflib
import types
from collections.abc import Mapping
from typing import Any

import ml_collections

from experiments.harness import sections
from free_jax.options import adam

__all__ = [
    "AS_MEASURED",
    "CIFAR_FS",
    "DEFAULTS",
    "SMOKE",
    "adam",
    "make",
    "parse_variant",
]

# Variants every config file offers unless it declares its own; a seed of -1 stands for
# the config's own.
DEFAULTS = {"smoke": False, "reference": False, "cpu": False, "seed": -1}

# What a benchmark's configs change: whose images the result is measured on.
CIFAR_FS = {"data.name": "cifar_fs"}

# How images were recovered for the panel's figures on the benchmark, whose teachers are
# all of one network: its statistics as they are.
AS_MEASURED: dict[str, Any] = {
    "recover.inversion.objective.moments": 1.0,
    "recover.inversion.objective.statistics": "absolute",
    "recover.inversion.objective.balance": False,
}

# A minute on two cores: procedural images, three small teachers, a few steps.
SMOKE: dict[str, Any] = {
    "data.name": "procedural",
    "zoo.pretrain.num_teachers": 3,
    "zoo.pretrain.epochs": 2,
    "zoo.pretrain.model.kwargs.width": 8,
    "student.kwargs.width": 8,
    "num_steps": 4,
    "eval.episodes": 20,
    "eval.val_episodes": 10,
    "eval.every_steps": 2,
    "eval.baselines": ("random", "average", "teacher", "panel"),
}


def make(
    record: type, *changes: Mapping[str, Any], seed: int = -1
) -> ml_collections.ConfigDict:
    """A method's config: its defaults, changed.

    Args:
      record: the method's ``Config``.
      *changes: dotted keys and their values, or whole sections; later ones win.  A
        model keeps its own keywords where a change names one it has not.
      seed: of the run; a negative one leaves what the config says.

    Raises:
      KeyError: a change names a key that the config has not.
    """
    values = sections.defaults(record)
    for each in changes:
        for key, value in each.items():
            _set(values, key, sections.plain(value))
    if seed >= 0:
        values["seed"] = seed
    return ml_collections.ConfigDict(values)


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    section = values
    for name in path:
        section = section[name]
    if path[-1:] != ["kwargs"] and last not in section:
        raise KeyError(f"the config has no key {key}")
    section[last] = value


def parse_variant(variant: str = "", **defaults: Any) -> types.SimpleNamespace:
    """Parses what follows the colon in ``--config=file.py:smoke,seed=3``.

    A name alone switches a flag on; ``name=value`` sets a value of the default's type.

    >>> parse_variant("smoke,seed=3")
    namespace(smoke=True, reference=False, cpu=False, seed=3)

    Args:
      variant: comma-separated names and assignments; may be empty.
      **defaults: known names with their defaults; `DEFAULTS` if none are given.

    Returns:
      The values, by attribute.

    Raises:
      ValueError: a name is unknown or a value has another type.
    """
    defaults = defaults or DEFAULTS
    values = dict(defaults)
    for item in filter(None, (part.strip() for part in variant.split(","))):
        name, assigned, text = item.partition("=")
        if name not in defaults:
            close = difflib.get_close_matches(name, defaults, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(
                f"unknown variant {name!r}{hint} Known: {_listed(defaults)}"
            )
        values[name] = _convert(name, text if assigned else "True", defaults[name])
    return types.SimpleNamespace(**values)


def _convert(name: str, text: str, default: Any) -> Any:
    if isinstance(default, str):
        return text
    try:
        value = ast.literal_eval(text.capitalize() if text.islower() else text)
    except (SyntaxError, ValueError):
        value = text
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if default is not None and type(value) is not type(default):
        kind = type(default).__name__
        raise ValueError(f"variant {name!r} takes a value of type {kind}, not {text!r}")
    return value


def _listed(defaults: dict[str, Any]) -> str:
    return ", ".join(
        # -1 stands for "as the config says" and is no value to give.
        name if isinstance(value, bool) else f"{name}={'N' if value == -1 else value}"
        for name, value in defaults.items()
    )
