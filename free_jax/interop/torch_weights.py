"""PyTorch state_dicts of the released codes <-> Linen variables, in pure NumPy.

A state_dict is a dict of name to `np.ndarray`, with the keys of the released codes.
"""

import math
from typing import Any

import numpy as np
from flax import traverse_util

from free_jax.errors import InputError
from free_jax.interop.layout import (
    COUNTER,
    State,
    classifier_layout,
    copied,
    dump,
    generator_layout,
    load,
    with_counters,
)
from free_jax.models import Generator
from free_jax.types import PyTree
from free_jax.zoo.network import Network

_RESNET_DEPTH = {  # (bottleneck, number of blocks) -> depth
    (False, 4): 10,
    (False, 8): 18,
    (False, 16): 34,
    (True, 16): 50,
    (True, 33): 101,
}


def _canonical(state: State, source: str) -> dict[str, np.ndarray]:
    """Drops wrappers' prefixes, counters and Conv4's second copy of every tensor."""
    if state and all(key.startswith("module.") for key in state):
        state = {key[len("module.") :]: value for key, value in state.items()}
    clean: dict[str, np.ndarray] = {}
    copies = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[-1] == COUNTER:
            continue
        if len(parts) == 5 and parts[0] == parts[2] == "trunk" and parts[3] in "01":
            # Files written by safetensors' save_model keep only one of the copies.
            layer = "C" if parts[3] == "0" else "BN"
            copies[f"trunk.{parts[1]}.{layer}.{parts[4]}"] = (key, value)
        else:
            clean[key] = value
    for name, (key, value) in copies.items():
        if not np.array_equal(clean.setdefault(name, value), value, equal_nan=True):
            raise InputError(
                f"{source}: {key} and {name} must be copies of one tensor but differ; "
                "save the state_dict of the released Conv4 again"
            )
    return clean


def detect(state: State, source: str = "state_dict") -> dict[str, Any]:
    """Tells which released classifier a state_dict belongs to.

    Args:
      state: name to array.
      source: named in errors, e.g. the file.

    Returns:
      ``name``, ``way``, ``channels`` of the images, ``kwargs`` (further fields of the
      module: Conv4's ``width`` and, where set, ``global_pool``), ``grid`` (side of the
      map that the head reads; None where the head pools it) and ``image_size`` (the
      usual size of that grid: 32 for 2, 84 for 5, else 16 * grid; None if unknown).

    Raises:
      InputError: it is none of them.
    """
    state = _canonical(state, source)
    shape = {key: np.shape(value) for key, value in state.items()}
    first = shape.get("trunk.0.C.weight", shape.get("trunk.0.weight", ()))
    blocks = sum(key.endswith(".C1.weight") for key in shape)
    bottleneck = "trunk.2.C3.weight" in shape
    depth = _RESNET_DEPTH.get((bottleneck, blocks))
    map_of: Any = _pooled
    if "trunk.0.C.weight" in shape:
        name, heads, map_of = "conv4", ("trunk.5", "trunk.6"), _conv4_map
    elif "trunk.0.weight" in shape and depth:
        name, heads = f"resnet{depth}", (f"trunk.{4 + blocks}",)
    else:
        found = f"{blocks} residual blocks" if blocks else f"keys {list(shape)[:4]}"
        raise InputError(
            f"{source}: not a teacher of a known architecture ({found}); known are the "
            "released Conv4 and ResNet-10/18/34/50/101"
        )
    head = next((h for h in heads if len(shape.get(f"{h}.weight", ())) == 2), None)
    if head is None or len(first) != 4:
        raise InputError(
            f"{source}: looks like {name} but has no final linear layer "
            f"{' or '.join(h + '.weight' for h in heads)} or no 4-d first kernel; save "
            "the complete state_dict"
        )
    way, features = shape[f"{head}.weight"]
    kwargs, grid = map_of(head, int(first[0]), features, source)
    size = grid and {2: 32, 5: 84}.get(grid, 16 * grid)
    return {
        "name": name,
        "way": int(way),
        "channels": int(first[1]),
        "kwargs": kwargs,
        "grid": grid,
        "image_size": size,
    }


def _pooled(
    head: str, width: int, features: int, source: str
) -> tuple[dict[str, Any], int | None]:
    """A ResNet's head reads no map."""
    del head, width, features, source
    return {}, None


def _conv4_map(
    head: str, width: int, features: int, source: str
) -> tuple[dict[str, Any], int | None]:
    """Conv4's keywords, and the side of the map that its head reads; None if pooled."""
    if head == "trunk.6":
        return {"width": width, "global_pool": True}, None
    grid = math.isqrt(features // width)
    if not grid or grid * grid * width != features:
        raise InputError(
            f"{source}: {head}.weight reads {features} features, which is no "
            f"square map of {width} channels; only square images are supported"
        )
    return {"width": width}, grid


def from_state_dict(
    state: State, network: Network, source: str = "state_dict"
) -> PyTree:
    """Converts a classifier's PyTorch weights.

    Args:
      state: name to array, keys of the released codes.
      network: the network they belong to; see `detect`.
      source: named in errors, e.g. the file.

    Returns:
      Linen variables of NumPy arrays, float32.

    Raises:
      InputError: missing, unexpected, wrongly shaped or non-finite entries.
    """
    layout = classifier_layout(network)
    name = f"{network.name} at {network.image_shape}"
    return load(layout, _canonical(state, source), source, name)


def to_state_dict(variables: PyTree, network: Network) -> dict[str, np.ndarray]:
    """The inverse of `from_state_dict`, complete for ``load_state_dict(strict=True)``.

    Args:
      variables: of one classifier; ``batch_stats`` may be absent (a meta-model has
        none) and become mean 0, variance 1.
      network: its network.

    Returns:
      Name to array, with Conv4's doubled keys and zero batch counters.

    Raises:
      InputError: the variables do not fit, e.g. a whole stack was given.
    """
    layout = classifier_layout(network)
    if "batch_stats" not in variables:
        stats = [path for path in layout.shapes if path[0] == "batch_stats"]
        fill = {"mean": np.zeros, "var": np.ones}
        new = {p[1:]: fill[p[-1]](layout.shapes[p], np.float32) for p in stats}
        variables = {**variables, "batch_stats": traverse_util.unflatten_dict(new)}
    state = with_counters(dump(layout, variables))
    return state | copied(network, state)


def generator_from_state_dict(
    state: State, source: str = "state_dict"
) -> tuple[Generator, PyTree]:
    """Converts a released generator, unconditional or conditional.

    Returns:
      The module, and its variables ``{"params": ...}``.

    Raises:
      InputError: missing, unexpected, wrongly shaped or non-finite entries.
    """
    # Running moments are never used by the generator.
    tails = (COUNTER, "running_mean", "running_var")
    state = {k: v for k, v in state.items() if not k.endswith(tails)}
    shape = {key: np.shape(value) for key, value in state.items()}
    needed = ("l1.0.weight", "conv_blocks.6.weight", "conv_blocks.9.weight")
    absent = [key for key in needed if len(shape.get(key, ())) < 2]
    if absent:
        raise InputError(f"{source}: not a released generator, lacks {absent[0]}")
    width = shape["conv_blocks.6.weight"][0]
    labels = shape["l2.0.weight"][1] if "l2.0.weight" in shape else 0
    outputs, latent_dim = shape["l1.0.weight"]
    side = 4 * math.isqrt(outputs // (width * (1 if labels else 2)))
    module = Generator((side, side, shape["conv_blocks.9.weight"][0]), width, labels)
    layout = generator_layout(module, latent_dim)
    return module, load(layout, state, source, f"a generator of {side}x{side} images")


def generator_to_state_dict(
    variables: PyTree, module: Generator
) -> dict[str, np.ndarray]:
    """The inverse of `generator_from_state_dict`; running moments are 0 and 1."""
    latent_dim = np.shape(variables["params"]["latent"]["kernel"])[0]
    full = dump(generator_layout(module, latent_dim), variables)
    for layer in ("conv_blocks.0", "conv_blocks.3", "conv_blocks.7"):
        full[f"{layer}.running_mean"] = np.zeros_like(full[f"{layer}.bias"])
        full[f"{layer}.running_var"] = np.ones_like(full[f"{layer}.bias"])
    return with_counters(full)
