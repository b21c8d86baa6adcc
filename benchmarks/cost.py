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
from collections.abc import Sequence
from typing import Any, NamedTuple

from free_jax.inversion.cost import (
    forward,
    generator_gradient,
    gflops,
    image_gradient,
    multiply_adds,
)
from free_jax.models import Generator, model_names
from free_jax.zoo.network import Network, make_network

__all__ = ["forward", "generator_gradient", "gflops", "image_gradient", "multiply_adds"]

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


def inversion_gflops(method: Method, network: Network) -> float:
    """N_iter x N_img x GFLOPs of one teacher's inversion, as published."""
    return method.iterations * method.images * gflops(network)


def _square(name: str, size: int, way: int, width: int | None) -> Network:
    kwargs: dict[str, Any] = {} if width is None else {"width": width}
    return make_network(name, num_classes=way, image_shape=(size, size, 3), **kwargs)


def report(network: Network, generator_width: int = 64) -> str:
    """The costs of one architecture, as text."""
    gradient = image_gradient(network)
    size = network.image_shape[0]

    def row(label: str, value: float) -> str:
        return f"  {label:60s} {value:10.4f} GFLOPs"

    lines = [
        f"{network.name} {dict(network.kwargs) or ''} at {size} pixels, one image:",
        row("as published: 2 x multiply-adds of the forward pass", gflops(network)),
        row("flops of forward and backward to the image", 2e-9 * gradient),
    ]
    drawn = 0
    if size % 4 == 0:
        drawn = generator_gradient(Generator(network.image_shape, generator_width))
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
            f"{gflops(network):.3f} = {inversion_gflops(method, network):12.1f} GFLOPs"
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
        network = _square(
            options.architecture, options.image_size, options.way, options.width
        )
    except (TypeError, ValueError) as error:
        parser.error(str(error))
    print(report(network, options.generator_width))


if __name__ == "__main__":
    main()
