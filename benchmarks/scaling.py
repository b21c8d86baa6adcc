"""How work splits over a mesh: 1, 2, 4 and 8 devices, the same work each time.

    python benchmarks/scaling.py [--only=NAME,...] [--json=FILE] [--repeats=3]

For every kind of work that goes through `free_jax.map_tasks` it prints, per device, the
flops of the compiled program (XLA's cost analysis, which counts the body of a loop
once) and their ratio to the ideal, and what the devices send each other.  Where there
are fewer real devices, the CPU is split into eight: its wall times then show what the
splitting costs, not what it gains.
"""

import argparse
import collections
import functools
import json
import math
import os
import pathlib
import re
import statistics
import sys
import time

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

import free_jax as fj  # noqa: E402
from free_jax.algorithms.bell import AlignOptions  # noqa: E402
from free_jax.algorithms.free import FreeOptions  # noqa: E402
from free_jax.fewshot import replay as replay_lib  # noqa: E402
from free_jax.fewshot.banks import MemoryOptions  # noqa: E402

TASKS, WAY, CLASSES = 8, 5, 20
LABELS = fj.balanced_labels(WAY, 10)
ARCH = fj.make_network("conv4", num_classes=WAY, image_shape=(32, 32, 3), width=32)
HEADS = fj.make_network(
    "conv4", num_classes=WAY * TASKS, image_shape=(32, 32, 3), width=32
)
LEARNER = fj.maml(ARCH, num_steps=2, inner_lr=0.01)
KEY = jax.random.key(0)
COLLECTIVES = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
ITEM = {"f32": 4, "s32": 4, "u32": 4, "pred": 1, "u8": 1, "s8": 1, "bf16": 2}


def teachers():
    keys = jax.random.split(KEY, TASKS)
    variables = jax.jit(jax.vmap(ARCH.init))(keys)
    ids = (jnp.arange(TASKS)[:, None] + jnp.arange(WAY)) % CLASSES
    return fj.Teachers(variables, ids.astype(jnp.int32))


def images(per_class=20):
    shape = (CLASSES, per_class, 32, 32, 3)
    drawn = jax.random.randint(KEY, shape, 0, 255).astype(jnp.uint8)
    return fj.memory.from_arrays(np.asarray(drawn), np.full(CLASSES, per_class))


def five(map_tasks):
    inverter = meta_generator()

    def one(shared, task):
        found, _, grads = inverter.invert(task[0], shared, task[1], LABELS)
        return found.images, grads

    run = map_tasks(one, everywhere=True, summed=True)
    tasks = (jax.random.split(KEY, TASKS), teachers())
    return run, (jax.jit(inverter.init)(KEY), tasks)


def meta_generator():
    return fj.inversion.meta_generator(
        fj.models.Generator(image_shape=(32, 32, 3), width=16),
        ARCH,
        inner_optimizer=optax.adam(1e-3),
        student=ARCH,
        num_steps=3,
    )


def episodic_update(map_tasks):
    return replay_lib.episodic_update(
        LEARNER,
        optax.adam(1e-3),
        way=WAY,
        shots=1,
        queries=5,
        episodes_per_update=TASKS,
        map_tasks=map_tasks,
    )


def meta_gradient(map_tasks):
    params = jax.jit(LEARNER.init)(KEY)
    opt = optax.adam(1e-3).init(params)
    return episodic_update(map_tasks), (KEY, params, opt, images())


def episodes(map_tasks):
    classify = fj.evaluation.learner_classifier(LEARNER)

    def one(shared, key):
        variables, bank = shared
        episode = fj.sample_episode(key, bank, way=WAY, shots=1, queries=15)
        return classify(variables, episode)

    keys = jax.random.split(KEY, 4 * TASKS)
    shared = ({"params": jax.jit(LEARNER.init)(KEY)}, images())
    return map_tasks(one, everywhere=True), (shared, keys)


def training(map_tasks):
    init, epoch, _ = fj.pretraining.teacher_trainer(
        ARCH, optax.adam(1e-2), images_per_class=20, batch_size=50
    )
    keys = jax.random.split(KEY, TASKS)
    state = jax.jit(jax.vmap(init))(keys)
    return map_tasks(epoch), (images(), (keys, teachers().class_ids, state))


def description(map_tasks):
    # The loop over a device's teachers would hide their number from the flop count.
    def batched(fn, **options):
        return map_tasks(fn, **{**options, "local": "vmap"})

    embed = fj.panel.embedder((ARCH,), map_tasks=batched)
    return embed, ((teachers(),), images().images[0])


def distillation(map_tasks):
    algorithm = fj.panel.panel_distillation(
        HEADS,
        columns=fj.panel.equal_columns(TASKS, WAY),
        optimizer=optax.adam(1e-3),
        batch_size=128,
        ghost_batches=8,
        map_tasks=map_tasks,
    )
    data = fj.panel.Described(
        images().images.reshape(-1, 32, 32, 3),
        jax.random.normal(KEY, (20 * CLASSES, TASKS * WAY)),
        fj.panel.equal_columns(TASKS, WAY),
        jnp.ones(TASKS),
        recovered=jnp.ones(20 * CLASSES, bool),
        natural=jnp.ones(20 * CLASSES, bool),
    )
    return algorithm.step, (KEY, jax.jit(algorithm.init)(KEY), data)


def free_step(map_tasks):
    tx = optax.adam(1e-3)
    algorithm = fj.algorithms.free(
        (meta_generator(),),
        (ARCH,),
        LEARNER,
        ARCH,
        replay_lib.replay(episodic_update(map_tasks), patience=10, max_updates=10),
        tx,
        num_classes=CLASSES,
        options=FreeOptions(
            teachers_per_step=TASKS,
            images_per_class=10,
            warmup_steps=0,
            outer_optimizer=tx,
        ),
        memory=MemoryOptions(100),
        align=AlignOptions(optimizer=tx),
        map_tasks=map_tasks,
    )
    return algorithm.step, (KEY, jax.jit(algorithm.init)(KEY), (teachers(),))


CASES = {
    "five": (five, "FIVE, 8 teachers"),
    "meta_gradient": (meta_gradient, "meta-update, 8 episodes"),
    "episodes": (episodes, "evaluation, 32 episodes"),
    "training": (training, "training 8 teachers, one epoch"),
    "description": (description, "description by 8 teachers"),
    "distillation": (distillation, "panel distillation, 8 groups"),
    "free": (free_step, "FREE step, 8 teachers"),
}


def collectives(text):
    """Number and bytes of each kind of collective in a compiled program."""
    found = collections.defaultdict(lambda: [0, 0])
    for shapes, kind in re.findall(rf"= (.*?) ({COLLECTIVES})(?:-start)?\(", text):
        size = sum(
            ITEM[dtype] * math.prod(int(n) for n in dims.split(",") if n)
            for dtype, dims in re.findall(r"(\w+)\[([\d,]*)\]", shapes)
        )
        found[kind][0] += 1
        found[kind][1] += size
    return dict(found)


def measure(build, devices, repeats):
    """One row of the table."""
    mesh = fj.make_mesh({"task": devices}, jax.devices()[:devices])
    everywhere = jax.NamedSharding(mesh, jax.P())
    spread = functools.partial(fj.parallel.map_tasks, mesh=mesh, local="vmap")
    fn, arguments = build(spread)
    arguments = jax.device_put(arguments, everywhere)
    start = time.perf_counter()
    program = jax.jit(fn).lower(*arguments).compile()
    compiled = time.perf_counter() - start
    jax.block_until_ready(program(*arguments))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        seconds.append(time.perf_counter() - start)
    return {
        "devices": devices,
        "flops_per_device": program.cost_analysis()["flops"],
        "collectives": collectives(program.as_text()),
        "seconds": statistics.median(seconds),
        "compile_seconds": compiled,
    }


def main() -> None:
    """Prints the table and writes the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(CASES))
    parser.add_argument("--json", default="")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    counts = [n for n in (1, 2, 4, 8) if n <= jax.device_count()]
    rows = []
    print("| work | devices | GFLOP a device | of ideal | collectives | seconds |")
    print("|---|---|---|---|---|---|")
    for name in options.only.split(","):
        build, title = CASES[name]
        for devices in counts:
            row = measure(build, devices, options.repeats)
            row = {"work": title} | row
            rows.append(row)
            first = next(r for r in rows if r["work"] == title)
            ideal = first["flops_per_device"] / devices
            row["of_ideal"] = row["flops_per_device"] / ideal
            sent = ", ".join(
                f"{n} {kind} {size / 1e6:.2f} MB"
                for kind, (n, size) in sorted(row["collectives"].items())
            )
            print(
                f"| {title} | {devices} | {row['flops_per_device'] / 1e9:.3f} | "
                f"{row['of_ideal']:.3f} | {sent or 'none'} | {row['seconds']:.3f} |",
                flush=True,
            )
            if options.json:  # At once: a later row may fail.
                device = jax.devices()[0].device_kind
                result = {"device": device, "jax": jax.__version__, "rows": rows}
                pathlib.Path(options.json).write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
