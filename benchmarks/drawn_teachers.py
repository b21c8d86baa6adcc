"""What a larger zoo costs the steps of FREE, PURER and BiDf-MKD.

    python -m benchmarks.drawn_teachers --folder=SCRATCH --out=docs/drawn_teachers

On the stores of `benchmarks.zoo_size` (copies with noise: nothing is learned that has
an accuracy).  Each method and store has a process of its own, whose peak memory is
taken.  Steps are those of a run, with few images and updates; teachers are read ahead
for the next one while one is made.  Seconds are of the processor, on a CPU, all threads
together.  With ``--held`` all teachers are on the device, as a zoo's in memory are.
"""

import argparse
import contextlib
import json
import pathlib
import resource
import sys
import tempfile
from typing import Any

import jax
import numpy as np

from benchmarks.zoo_size import CLOCK, make_store, measured_apart
from experiments.configs import bidf, free, purer
from experiments.harness import devices, memory
from experiments.harness import run as run_lib
from experiments.harness.stopping import StopRequest
from experiments.methods import build, checks
from free_jax import zoo as zoo_lib
from free_jax.ahead import Feed, on_host

# Little besides teachers, so that what they cost shows.
EPISODES = {"replay.episodes_per_update": 2, "replay.queries": 5}
EPISODES |= {"learner.kind": "protonet", "student.kwargs.width": 8}
UPDATES = EPISODES | {"replay.max_updates": 2, "memory.per_class": 40}
INVERSION = {"inversion.generator.width": 16, "inversion.num_steps": 2}
CONFIGS = {
    "free": (free, UPDATES | INVERSION | {"recover.images_per_class": 10}
             | {"recover.warmup_steps": 0}),
    "purer": (purer, EPISODES | {"recover.teachers_per_step": 4}),
    "bidf": (bidf, UPDATES | INVERSION | {"recover.images_per_class": 10}),
}  # fmt: skip


def method_of(name: str, zoo: zoo_lib.Zoo, folder: str) -> Any:
    """The method as a run makes it, and the run."""
    module, changes = CONFIGS[name]
    config = module.get_config()
    config.update_from_flattened_dict(changes)
    place, map_tasks = devices.placement(1)
    run = run_lib.Run(folder, 0, place, map_tasks, StopRequest())
    return build(checks.validate(config), zoo, run), run


def measure(
    store: pathlib.Path, name: str, steps: int, *, held: bool
) -> dict[str, Any]:
    """Peak memory and seconds of a method's steps, by this process."""
    zoo = zoo_lib.load_zoo(store)
    zoo = zoo_lib.in_memory(zoo) if held else zoo
    with tempfile.TemporaryDirectory() as folder:
        method, run = method_of(name, zoo, folder)
    algorithm, data = method.algorithm, method.data
    if held:
        placed = run.place(data)
        feed: Any = lambda number: placed  # noqa: E731
        ahead: Any = contextlib.nullcontext(feed)
    else:
        assert algorithm.feed is not None
        fed = algorithm.feed

        def make(number: int) -> Any:
            with on_host():
                found = fed(run.key("step", number), number, data)
            return run.place(found)

        ahead = contextlib.closing(Feed(make))
    took = []
    with ahead as feed:
        state = run.place(jax.jit(algorithm.init)(run.key("init")))
        key = run.place(run.key("step", 0))
        step, needed = memory.compiled(
            algorithm.compiled(donate=True), key, state, feed(0)
        )
        given = sum(x.nbytes for x in jax.tree.leaves(feed(0)) if hasattr(x, "nbytes"))
        for number in range(steps + 1):
            clock = CLOCK()
            key = run.place(run.key("step", number))
            state, info = step(key, state, feed(number))
            jax.block_until_ready((state, info))
            took.append(CLOCK() - clock)
    assert bool(info.is_finite)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "method": name,
        "held": held,
        "teachers": zoo.num_teachers,
        "host": peak * (1 if sys.platform == "darwin" else 1024),
        "device": needed or 0,
        "given": given,
        "step": float(np.median(took[1:])),
    }


COLUMNS = {
    "host": ("host MB", 1e-6),
    "device": ("step MB", 1e-6),
    "given": ("of it teachers MB", 1e-6),
    "step": ("step s", 1),
}


def table(found: list[dict[str, Any]]) -> str:
    """Markdown, a row a measurement."""
    head = ["method", "teachers", "", *(name for name, _ in COLUMNS.values())]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in found:
        cells = [f"{scale * row[key]:.3g}" for key, (_, scale) in COLUMNS.items()]
        how = "all held" if row["held"] else "drawn"
        cells = [row["method"], f"{row['teachers']}", how, *cells]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Makes the stores, measures each in a process of its own, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", required=True, type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--sizes", default="100,1000,10000")
    parser.add_argument("--methods", default=",".join(CONFIGS))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--held", action="store_true", help="all teachers in memory")
    parser.add_argument("--make", type=int, default=0, help="only makes this store")
    parser.add_argument("--measure", type=int, default=0, help="only this store")
    options = parser.parse_args(argv)
    if options.make:
        make_store(options.folder / str(options.make), options.make)
        return
    if options.measure:
        store = options.folder / str(options.measure)
        told = measure(store, options.methods, options.steps, held=options.held)
        print(json.dumps(told))
        return
    found = []
    for name in options.methods.split(","):
        for size in map(int, options.sizes.split(",")):
            same = [sys.executable, "-m", "benchmarks.drawn_teachers"]
            same += [f"--folder={options.folder}", f"--steps={options.steps}"]
            same += [f"--methods={name}", *["--held"] * options.held]
            found.append(measured_apart(same, size))
            print(table(found), flush=True)
    if options.out:
        options.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
