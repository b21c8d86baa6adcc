"""What an inversion costs, in multiply-adds counted from the network's own program.

    python -m benchmarks.cost --architecture=conv4 --image_size=32 --width=64
    python -m benchmarks.cost --table

The field compares inversion methods by N_iter x N_img x GFLOPs: gradient steps, images
of a step, and the cost of one image's gradient through the teacher.  FREE's table gives
0.03 / 0.23 / 1.63 GFLOPs for Conv-4 with 64 filters at 32 / 84 / 224 pixels, 1.12 /
7.87 / 54.67 for ResNet-18 and 2.62 / 18.36 / 128.34 for ResNet-50.  Those numbers are
TWO TIMES THE MULTIPLY-ADDS OF ONE FORWARD PASS: either the flops of the forward pass
alone, or one count a multiply-add of forward and backward.  `gflops` follows that
convention, so that totals compare; the flops that a gradient really takes, two a
multiply-add and forward as well as backward, are about twice as many and printed beside
them.  Ours are within 1 % of the table for the ResNets and 6 to 16 % below it for
Conv-4, whose published numbers the convolutions and the head alone do not explain.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from free_jax.models import Generator, model_names
from free_jax.types import PyTree
from free_jax.zoo.network import Network, make_network

# GFLOPs of FREE's table at 32, 84 and 224 pixels.
PUBLISHED = {
    ("conv4", 64): (0.03, 0.23, 1.63),
    ("resnet18", None): (1.12, 7.87, 54.67),
    ("resnet50", None): (2.62, 18.36, 128.34),
}
SIZES = (32, 84, 224)


class Method(NamedTuple):
    """One inversion of one teacher.

    Attributes:
      iterations: gradient steps (N_iter).
      images: in each step (N_img), for five classes.
      generator: whether the images come from a generator, which costs as well.
    """

    iterations: int
    images: int
    generator: bool


# Released codes' settings for five-way tasks; BiDf inverts support and query sets.
METHODS = {
    "FREE (FIVE)": Method(5, 100, True),
    "TGR": Method(200, 150, True),
    "BiDf-MKD, white box": Method(200, 300, True),
    "Trustworthy-DFML, 1-shot": Method(200, 80, True),
    "PURER, 1-shot, 60,000 updates": Method(60_000, 80, False),
    "panel distillation (ours)": Method(150, 50, False),
}


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


def _plain(arch: Network) -> Network:
    """The same network with every convolution as such, whatever the backend."""
    kwargs = {**dict(arch.kwargs), "lowering": "direct"}
    return make_network(
        arch.name,
        num_classes=arch.num_classes,
        image_shape=arch.image_shape,
        mean=arch.mean,
        std=arch.std,
        **kwargs,
    )


def forward(arch: Network) -> int:
    """Multiply-adds of one image's forward pass."""
    arch = _plain(arch)
    variables = jax.eval_shape(arch.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((1, *arch.image_shape), jnp.float32)
    return multiply_adds(arch.apply, variables, images)


def image_gradient(arch: Network) -> int:
    """Multiply-adds of one image's gradient: forward and backward to the image."""
    arch = _plain(arch)

    def gradient(variables, images):
        return jax.grad(lambda x: arch.apply(variables, x).sum())(images)

    variables = jax.eval_shape(arch.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((1, *arch.image_shape), jnp.float32)
    return multiply_adds(gradient, variables, images)


def gflops(arch: Network) -> float:
    """Cost of one image in the published convention (see the module docstring)."""
    return 2e-9 * forward(arch)


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


def inversion_gflops(method: Method, arch: Network) -> float:
    """N_iter x N_img x GFLOPs of one teacher's inversion, as published."""
    return method.iterations * method.images * gflops(arch)


def _square(name: str, size: int, way: int, width: int | None) -> Network:
    kwargs: dict[str, Any] = {} if width is None else {"width": width}
    return make_network(name, num_classes=way, image_shape=(size, size, 3), **kwargs)


def report(arch: Network, generator_width: int = 64) -> str:
    """The costs of one architecture, as text."""
    gradient = image_gradient(arch)
    size = arch.image_shape[0]

    def row(label: str, value: float) -> str:
        return f"  {label:60s} {value:10.4f} GFLOPs"

    lines = [
        f"{arch.name} {dict(arch.kwargs) or ''} at {size} pixels, one image:",
        row("as published: 2 x multiply-adds of the forward pass", gflops(arch)),
        row("flops of forward and backward to the image", 2e-9 * gradient),
    ]
    drawn = 0
    if size % 4 == 0:
        drawn = generator_gradient(Generator(arch.image_shape, generator_width))
        label = (
            f"flops of drawing it, generator of width {generator_width} (unpublished)"
        )
        lines.append(row(label, 2e-9 * drawn))
    lines.append(
        "one teacher's inversion: N_iter x N_img x GFLOPs as published | flops with "
        "those of drawing"
    )
    for name, method in METHODS.items():
        count = method.iterations * method.images
        real = 2e-12 * count * (gradient + method.generator * drawn)
        lines.append(
            f"  {name:30s} {method.iterations:6d} x {method.images:3d} x "
            f"{gflops(arch):.3f} = {inversion_gflops(method, arch):12.1f} GFLOPs"
            f" | {real:10.2f} TFLOPs"
        )
    return "\n".join(lines)


def table() -> str:
    """Ours beside FREE's table."""
    lines = ["GFLOPs of one image, ours / FREE's table (ratio), at " + str(SIZES)]
    for (name, width), published in PUBLISHED.items():
        cells = []
        for size, wanted in zip(SIZES, published, strict=True):
            ours = gflops(_square(name, size, 5, width))
            cells.append(f"{ours:8.3f} / {wanted:6.2f} ({ours / wanted:.2f})")
        lines.append(f"  {name:9s}" + "   ".join(cells))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cost", description="Cost of inverting a teacher."
    )
    parser.add_argument("--architecture", choices=model_names(), default="conv4")
    parser.add_argument("--image_size", type=int, default=32)
    parser.add_argument("--way", type=int, default=5)
    parser.add_argument("--width", type=int, help="of Conv4; 32 if not given")
    parser.add_argument("--generator_width", type=int, default=64)
    parser.add_argument("--table", action="store_true", help="ours beside FREE's")
    options = parser.parse_args(argv)
    if options.table:
        print(table())
        return
    try:
        arch = _square(
            options.architecture, options.image_size, options.way, options.width
        )
    except (TypeError, ValueError) as error:
        parser.error(str(error))
    print(report(arch, options.generator_width))


if __name__ == "__main__":
    main()
