"""Where each Linen leaf sits in a PyTorch state_dict, and how it is permuted.

The keys follow from the Linen tree: ``block3/conv1/kernel`` of a ResNet is
``trunk.5.C1.weight``.  Convolutions are transposed OIHW <-> HWIO; linear layers that
read or write a flattened map are also permuted, because PyTorch flattens channel-major
and Linen channel-minor.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from free_jax.errors import InputError
from free_jax.models import Conv4, Generator, ResNet
from free_jax.types import PyTree
from free_jax.zoo.network import Network

State = Mapping[str, np.ndarray]

COUNTER = "num_batches_tracked"
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_GENERATOR_LAYERS = {
    "latent": "l1.0",
    "label": "l2.0",
    "bn0": "conv_blocks.0",
    "conv0": "conv_blocks.2",
    "bn1": "conv_blocks.3",
    "conv1": "conv_blocks.6",
    "bn2": "conv_blocks.7",
    "conv2": "conv_blocks.9",
}


class Layout(NamedTuple):
    """Linen leaves of a network and their PyTorch names."""

    shapes: dict[tuple[str, ...], tuple[int, ...]]
    keys: dict[tuple[str, ...], str]
    # (channels, rows, columns) of flattened maps that a linear layer reads / writes.
    reads: dict[str, tuple[int, int, int]]
    writes: dict[str, tuple[int, int, int]]


def _layout(abstract: PyTree, layers: Mapping[str, str], reads, writes) -> Layout:
    leaves: Any = traverse_util.flatten_dict(abstract)
    shapes = {path: leaf.shape for path, leaf in leaves.items()}
    keys = {p: f"{layers['/'.join(p[1:-1])]}.{_LEAVES[p[-1]]}" for p in shapes}
    return Layout(shapes, keys, reads, writes)


class _Released(NamedTuple):
    """How the released codes write the classifiers of one module.

    Attributes:
      layers: of a network: PyTorch's names of Linen's layers, and rows and columns of
        the map that the head reads (1, 1 where that is pooled).
      copies: parts of a key, and of the keys that hold the same tensor again.
    """

    layers: Callable[[Network], tuple[dict[str, str], tuple[int, int]]]
    copies: Mapping[str, str] = MappingProxyType({})


def _conv4_layers(network: Network) -> tuple[dict[str, str], tuple[int, int]]:
    layers = {f"conv{i}": f"trunk.{i}.C" for i in range(4)}
    layers |= {f"bn{i}": f"trunk.{i}.BN" for i in range(4)}
    if dict(network.kwargs).get("global_pool", False):
        return layers | {"head": "trunk.6"}, (1, 1)
    rows, cols = (size // 16 for size in network.image_shape[:2])
    return layers | {"head": "trunk.5"}, (rows, cols)


def _resnet_layers(network: Network) -> tuple[dict[str, str], tuple[int, int]]:
    params = network.shapes["params"]
    blocks = [name for name in params if name.startswith("block")]
    layers = {"conv0": "trunk.0", "bn0": "trunk.1"}
    layers["head"] = f"trunk.{4 + len(blocks)}"
    for block in blocks:
        for name in params[block]:
            # conv1 -> C1, bn1 -> BN1, bn_shortcut -> BNshortcut
            torch = name.replace("conv", "C").replace("bn_", "BN")
            torch = torch.replace("bn", "BN")
            layers[f"{block}/{name}"] = f"trunk.{2 + int(block[5:])}.{torch}"
    return layers, (1, 1)


_RELEASED: dict[type, _Released] = {
    Conv4: _Released(_conv4_layers, {".C.": ".trunk.0.", ".BN.": ".trunk.1."}),
    ResNet: _Released(_resnet_layers),
}


def _released(network: Network) -> _Released:
    found = _RELEASED.get(type(network.module))
    if found is None:
        raise InputError(
            f"{network.name}: no released code writes it to a PyTorch file; Conv4 and "
            "ResNet-10/18/34/50/101 are written"
        )
    return found


def classifier_layout(network: Network) -> Layout:
    """The layout of a classifier that a released code writes.

    Raises:
      InputError: none does.
    """
    layers, (rows, cols) = _released(network).layers(network)
    features = network.shapes["params"]["head"]["kernel"].shape[0]
    reads = {"head": (features // (rows * cols), rows, cols)}
    return _layout(network.shapes, layers, reads, {})


def copied(network: Network, state: State) -> dict[str, np.ndarray]:
    """The tensors that a network's PyTorch module names twice, by their other names."""
    copies = _released(network).copies.items()
    return {
        key.replace(part, other): value
        for key, value in state.items()
        for part, other in copies
        if part in key
    }


def generator_layout(module: Generator, latent_dim: int) -> Layout:
    """The layout of a generator; only parameters, since it has no running moments."""
    latents, labels = jnp.zeros((1, latent_dim)), jnp.zeros((1,), jnp.int32)
    abstract = jax.eval_shape(module.init, jax.random.key(0), latents, labels)
    rows, cols = module.image_shape[0] // 4, module.image_shape[1] // 4
    channels = module.width * (1 if module.num_classes else 2)
    writes = {name: (channels, rows, cols) for name in ("latent", "label")}
    return _layout({"params": abstract["params"]}, _GENERATOR_LAYERS, {}, writes)


def _to_linen(layout: Layout, path: tuple[str, ...], value: np.ndarray) -> np.ndarray:
    layer, leaf = path[1], path[-1]
    if leaf == "kernel" and value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    if leaf == "kernel" and layer in layout.reads:
        split = value.reshape(-1, *layout.reads[layer])  # [o, c, h, w]
        return split.transpose(2, 3, 1, 0).reshape(-1, value.shape[0])
    if layer in layout.writes:
        # Kernels are [c*h*w, i], biases [c*h*w].
        split = value.reshape(*layout.writes[layer], -1).transpose(3, 1, 2, 0)
        flat = split.reshape(split.shape[0], -1)
        return flat if leaf == "kernel" else flat[0]
    return value


def _to_torch(layout: Layout, path: tuple[str, ...], value: np.ndarray) -> np.ndarray:
    layer, leaf = path[1], path[-1]
    if leaf == "kernel" and value.ndim == 4:
        return value.transpose(3, 2, 0, 1)
    if leaf == "kernel" and layer in layout.reads:
        c, h, w = layout.reads[layer]
        split = value.reshape(h, w, c, -1).transpose(3, 2, 0, 1)  # [o, c, h, w]
        return split.reshape(split.shape[0], -1)
    if layer in layout.writes:
        c, h, w = layout.writes[layer]
        split = value.reshape(-1, h, w, c).transpose(3, 1, 2, 0)  # [c, h, w, i]
        return split.reshape(c * h * w, -1) if leaf == "kernel" else split.reshape(-1)
    return value


def load(layout: Layout, state: State, source: str, network: str) -> PyTree:
    """Linen variables of a state without counters, or `InputError`."""
    missing = [key for key in layout.keys.values() if key not in state]
    extra = sorted(state.keys() - set(layout.keys.values()))
    if missing or extra:
        kind, keys = ("lacks", missing) if missing else ("has unexpected", extra)
        more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        raise InputError(
            f"{source}: {kind} {', '.join(keys[:3])}{more} for {network}; save the "
            "complete state_dict of the released network"
        )
    flat = {}
    for path, key in layout.keys.items():
        wanted = _to_torch(layout, path, np.empty(layout.shapes[path])).shape
        value = np.asarray(state[key])
        if value.shape != wanted:
            raise InputError(
                f"{source}: {key} has shape {value.shape}, expected {wanted} for "
                f"{network}; check architecture and image size"
            )
        value = np.asarray(_to_linen(layout, path, value), np.float32)
        if not np.isfinite(value).all():
            raise InputError(
                f"{source}: {key} holds values that are not finite; leave the file out "
                "or train the teacher again"
            )
        flat[path] = value
    return traverse_util.unflatten_dict(flat)


def dump(layout: Layout, variables: PyTree) -> dict[str, np.ndarray]:
    """The state of Linen variables; `InputError` where they do not fit."""
    flat: Any = traverse_util.flatten_dict(variables)
    state = {}
    for path, key in layout.keys.items():
        shape = np.shape(flat.get(path))
        if shape != layout.shapes[path]:
            raise InputError(
                f"variables {'/'.join(path)} have shape {shape}, expected "
                f"{layout.shapes[path]}; of a stack, pick one teacher with zoo.take"
            )
        value = _to_torch(layout, path, np.asarray(flat[path], np.float32))
        state[key] = np.ascontiguousarray(value)
    return state


def with_counters(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Adds the batch counters that ``load_state_dict(strict=True)`` asks for."""
    full = {}
    for key, value in state.items():
        full[key] = value
        if key.endswith("running_var"):
            counter = key.removesuffix("running_var") + COUNTER
            full[counter] = np.zeros((), np.int64)
    return full
