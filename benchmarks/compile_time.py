"""How long one whole FREE step takes to compile, with a config's own values.

    python benchmarks/compile_time.py [--config=FILE.py[:VARIANT]]

Teachers are untrained; only shapes matter.  The persistent cache is off.  On a busy
machine CPU seconds say more than wall-clock seconds.
"""

import argparse
import pathlib
import sys
import time
from types import SimpleNamespace
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from experiments import inputs  # noqa: E402
from experiments.harness import command_line  # noqa: E402
from experiments.inputs import networks  # noqa: E402
from experiments.methods import checks, free  # noqa: E402
from free_jax import Teachers, Zoo, ZooGroup, map_tasks  # noqa: E402


def main() -> None:
    """Prints the seconds of tracing and of compiling."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="experiments/configs/free_cifar_fs_5w1s.py")
    options = parser.parse_args()
    file, _, variant = options.config.partition(":")
    config = command_line.load_config(file, variant)
    preset = inputs.preset(config.data)
    network = networks.classifier(config.student, config.way, preset)
    variables = jax.eval_shape(network.init, jax.random.key(0))
    count, classes = 8, 64
    stack = jax.tree.map(lambda x: jnp.ones((count, *x.shape), x.dtype), variables)
    ids = jnp.tile(jnp.arange(config.way, dtype=jnp.int32), (count, 1))
    group = ZooGroup(network, Teachers(stack, ids), np.zeros(count), config.data.name)
    names = tuple(f"class {i}" for i in range(classes))
    run: Any = SimpleNamespace(map_tasks=map_tasks)
    experiment = free.build(checks.validate(config), Zoo((group,), names), run)
    algorithm = experiment.algorithm
    key = jax.random.key(0)
    state = jax.eval_shape(algorithm.init, key)
    clocks = [(time.perf_counter(), time.process_time())]
    lowered = jax.jit(algorithm.step, donate_argnums=1).lower(
        key, state, experiment.data
    )
    clocks.append((time.perf_counter(), time.process_time()))
    lowered.compile()
    clocks.append((time.perf_counter(), time.process_time()))
    for name, before, after in zip(
        ("trace and lower", "compile"), clocks, clocks[1:], strict=False
    ):
        wall, cpu = after[0] - before[0], after[1] - before[1]
        print(f"{name:16s} {wall:6.1f} s wall clock, {cpu:6.1f} s CPU")


if __name__ == "__main__":
    main()
