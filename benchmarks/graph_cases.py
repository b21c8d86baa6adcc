"""Usual networks as graphs against the PyTorch modules that they were read from.

Describing images is one forward pass; image gradients are what inversion takes steps
by.  Same weights, same images.  Needs ``free_jax[convert]``.
"""

import contextlib
import functools
import importlib.util
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks.cases import WAY, Case
from free_jax.interop.batches import program_of
from free_jax.interop.export import export_module
from free_jax.models.cpu import depthwise
from free_jax.models.graph import Graph

PACKAGES = ("torchvision", "timm")


def resnet18(side: int) -> torch.nn.Module:
    from torchvision import models

    return models.resnet18(num_classes=WAY)


def mobilenet(side: int) -> torch.nn.Module:
    from torchvision import models

    return models.mobilenet_v3_small(num_classes=WAY)


def efficientnet(side: int) -> torch.nn.Module:
    from torchvision import models

    return models.efficientnet_b0(num_classes=WAY)


def convnext(side: int) -> torch.nn.Module:
    import timm

    return timm.create_model("convnext_atto", num_classes=WAY)


def vit(side: int) -> torch.nn.Module:
    """64 patches and a token, at any size."""
    import timm

    return timm.create_model(
        "vit_tiny_patch16_224", num_classes=WAY, img_size=side, patch_size=side // 8
    )


NETWORKS = (resnet18, mobilenet, efficientnet, convnext, vit)
DEPTHWISE = (mobilenet, efficientnet, convnext)


def build(quick: bool) -> dict[str, Callable[[], Case]]:
    """The cases by name, ``graph_vit_32_describe``; none without the packages."""
    if not all(importlib.util.find_spec(package) for package in PACKAGES):
        return {}
    sizes = [(make, side) for make in NETWORKS for side in (32, 64)]
    found = {}
    for make, side in [*sizes, (resnet18, 224)]:
        images = max(2, (80 if side == 32 else 20 if side == 64 else 4) // (1 + quick))
        for what in ("describe", "gradient"):
            name = f"graph_{make.__name__}_{side}_{what}"
            found[name] = functools.partial(case, make, side, images, what)
            if make in DEPTHWISE:
                again = name.replace("graph_", "depthwise_")
                plain = what == "gradient"  # Describing is the same sum.
                found[again] = functools.partial(
                    case, make, side, images, what, plain=plain
                )
    return found


@functools.lru_cache(1)
def converted(make: Callable, side: int) -> tuple:
    """The module, its program and variables, and the seconds that it took."""
    torch.manual_seed(0)
    module = make(side).eval()
    start = time.perf_counter()
    graph = export_module(module, (3, side, side), source=make.__name__)
    program, variables = program_of(graph, (side, side, 3), source=make.__name__)
    return module, program, variables, time.perf_counter() - start


@contextlib.contextmanager
def differentiated_by_jax() -> Iterator[None]:
    """Depthwise convolutions that are traced within have no gradient of their own."""
    own = depthwise._depthwise
    depthwise._depthwise = depthwise._sum_over_taps
    try:
        yield
    finally:
        depthwise._depthwise = own


def case(
    make: Callable, side: int, images: int, what: str, plain: bool = False
) -> Case:
    module, program, variables, seconds = converted(make, side)
    network = Graph(program.num_classes, program.text)
    variables = jax.tree.map(jnp.asarray, variables)
    pixels = np.random.default_rng(0).normal(size=(images, side, side, 3))
    pixels = pixels.astype(np.float32)
    labels = np.arange(images) % WAY

    def loss(x):
        logits = network.apply(variables, x, norm="running")
        return -jax.nn.log_softmax(logits)[jnp.arange(images), labels].mean()

    describe = jax.jit(lambda x: network.apply(variables, x, norm="running"))
    ours = describe if what == "describe" else jax.jit(jax.grad(loss))
    by_jax = jax.jit(jax.grad(lambda x: loss(x)))
    x = jnp.asarray(pixels)

    def without_own_gradient():
        with differentiated_by_jax():  # Of effect in the first call, which traces.
            return jax.block_until_ready(by_jax(x))

    y = torch.tensor(pixels.transpose(0, 3, 1, 2).copy())
    targets = torch.tensor(labels)

    def eager():
        if what == "describe":
            with torch.no_grad():
                return module(y)
        images = y.clone().requires_grad_()
        value = torch.nn.functional.cross_entropy(module(images), targets)
        return torch.autograd.grad(value, images)[0]

    return Case(
        lambda: jax.block_until_ready(ours(x)),
        eager,
        None,
        1,
        f"batch of {images}",
        {"to convert": seconds},
        without_own_gradient if plain else None,
    )
