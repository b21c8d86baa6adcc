"""From ``dict(name="adam", kwargs={...})`` to an optax transformation."""

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

import optax

from free_jax.errors import InputError
from free_jax.options import Named

# What an option may hold: a transformation, or its name in optax and keywords.
Optimizer = optax.GradientTransformation | Named


def optimizer(config: Optimizer) -> optax.GradientTransformation:
    """Builds the optax optimizer that a config names.

    A keyword whose value is itself a ``dict(name=..., kwargs=...)``, such as
    ``learning_rate``, is resolved to an optax schedule first.

    >>> tx = optimizer({"name": "sgd", "kwargs": {"learning_rate": 0.1}})

    Args:
      config: ``name`` of a function of optax and its ``kwargs``; a transformation is
        returned as it is.

    Raises:
      InputError: optax has no such optimizer, or it takes other arguments.
    """
    if isinstance(config, optax.GradientTransformation):
        return config
    built = _call(config, "optimizer")
    if not isinstance(built, optax.GradientTransformation):
        raise InputError(
            f"optimizer {config['name']!r}: optax.{config['name']} is not an optimizer"
        )
    return built


def _call(config: Mapping[str, Any], role: str) -> Any:
    unknown = sorted(set(config) - {"name", "kwargs"})
    if unknown or "name" not in config:
        raise InputError(
            f"{role} must be dict(name=..., kwargs=...); found keys {sorted(config)}"
        )
    name = config["name"]
    function = getattr(optax, name, None) if not name.startswith("_") else None
    if not inspect.isfunction(function):
        close = difflib.get_close_matches(name, dir(optax), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise InputError(f"{role} {name!r}: optax has no function of that name{hint}")
    kwargs = {
        key: _call(value, "schedule") if _is_call(value) else value
        for key, value in dict(config.get("kwargs") or {}).items()
    }
    try:
        inspect.signature(function).bind(**kwargs)
    except TypeError as error:
        raise InputError(
            f"{role} {name!r}: {error}; optax.{name} takes "
            f"{', '.join(inspect.signature(function).parameters)}"
        ) from None
    return function(**kwargs)


def _is_call(value: Any) -> bool:
    return isinstance(value, Mapping) and "name" in value
