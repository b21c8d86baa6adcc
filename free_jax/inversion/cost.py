"""What a network's images cost, in multiply-adds counted from its own program.

The field compares inversion methods by N_iter x N_img x GFLOPs: gradient steps, images
of a step, and the cost of one image's gradient through the teacher.  The GFLOPs that
FREE's table gives for Conv-4 and ResNets are two times the multiply-adds of one
forward pass, see `benchmarks/cost.py`; `gflops` follows that convention.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from free_jax.models import Generator
from free_jax.types import PyTree
from free_jax.zoo.network import Network


def multiply_adds(fn: Callable, *args: PyTree) -> int:
    """Multiply-adds of all convolutions and matrix products of a function.

    Counted from its jaxpr, so nothing runs: arguments may be `jax.ShapeDtypeStruct`s.
    The zeros that a dilated input is filled with (the image gradient of a strided
    convolution) do not count; a loop counts as often as it runs.

    Args:
      fn: a function of arrays without data-dependent loops.
      *args: as `fn` takes them.

    Raises:
      ValueError: the function holds a `while_loop`, whose length is unknown.

    >>> multiply_adds(lambda a, b: a @ b, jnp.zeros((2, 3)), jnp.zeros((3, 5)))
    30
    """
    return _count(jax.make_jaxpr(fn)(*args).jaxpr)


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _count(jaxpr: core.Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "while":
            raise ValueError("the cost of a while loop is unknown before it runs")
        if name == "conv_general_dilated":
            kernel = _shape(equation.invars[1])
            numbers = params["dimension_numbers"]
            outputs = kernel[numbers.rhs_spec[0]]
            size = math.prod(_shape(equation.outvars[0]))
            total += (
                size * math.prod(kernel) // outputs // math.prod(params["lhs_dilation"])
            )
        elif name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            left = _shape(equation.invars[0])
            summed = math.prod(left[axis] for axis in contracted)
            total += math.prod(_shape(equation.outvars[0])) * summed
        inner = [_count(x) for x in _inner_jaxprs(params)]
        if inner:
            repeats = params.get("length", 1) if name == "scan" else 1
            total += repeats * (max(inner) if name == "cond" else sum(inner))
    return total


def _inner_jaxprs(params: dict) -> list[core.Jaxpr]:
    found = []
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            item = getattr(item, "jaxpr", item)
            if isinstance(item, core.Jaxpr):
                found.append(item)
    return found


def _plain(network: Network) -> Network:
    """The same network with every convolution as such, whatever the backend."""
    if not hasattr(network.module, "lowering"):
        return network  # Not a choice that it has.
    kwargs = {**dict(network.kwargs), "lowering": "direct"}
    return dataclasses.replace(network, kwargs=tuple(sorted(kwargs.items())))


def forward(network: Network) -> int:
    """Multiply-adds of one image's forward pass."""
    network = _plain(network)
    images = jax.ShapeDtypeStruct((1, *network.image_shape), jnp.float32)
    return multiply_adds(network.apply, network.shapes, images)


def image_gradient(network: Network) -> int:
    """Multiply-adds of one image's gradient: forward and backward to the image."""
    network = _plain(network)

    def gradient(variables, images):
        return jax.grad(lambda x: network.apply(variables, x).sum())(images)

    images = jax.ShapeDtypeStruct((1, *network.image_shape), jnp.float32)
    return multiply_adds(gradient, network.shapes, images)


def gflops(network: Network) -> float:
    """Cost of one image in the published convention (see the module's docstring)."""
    return 2e-9 * forward(network)


def generator_gradient(generator: Generator, latent_dim: int = 256) -> int:
    """Multiply-adds of one drawn image: forward, and backward to all parameters."""
    latents = jax.ShapeDtypeStruct((1, latent_dim), jnp.float32)
    labels = jax.ShapeDtypeStruct((1,), jnp.int32)
    plain = generator.clone(lowering="direct")
    shapes = jax.eval_shape(plain.init, jax.random.key(0), latents, labels)

    def gradient(variables, latents, labels):
        def total(variables, latents):
            images: jax.Array = plain.apply(variables, latents, labels)  # type: ignore
            return images.sum()

        return jax.grad(total, (0, 1))(variables, latents)

    return multiply_adds(gradient, shapes, latents, labels)
