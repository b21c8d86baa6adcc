"""What a larger zoo costs: memory, and seconds a teacher, of what a panel run does.

    python benchmarks/zoo_size.py --folder=SCRATCH --out=docs/zoo_size

Stores of 100, 1,000 and 10,000 five-way Conv4 teachers are made of 100 networks and
noise: no accuracy is measured here, only memory and time. Each store is used by a
process of its own, whose peak memory is taken; times (of the processor, on a CPU) are
those of a few teachers, and of a few steps, after the first call. Each teacher hears
equally many images, of which there are more where there are more teachers; they are in
a file, as a run keeps them.
"""

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness import memory
from free_jax import inversion, panel, rows
from free_jax import zoo as zoo_lib
from free_jax.panel import partial_asking
from free_jax.panel.voices import drawn_voices
from free_jax.types import Teachers
from free_jax.zoo.network import make_network

SIZES = (100, 1000, 10000)
WAY, CLASSES, BASE = 5, 64, 100
NETWORK = make_network("conv4", num_classes=WAY, image_shape=(32, 32, 3))
# Images that each teacher hears, and teachers that hear an image.
HEARS, ASKED = 20, 10
# On a CPU, which others may use as well, what this process computes counts.
CLOCK = time.process_time if jax.default_backend() == "cpu" else time.perf_counter


class Noisy(rows.Rows):
    """Rows of a few arrays again and again, with noise."""

    def __getitem__(self, index: Any) -> np.ndarray:
        found = super().__getitem__(index)
        seed = index.start if isinstance(index, slice) else 0
        noise = np.random.default_rng(seed).normal(size=found.shape)
        return found + np.asarray(1e-3 * noise, found.dtype) * np.abs(found)


def make_store(folder: pathlib.Path, size: int) -> None:
    """A converted zoo, and the images that it is asked about."""
    if (folder / "images.npy").exists():
        return
    keys = jax.random.split(jax.random.key(0), BASE)
    base = jax.device_get(jax.jit(jax.vmap(NETWORK.init))(keys))
    stack = jax.tree.map(lambda x: Noisy([x] * (size // BASE)), base)
    rng = np.random.default_rng(0)
    ids = np.stack([rng.permutation(CLASSES)[:WAY] for _ in range(size)])
    teachers = Teachers(stack, jnp.asarray(ids, jnp.int32))
    group = zoo_lib.ZooGroup(NETWORK, teachers, np.full(size, np.nan, np.float32))
    names = tuple(f"class {i}" for i in range(CLASSES))
    zoo_lib.save_zoo(zoo_lib.Zoo((group,), names), folder, in_files=True)
    images = rng.integers(0, 256, (HEARS * size // ASKED, 32, 32, 3), np.uint8)
    np.save(folder / "images.npy", images)


def seconds(fn: Any, count: int) -> tuple[float, float]:
    """Of the first call, and the median of `count` others, given their numbers."""
    took = []
    for number in range(count + 1):
        clock = CLOCK()
        jax.block_until_ready(fn(number))
        took.append(CLOCK() - clock)
    return took[0], float(np.median(took[1:]))


def measure(folder: pathlib.Path, sampled: int, steps: int) -> dict[str, float]:
    """Everything about one store, by this process."""
    clock = CLOCK()
    zoo = zoo_lib.load_zoo(folder)
    found: dict[str, float] = {"teachers": zoo.num_teachers}
    found["loading"] = CLOCK() - clock
    images = rows.Rows([_opened(folder / "images.npy")])
    rng = np.random.default_rng(1)

    recipe = panel.RecoverOptions().inversion._replace(num_steps=10)
    jobs = inversion.recovery_jobs(
        jax.random.key(0), zoo, recipe, images_per_class=4, image_shape=(32, 32, 3)
    )
    order = rng.permutation(len(jobs))
    first, usual = seconds(lambda n: jobs[order[n]].run()["images"], sampled)
    found |= {"recovery": usual, "recovery compile": first - usual}

    owners = np.full(len(images), -1)
    voices = drawn_voices(rng, owners, zoo.num_teachers, ASKED)
    asking = partial_asking.ask_some_jobs(zoo, images, voices)
    each = min(64, zoo.num_teachers)
    calls = min(3, max(len(asking) - 2, 0))
    first, usual = seconds(
        lambda n: asking[n % len(asking)].run()["logits"], calls or 1
    )
    found |= {"asking": usual / each, "asking compile": first - usual}

    logits = rng.normal(size=(*voices.shape, WAY)).astype(np.float32)
    yes = np.ones(len(images), bool)
    told = panel.Described(
        images, logits, zoo.columns, jnp.ones(zoo.num_teachers),
        yes, yes, zoo.class_ids, voices,
    )  # fmt: skip
    student = make_network(
        "conv4", num_classes=int(zoo.columns[-1]), image_shape=(32, 32, 3)
    )
    options = panel.DistillOptions(heads="class")
    made = panel.distillation(
        student, zoo.columns, options, 100, class_ids=zoo.class_ids, some=True
    )
    assert made.feed is not None
    key, feed = jax.random.key(2), made.feed
    state = jax.jit(made.init)(key)
    clock = CLOCK()
    step, needed = memory.compiled(made.compiled(), key, state, feed(key, 0, told))
    found |= {"step compile": CLOCK() - clock, "device": needed or 0}

    def train(number: int) -> Any:
        key = jax.random.key(number)
        return step(key, state, feed(key, 0, told))[1].distill_loss

    found["step"] = seconds(train, steps)[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found | {"host": peak * (1 if sys.platform == "darwin" else 1024)}


def _opened(file: pathlib.Path) -> rows.FileRows:
    with open(file, "rb") as opened:
        np.lib.format.read_magic(opened)
        shape, _, dtype = np.lib.format.read_array_header_1_0(opened)
        return rows.FileRows(file, opened.tell(), dtype, shape)


COLUMNS = {
    "host": ("host MB", 1e-6),
    "device": ("step MB", 1e-6),
    "loading": ("loading s", 1),
    "recovery": ("recovery s/teacher", 1),
    "asking": ("asking s/teacher", 1),
    "step": ("step s", 1),
    "recovery compile": ("compile s: recovery", 1),
    "asking compile": ("asking", 1),
    "step compile": ("step", 1),
}


def table(found: list[dict[str, float]]) -> str:
    """Markdown, a row a store, and what the largest takes of the smallest's."""
    head = ["teachers", *(name for name, _ in COLUMNS.values())]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in found:
        cells = [f"{scale * row[key]:.3g}" for key, (_, scale) in COLUMNS.items()]
        lines.append(f"| {row['teachers']:.0f} | {' | '.join(cells)} |")
    ratio = [f"{found[-1][key] / found[0][key]:.2f}" for key in COLUMNS]
    return "\n".join([*lines, f"| last / first | {' | '.join(ratio)} |"])


def draw(found: list[dict[str, float]], file: pathlib.Path) -> None:
    """What grows with the zoo, relative to the smallest."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.5), layout="constrained")
    sizes = [row["teachers"] for row in found]
    for key in ("host", "device", "recovery", "asking", "step"):
        ratios = [row[key] / found[0][key] for row in found]
        axes.plot(sizes, ratios, marker="o", label=COLUMNS[key][0])
    axes.set(xscale="log", xlabel="teachers", ylabel="relative to the fewest", ylim=0)
    axes.legend(fontsize="small")
    figure.savefig(file, dpi=120)


def measured_apart(command: list[str], size: int) -> dict[str, Any]:
    """Makes a store and measures it, each in a process of its own: peaks are its alone.

    Args:
      command: that takes ``--make`` and ``--measure``, whose last line is JSON.
      size: teachers of the store.
    """
    subprocess.run([*command, f"--make={size}"], check=True)
    told = subprocess.run(
        [*command, f"--measure={size}"], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(told.stdout.splitlines()[-1])


def main(argv: list[str] | None = None) -> None:
    """Makes the stores, measures each in a process of its own, prints and draws."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", required=True, type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--sampled", type=int, default=20)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--make", type=int, default=0, help="only makes this store")
    parser.add_argument("--measure", type=int, default=0, help="only this store")
    options = parser.parse_args(argv)
    if options.make:
        make_store(options.folder / str(options.make), options.make)
        return
    if options.measure:
        store = options.folder / str(options.measure)
        print(json.dumps(measure(store, options.sampled, options.steps)))
        return
    found = []
    for size in map(int, options.sizes.split(",")):
        same = [sys.executable, __file__, f"--folder={options.folder}"]
        same += [f"--sampled={options.sampled}", f"--steps={options.steps}"]
        found.append(measured_apart(same, size))
        print(table(found), flush=True)
    if options.out:
        options.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
        draw(found, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
