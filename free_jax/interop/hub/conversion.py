"""From weights and a network's description to a network of free_jax.

A program that ships or is cached needs the weights alone; otherwise the framework makes
the module, and its graph becomes a program.
"""

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from free_jax.interop.hub.options import HubOptions
from free_jax.interop.hub.reading import Converted

# Kinds whose programs ship or are kept: those that a config and shapes decide.
_IN_LIBRARY = ("huggingface", "timm", "torchvision")


def by_description(
    kind: str,
    config: Mapping[str, Any],
    state: Mapping[str, np.ndarray],
    make: Callable[[], Any],
    source: str,
    options: HubOptions,
) -> Callable[[tuple[int, int, int]], Converted]:
    """What converts a model that files describe.

    Args:
      kind: "huggingface", "timm" or "torchvision".
      config: what decides the computation.
      state: its weights.
      make: makes the framework's module, weights loaded.
      source: named in errors.
      options: of the reading.
    """
    return functools.partial(
        _by_description, kind, config, state, make, source, options
    )


def _by_description(kind, config, state, make, source, options, image_shape_chw):
    from free_jax.interop import program_library, programs

    if kind not in _IN_LIBRARY:
        module = make()
        return converted(*by_module(module, image_shape_chw, source), module)
    nowhere = options.cache_dir == ""
    described: Any = dict(
        image_size=tuple(image_shape_chw[1:]),
        cache_dir=os.devnull if nowhere else options.cache_dir,
    )
    shapes = {key: np.shape(value) for key, value in state.items()}
    known = program_library.find(kind, config, shapes, **described)
    module = make() if known is None or options.check else None
    if known is not None:
        return converted(known, programs.fill(known, state, source), module)
    program, variables = by_module(module, image_shape_chw, source)
    if not nowhere:
        program_library.keep(kind, config, shapes, program, **described)
    return converted(program, variables, module)


def by_module(
    module: Any, image_shape_chw: tuple[int, int, int], source: str
) -> tuple[Any, Any]:
    """A torch module's program and variables.

    Raises:
      InputError: it cannot be traced, or has operators that are not known.
    """
    from free_jax.interop import programs
    from free_jax.interop.export import export_module

    raw = export_module(module, image_shape_chw, source=source)
    renamed = getattr(module, "keys_in_file", None)
    if renamed:
        keys = {name: renamed.get(key, key) for name, key in raw.keys.items()}
        raw = raw._replace(keys=keys)
    c, h, w = image_shape_chw
    return programs.canonical(raw, image_shape=(h, w, c), batch=raw.fixed_batch)


def converted(program: Any, variables: Any, framework: Any = None) -> Converted:
    """A program and its variables as a network with weights."""
    # A program that ships or was kept is perhaps of a sibling with other classes.
    head = variables["params"].get("head")
    classes = program.num_classes if head is None else head["kernel"].shape[1]
    return Converted(
        "graph",
        classes,
        variables,
        {"program": program.text},
        program.gives,
        framework,
    )
