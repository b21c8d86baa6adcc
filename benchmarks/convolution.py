"""Times the lowerings of a convolution, alone and in the networks that use it.

    python benchmarks/convolution.py [--repeats=5] [--json=FILE]

Lowerings are timed in turn, several times over, because shared machines are noisy; the
table gives medians in milliseconds and the ratio to "patches".  Everything runs inside
`jax.lax.scan`, as in training, where some lowerings behave differently.
"""

import argparse
import json
import pathlib
import statistics
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

import free_jax as fj  # noqa: E402
from free_jax import objectives  # noqa: E402

LOWERINGS = ("patches", "mixed", "direct")
LENGTH = 3  # iterations inside one scan


def repeated(fn):
    """The function LENGTH times in a scan, each depending on the one before."""

    def run(x):
        return jax.lax.scan(lambda c, _: (fn(c), None), x, length=LENGTH)[0]

    return jax.jit(run)


def cases():
    """Name and ``lowering -> (function of one array tree, its argument)``."""
    keys = jax.random.split(jax.random.key(0), 4)
    for n, size, c, o in [(128, 16, 32, 32), (100, 16, 64, 64), (5, 16, 32, 32)]:
        images = jax.random.normal(keys[0], (n, size, size, c))
        kernel = jax.random.normal(keys[1], (3, 3, c, o)) / (3 * c**0.5)

        def build(lowering, images=images, kernel=kernel):
            def loss(pair):
                out = fj.models.conv2d(*pair, lowering=lowering)
                return jnp.square(out).mean()

            def step(pair):
                grads = jax.grad(loss)(pair)
                return jax.tree.map(lambda x, g: x - 1e-3 * g, pair, grads)

            return step, (images, kernel)

        yield f"{n} images {size}x{size}, {c}->{o}: forward, both gradients", build

    for n, size, c in [(100, 16, 128), (100, 8, 256), (100, 4, 512)]:
        images = jax.random.normal(keys[0], (n, size, size, c))
        kernel = jax.random.normal(keys[1], (3, 3, c, c)) / (3 * c**0.5)

        def through(lowering, images=images, kernel=kernel):
            def loss(x):
                return jnp.square(fj.models.conv2d(x, kernel, lowering=lowering)).mean()

            return lambda x: x - 1e-3 * jax.grad(loss)(x), images

        yield f"{n} images {size}x{size}, {c}->{c}: forward, images' gradient", through

    images = jax.random.uniform(keys[2], (128, 32, 32, 3))
    labels = jnp.arange(128) % 5

    def classifier(lowering):
        network = fj.make_network(
            "conv4", num_classes=5, image_shape=(32, 32, 3), width=32, lowering=lowering
        )
        return network, network.init(keys[3])

    def forward(lowering):
        network, variables = classifier(lowering)
        return lambda x: x + 1e-3 * network.apply(variables, x).mean(), images

    def inversion(lowering):
        network, variables = classifier(lowering)

        def loss(x):
            logits, moments = network.apply_with_moments(variables, x)
            gap = objectives.moment_matching(moments, variables["batch_stats"])
            return objectives.cross_entropy(logits, labels) + gap

        return lambda x: x - 1e-3 * jax.grad(loss)(x), images

    def training(lowering):
        network, variables = classifier(lowering)

        def loss(params):
            logits = network.apply({"params": params}, images, norm="batch")
            return objectives.cross_entropy(logits, labels)

        def step(params):
            grads = jax.grad(loss)(params)
            return jax.tree.map(lambda p, g: p - 1e-3 * g, params, grads)

        return step, variables["params"]

    yield "Conv4-32, 128 images: forward", forward
    yield "Conv4-32, 128 images: gradient of the images", inversion
    yield "Conv4-32, 128 images: training step", training


def main() -> None:
    """Prints the table and writes the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", default="")
    options = parser.parse_args()
    rows = []
    for name, build in cases():
        programs = {}
        for lowering in LOWERINGS:
            fn, argument = build(lowering)
            run = repeated(fn)
            jax.block_until_ready(run(argument))
            programs[lowering] = (run, argument)
        times = {lowering: [] for lowering in LOWERINGS}
        for _ in range(options.repeats):
            for lowering, (run, argument) in programs.items():
                start = time.perf_counter()
                jax.block_until_ready(run(argument))
                times[lowering].append(1e3 * (time.perf_counter() - start) / LENGTH)
        medians = {k: statistics.median(v) for k, v in times.items()}
        rows.append({"case": name, "ms": medians, "all_ms": times})
        shown = "  ".join(
            f"{k} {v:7.1f} ms ({medians['patches'] / v:.2f}x)"
            for k, v in medians.items()
        )
        print(f"{name:55s} {shown}", flush=True)
    if options.json:
        device = jax.devices()[0].device_kind
        result = {"device": device, "jax": jax.__version__, "rows": rows}
        pathlib.Path(options.json).write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
