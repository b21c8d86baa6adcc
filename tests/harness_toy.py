"""A method whose step is `x - 0.1 g`: all that tests of the harness need to train.

It is also a config file and a command, so that what needs a process of its own goes
through the real command line:

    python tests/harness_toy.py --config=tests/harness_toy.py --workdir=DIR
"""

import contextlib
import json
import os
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if __name__ == "__main__":
    sys.path.insert(0, REPOSITORY)

from experiments.harness import devices, loop, results, stopping  # noqa: E402
from experiments.harness import run as run_lib  # noqa: E402
from experiments.harness.method import Judge, Meters, Method, Schedule  # noqa: E402
from free_jax.algorithm import Algorithm  # noqa: E402
from free_jax.jobs import Job  # noqa: E402

CONFIG = {"seed": 0, "num_steps": 6}
NUM_TASKS = 3


class State(NamedTuple):
    step: jax.Array
    x: jax.Array


class Info(NamedTuple):
    loss: jax.Array
    is_finite: jax.Array


class Network(NamedTuple):
    """What the harness asks of a network: a name, and how large it is."""

    name: str = "point"

    def init(self, key):
        del key
        return {"params": jnp.zeros(3)}


def method(map_tasks, *, rate=0.1, target=(1.0, 2.0, 3.0), **changes):
    """Descends on |x - target|^2 / 2, as noisy tasks see it."""

    def noise(key, count):  # Depends on every bit, and compiles at once.
        words = jax.random.key_data(key)
        bits = (words[:, None] >> jnp.arange(32, dtype=jnp.uint32)) & 1
        return jnp.sin(bits.reshape(-1) @ jnp.arange(64.0) + jnp.arange(1.0 * count))

    def gradient(shared, task_noise):
        x, target = shared
        return x - target + 0.1 * task_noise

    def init(key):
        return State(jnp.int32(0), noise(key, 3))

    def step(key, state, data):
        tasks = noise(key, NUM_TASKS)
        g = map_tasks(gradient, everywhere=True)((state.x, data), tasks).mean(0)
        x = state.x - rate * g
        loss = jnp.square(x - data).sum() / 2
        return State(state.step + 1, x), Info(loss, jnp.isfinite(x).all())

    return Method(
        title="toy",
        algorithm=Algorithm(init, step, lambda state: {"params": state.x}),
        data=np.asarray(target, np.float32),
        network=Network(),
        meters=Meters(status={"loss": "loss"}),
    )._replace(**changes)


def distance(model, state):
    """A judge's score: how near the model is to (1, 2, 3)."""
    del state
    off = np.asarray(model["params"]) - np.asarray([1.0, 2.0, 3.0])
    return {"val_score": -float(np.linalg.norm(off))}


JUDGE = Judge(distance, "val_score")


class Stop:
    """Asked to stop after some steps, or after some polls between jobs."""

    def __init__(self, *steps, polls=None):
        self.steps, self.left = steps, polls

    def reached(self, step):
        return step in self.steps

    @property
    def requested(self):
        if self.left is None:
            return False
        self.left -= 1
        return self.left < 0


class Service:
    """Loses the queries of some steps; is spent, or broken, after some."""

    def __init__(self, lost=(), spent_at=None, broken_at=None):
        self.lost, self.spent_at, self.broken_at = lost, spent_at, broken_at
        self.calls = -1  # The first call comes before the first step.

    def answered(self, result):
        jax.block_until_ready(result)
        self.calls += 1
        if self.broken_at is not None and self.calls >= self.broken_at:
            raise ConnectionError("nobody answers")
        return self.calls not in self.lost and not self.exhausted()

    def exhausted(self):
        spent = self.spent_at is not None and self.calls >= self.spent_at
        return "all is spent" if spent else ""

    def bill(self):
        return {"queries": 10 * self.calls}


def open_run(folder, **changes):
    """A run on one device, without a lock and without signals."""
    place, map_tasks = devices.placement(1)
    options = {"identity": CONFIG, "every_secs": 0.0, "stop": Stop()} | changes
    return run_lib.Run(str(folder), seed=0, place=place, map_tasks=map_tasks, **options)


def train(
    folder, *stops, num_steps=6, judge=JUDGE, service=None, made=None, seed=0, **options
):
    """The outcome, or the step at which it was stopped."""
    identity = options.pop("identity", CONFIG)
    may_change = options.pop("may_change", ("num_steps",))
    run = open_run(folder, stop=Stop(*stops), identity=identity, may_change=may_change)
    options = {"checkpoint_every_steps": 1, "checkpoint_every_secs": 0.0} | options
    schedule = Schedule(num_steps, **options)
    try:
        return loop.train(run, made or method(run.map_tasks), schedule, judge, service)
    except stopping.Stopped as stopped:
        return stopped.step


def rows(folder):
    """The metrics file."""
    with open(os.path.join(folder, "metrics.jsonl")) as lines:
        return [json.loads(line) for line in lines]


def history(folder, outcome):
    """All of an outcome that must not depend on interruptions, to the bit."""
    curve = [{k: v for k, v in r.items() if k != "seconds"} for r in outcome.curve]
    tree = (outcome.model, outcome.state)
    bits = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]
    with open(os.path.join(folder, "metrics.jsonl")) as file:
        lines = file.read()
    return bits, outcome.steps, outcome.meta_updates, outcome.best, curve, lines


# ------------------------------------------------------- a config and a command


def get_config():
    return ml_collections.ConfigDict(
        {
            "run": "toy",
            "seed": 0,
            "num_steps": 6,
            "num_jobs": 2,  # Of a stage before the first step.
            "sleep": 0.0,  # Seconds of a job and of a step.
            "rate": 0.1,
            "host_devices": 1,
            "task": 1,
            "checkpoint": {"every_steps": 1, "every_secs": 0.0},
        }
    )


def main(config, workdir):
    """A stage of jobs, then the loop, then a result."""

    def job(number):
        time.sleep(config.sleep)
        return {"value": np.float32([number / 10])}

    def scores(model, state):
        time.sleep(config.sleep)
        return distance(model, state)

    place, map_tasks = devices.placement(config.task)
    with contextlib.ExitStack() as exits:
        run = exits.enter_context(
            run_lib.opened(
                workdir,
                seed=config.seed,
                place=place,
                map_tasks=map_tasks,
                identity=config,
                may_change=("num_steps", "checkpoint", "sleep"),
                every_secs=0.0,
            )
        )
        jobs = [Job(f"part-{i}", lambda i=i: job(i)) for i in range(config.num_jobs)]
        try:
            made = [out["value"][0] for out in run.cached("prepared", jobs)]
            offset = float(np.sum(made))
            outcome = loop.train(
                run,
                method(
                    map_tasks, rate=config.rate, target=(1 + offset, 2 + offset, 3.0)
                ),
                Schedule(
                    config.num_steps,
                    checkpoint_every_steps=config.checkpoint.every_steps,
                    checkpoint_every_secs=config.checkpoint.every_secs,
                    seconds_before=run.seconds_spent("prepared"),
                ),
                Judge(scores, "val_score"),
            )
        except stopping.Stopped as stopped:
            return {"stopped_at": stopped.step}
        result = {
            "model": np.asarray(outcome.model["params"]).tolist(),
            "steps": outcome.steps,
            "seconds": outcome.seconds,
            "curve": outcome.curve,
        }
        return results.write_result(workdir, result, config)


if __name__ == "__main__":
    from experiments import run as command

    sys.modules["harness_toy"] = sys.modules["__main__"]
    command.RUNS["toy"] = "harness_toy"
    sys.exit(command.main(sys.argv))
