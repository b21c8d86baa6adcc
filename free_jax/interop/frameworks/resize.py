"""A torch module takes the shapes of given weights: widths, kernels and the head.

Made on torch's "meta" device, where weights take no memory.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from free_jax.errors import InputError

if TYPE_CHECKING:
    import torch

Shapes = dict[str, tuple[int, ...]]


def fit_to_weights(module: "torch.nn.Module", shapes: Shapes) -> dict[str, str]:
    """Every parameter takes the shape of the weight of its name.

    Strides stay; paddings follow the kernels; a block whose input and output have
    become equal adds its input.  Groups are set when images come by (`try_once`).

    Args:
      module: on the meta device.
      shapes: key -> shape.

    Returns:
      What had to be guessed.
    """
    import torch

    said: dict[str, str] = {}
    first = True
    for path, part in module.named_modules():
        tables: list[dict[str, Any]] = [part._parameters, part._buffers]
        for kind in tables:
            for key, value in kind.items():
                shape = shapes.get(f"{path}.{key}" if path else key)
                if value is None or shape is None or shape == tuple(value.shape):
                    continue
                new = torch.empty(shape, dtype=value.dtype, device="meta")
                is_weight = kind is part._parameters
                kind[key] = torch.nn.Parameter(new) if is_weight else new
        if isinstance(part, torch.nn.Conv2d):
            said |= _fit_convolution(module, path, part, first)
            first = False
        elif isinstance(part, torch.nn.LayerNorm) and part.weight is not None:
            part.normalized_shape = tuple(part.weight.shape)
    _fit_residuals(module)
    return said


def _fit_convolution(module: Any, path: str, part: Any, first: bool) -> dict[str, str]:
    """Groups wait for images; a new kernel keeps the size of its output."""
    out, _, *kernel = part.weight.shape
    before = part.kernel_size
    part.out_channels = out
    part.register_forward_pre_hook(_take_groups)
    if tuple(kernel) == before:
        return {}
    part.kernel_size = tuple(kernel)
    if part.stride == before:  # patches
        part.stride = tuple(kernel)
        return {}
    part.padding = tuple(k // 2 for k in kernel)
    size = "x".join(str(k) for k in kernel)
    pool = next((p for p in ("maxpool", "features.pool0") if _has(module, p)), None)
    if first and before == (7, 7) and pool is not None:
        import torch

        part.stride = (1, 1)
        parent, _, child = pool.rpartition(".")
        setattr(module.get_submodule(parent), child, torch.nn.Identity())
        return {"stem": f"{size}, no pooling (guessed from a {size} kernel)"}
    return {f"kernel of {path}": f"{size}, stride {part.stride[0]} (guessed)"}


def _has(module: Any, path: str) -> bool:
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True


def _take_groups(part: Any, inputs: Any) -> None:
    part.in_channels = inputs[0].shape[1]
    part.groups = max(1, part.in_channels // part.weight.shape[1])


def _fit_residuals(module: Any) -> None:
    """Blocks that add their input where it has the shape of their output."""
    import torch

    for part in module.modules():
        for flag in ("use_res_connect", "apply_residual"):
            if not hasattr(part, flag):
                continue
            layers = [m for m in part.modules() if isinstance(m, torch.nn.Conv2d)]
            # Squeeze-and-excitation has 1x1 convolutions of stride 1: they do no harm.
            strides = max(layer.stride[0] for layer in layers)
            # A depthwise convolution comes first where nothing is expanded.
            inputs = layers[0].weight.shape[1]
            if inputs == 1:
                inputs = layers[0].weight.shape[0]
            same = inputs == layers[-1].weight.shape[0]
            setattr(part, flag, strides == 1 and same)


def fit_head(module: "torch.nn.Module", shapes: Shapes, source: str) -> dict[str, str]:
    """Puts the head in place that the weights have.

    Returns:
      What had to be guessed: activations between several layers.

    Raises:
      InputError: a head of other layers than linear ones and batch norms.
    """
    import torch

    if hasattr(module, "avgpool") and hasattr(module, "features"):
        _fit_pool(module, shapes)
    last = [
        path
        for path, part in module.named_modules()
        if isinstance(part, torch.nn.Linear)
    ]
    if not last:
        return {}
    expected = set(module.state_dict())
    path = last[-1]
    while True:
        prefix = f"{path}."
        own = {key for key in expected if key.startswith(prefix)}
        given = {key for key in shapes if key.startswith(prefix)}
        if own == given or {k for k in own ^ given if "num_batches" not in k} == set():
            return {}
        rest = {k for k in (expected - own) ^ (shapes.keys() - given)}
        if given and not {k for k in rest if "num_batches" not in k}:
            break
        if "." not in path:
            return {}  # compared with the weights later
        path = path.rpartition(".")[0]
    inner = {key.removeprefix(prefix): shapes[key] for key in given}
    head, said = _head(inner, path, source)
    parent, _, child = path.rpartition(".")
    setattr(module.get_submodule(parent), child, head)
    return said


def _head(inner: Shapes, path: str, source: str):
    """A linear layer, or a sequence of them by their numbers."""
    import torch

    layers: dict[int, Any] = {}
    for key, shape in inner.items():
        if not key.endswith("weight"):
            continue
        place = key.removesuffix("weight").rstrip(".")
        base = f"{place}." if place else ""
        if len(shape) == 2 and re.fullmatch(r"\d*", place):
            bias = f"{base}bias" in inner
            layer = torch.nn.Linear(shape[1], shape[0], bias=bias, device="meta")
        elif f"{base}running_mean" in inner and place.isdigit():
            layer = torch.nn.BatchNorm1d(shape[0], device="meta")
        else:
            raise InputError(
                f"{source}: its head ({path}.{key} {list(shape)}) is not of linear "
                "layers and batch norms in a row; its code is needed: code: in "
                "teachers.yaml with --trust_code"
            )
        if not place:
            return layer, {}
        layers[int(place)] = layer
    if not layers or max(layers) > 100:
        raise InputError(f"{source}: {path} holds no linear layer; its code is needed")
    sequence: list[Any] = [layers.get(i) for i in range(max(layers) + 1)]
    said = {}
    for i, layer in enumerate(sequence):
        if layer is not None:
            continue
        # The first free place after a layer was an activation, others drop out.
        activation = i > 0 and sequence[i - 1] is not None
        activation = activation and not isinstance(sequence[i - 1], torch.nn.ReLU)
        sequence[i] = torch.nn.ReLU() if activation else torch.nn.Identity()
        if activation:
            said["head"] = f"{len(layers)} layers with ReLU between them (guessed)"
    return torch.nn.Sequential(*sequence), said


def _fit_pool(module: Any, shapes: Shapes) -> None:
    """VGG and AlexNet: the classifier's width tells how far the images were pooled."""
    import torch

    names = [k for k in shapes if re.fullmatch(r"classifier(\.\d+)?\.weight", k)]
    wide = [k for k in shapes if k.startswith("features.") and len(shapes[k]) == 4]
    if not names or not wide or not isinstance(module.avgpool, torch.nn.Module):
        return
    first, last = names[0], wide[-1]
    pixels, rest = divmod(shapes[first][-1], shapes[last][0])
    side = round(pixels**0.5)
    if len(shapes[first]) == 2 and not rest and side * side == pixels:
        module.avgpool = torch.nn.AdaptiveAvgPool2d(side)


def try_once(
    module: "torch.nn.Module",
    state: Mapping[str, np.ndarray],
    image_size: int | None,
    source: str,
) -> None:
    """Runs one image through, by which convolutions learn their groups.

    Raises:
      InputError: the layers do not fit one another.
    """
    import torch

    channels = next((value.shape[1] for value in state.values() if value.ndim == 4), 3)
    side = image_size or 128
    try:
        with torch.no_grad():
            module(torch.zeros(1, channels, side, side))
    except (RuntimeError, ValueError, IndexError) as error:
        reason = str(error).splitlines()[0][:160]
        raise InputError(
            f"{source}: its layers do not join as in torchvision ({reason}); its code "
            "is needed: code: in teachers.yaml with --trust_code"
        ) from error
    for part in module.modules():
        if isinstance(part, torch.nn.Conv2d):
            part._forward_pre_hooks.clear()
