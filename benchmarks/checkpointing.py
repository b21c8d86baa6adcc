"""What saving costs a run: steps with and without a save, in turn.

    python benchmarks/checkpointing.py [--repeats=5] [--json=FILE]

The state is that of FREE on CIFAR-FS (64 classes x 400 images in memory, generator of
width 64, Conv4).  Saving is asynchronous: what a step waits for is the copy to the
host; the rest competes with the steps that follow for cores and disk, so whole blocks
of steps are compared.
"""

import argparse
import json
import pathlib
import statistics
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402

import free_jax as fj  # noqa: E402
from experiments.harness import checkpointing  # noqa: E402
from experiments.harness.options import CheckpointOptions  # noqa: E402
from free_jax.fewshot import banks  # noqa: E402

STEPS = 8  # in a block
EVERY_SECS = CheckpointOptions().every_secs


def make_state():
    key = jax.random.key(0)
    generator = fj.models.Generator(image_shape=(32, 32, 3), width=64)
    student = fj.make_network("conv4", num_classes=5, image_shape=(32, 32, 3), width=32)
    params = {
        "generator": generator.init(key, jnp.zeros((2, 256)), jnp.zeros(2, int)),
        "student": student.init(key)["params"],
    }
    return {
        "params": params,
        "opt": optax.adam(1e-3).init(params),
        "memory": banks.init(64, 400, (32, 32, 3)),
        "work": jnp.eye(1500),
    }


@jax.jit
def step(state):
    work = state["work"]
    for _ in range(4):
        work = work @ work / jnp.linalg.norm(work)
    return state | {"work": work}


def block(state, checkpoints, number):
    """Seconds of one block, and of the call of `save` within it, if any."""
    blocked = 0.0
    start = time.perf_counter()
    for i in range(STEPS):
        state = jax.block_until_ready(step(state))
        if i == 0 and number is not None:
            called = time.perf_counter()
            checkpoints.save(number, state, {}, force=True)
            blocked = time.perf_counter() - called
    seconds = time.perf_counter() - start
    checkpoints.wait()
    return seconds, blocked


def main() -> None:
    """Prints the cost of a save and writes the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", default="")
    options = parser.parse_args()
    state = jax.jit(make_state)()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e6
    plain, saving, blocking, extra = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = checkpointing.Checkpoints(folder)
        block(state, checkpoints, 0)
        for number in range(1, options.repeats + 1):
            plain.append(block(state, checkpoints, None)[0])
            seconds, blocked = block(state, checkpoints, number)
            saving.append(seconds)
            blocking.append(blocked)
            extra.append(seconds - plain[-1])
        checkpoints.close()
    cost = statistics.median(extra)
    result = {
        "device": jax.devices()[0].device_kind,
        "megabytes": size,
        "block_seconds": plain,
        "block_seconds_with_save": saving,
        "save_call_seconds": blocking,
        "cost_of_a_save_seconds": cost,
        "share_at_default_cadence": cost / EVERY_SECS,
    }
    call = statistics.median(blocking)
    print(
        f"state of {size:.0f} MB; a block of {STEPS} steps takes "
        f"{statistics.median(plain):.2f} s, {statistics.median(saving):.2f} s with a "
        f"save; the call of save returns after {call:.2f} s\n"
        f"a save costs {cost:.2f} s ({min(extra):.2f} to {max(extra):.2f}): "
        f"{100 * cost / EVERY_SECS:.1f} % of a run that saves every "
        f"{EVERY_SECS:.0f} s, 5 % of one that saves every {20 * max(cost, 0):.0f} s"
    )
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
