"""Times this library against plain PyTorch on the same work, A B A B.

    python benchmarks/against_torch.py [--cases=inversion_conv4,maml_1] [--repeats=5]
        [--quick] [--compile=on|off] [--out=runs/against_torch]

Both sides start from the same weights, see the same shapes, take the same steps and may
use the same cores (`tests/test_benchmarks.py`: they compute the same losses).  A round
times each side once, one directly after the other; the table gives medians and, of the
rounds' ratios, median and range, so that a busy machine disturbs both sides alike.
CPU seconds, which other programs disturb less, stand beside wall-clock seconds.  Ours
is spread over one host device a core where a case has several tasks.  PyTorch is given
its episodes ready made; ours draws them.  First calls (compilation) are not counted but
shown.  Whole epochs, 600 episodes and 20 teachers are these pieces times their number.

Cases ``.._84`` (``--cases=84``) are those of 84 pixels; ``--memory`` adds the largest
memory of each side.

Cases ``graph_..`` are usual networks of torchvision and timm, read as graphs, against
the modules themselves; they need ``free_jax[convert]``.  One thread each::

    taskset -c 0 python benchmarks/against_torch.py --cases=graphs --compile=off

Cases ``depthwise_..`` are those of depthwise convolutions once more, gradients beside
a third side "plain": ours, with the sum over taps differentiated by JAX instead of our
own gradient (`models/cpu/depthwise.py`)::

    taskset -c 0 python benchmarks/against_torch.py --cases=depthwise --compile=off
"""

import argparse
import functools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

CORES = len(os.sched_getaffinity(0))
if CORES > 1 and "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    # Read when JAX starts its backend.
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "")
        + f" --xla_force_host_platform_device_count={CORES}"
    )

import jax  # noqa: E402
import torch  # noqa: E402

import free_jax as fj  # noqa: E402
from benchmarks import cases as work  # noqa: E402
from benchmarks import graph_cases  # noqa: E402


def spread() -> Callable:
    """`map_tasks` over all devices."""
    if jax.device_count() == 1:
        return fj.map_tasks
    return functools.partial(fj.map_tasks, mesh=fj.make_mesh({"task": -1}))


def build(quick: bool) -> dict[str, Callable[[], work.Case]]:
    """The cases by name; nothing runs yet."""
    mapped = spread()
    less = 2 if quick else 1
    return {
        "inversion_conv4": lambda: work.inversion("conv4", steps=4 // less),
        "inversion_resnet18": lambda: work.inversion(
            "resnet18", steps=2, images_per_class=20 // less
        ),
        "maml_1": lambda: work.maml(1, map_tasks=mapped, episodes=10 // less),
        "maml_5": lambda: work.maml(5, map_tasks=mapped, episodes=10 // less),
        "evaluate_1": lambda: work.evaluate(1, map_tasks=mapped, episodes=20 // less),
        "evaluate_5": lambda: work.evaluate(5, map_tasks=mapped, episodes=20 // less),
        "train": lambda: work.train(map_tasks=mapped, teachers=2, batches=6 // less),
        "free_step": lambda: work.free_step(map_tasks=mapped),
        "describe": lambda: work.describe(map_tasks=mapped, images=250 // less),
        "distil": lambda: work.distil(batches=4 // less),
        **large(mapped, less),
        **graph_cases.build(quick),
    }


def large(mapped: Callable, less: int) -> dict[str, Callable[[], work.Case]]:
    """The same at mini-ImageNet's 84 pixels, a seventh of the work each."""
    side = {"size": 84}
    return {
        "inversion_conv4_84": lambda: work.inversion(
            "conv4", steps=2, images_per_class=10 // less, **side
        ),
        "describe_84": lambda: work.describe(
            map_tasks=mapped, teachers=2, images=100 // less, **side
        ),
        "distil_84": lambda: work.distil(batches=2 // less, **side),
        "maml_1_84": lambda: work.maml(1, map_tasks=mapped, episodes=4 // less, **side),
        "evaluate_1_84": lambda: work.evaluate(
            1, map_tasks=mapped, episodes=6 // less, **side
        ),
        "train_84": lambda: work.train(
            map_tasks=mapped, teachers=2, batches=2 // less, **side
        ),
    }


def clocked(fn: Callable) -> tuple[float, float]:
    """Wall-clock and CPU seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    fn()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(case: work.Case, repeats: int, compiled: bool) -> dict:
    """All timings of one case, in seconds a unit."""
    sides = {"ours": case.ours, "eager": case.eager}
    if compiled and case.compiled is not None:
        sides["compiled"] = case.compiled
    if case.plain is not None:
        sides["plain"] = case.plain
    first = {name: clocked(fn)[0] for name, fn in sides.items()}
    rounds = {name: {"wall": [], "cpu": []} for name in sides}
    for _ in range(repeats):
        for name, fn in sides.items():
            wall, cpu = clocked(fn)
            rounds[name]["wall"].append(wall / case.units)
            rounds[name]["cpu"].append(cpu / case.units)
    ratios = {
        other: {
            clock: [
                b / a
                for a, b in zip(
                    rounds["ours"][clock], rounds[other][clock], strict=True
                )
            ]
            for clock in ("wall", "cpu")
        }
        for other in sides
        if other != "ours"
    }
    return {
        "unit": case.unit,
        "units": case.units,
        "first_call_s": first,
        "before_s": dict(case.before),
        "seconds": rounds,
        "ratios": ratios,
    }


def peak(name: str, side: str, quick: bool) -> float:
    """Largest memory, in MB, of a process that does nothing but one side's work.

    Above that of a process which has imported both libraries and made the case; ours
    includes compiling, which eager PyTorch has none of.
    """
    found = []
    for calls in (0, 2):
        line = [sys.executable, __file__, f"--cases={name}", f"--alone={side}:{calls}"]
        told = subprocess.run(
            [*line, *(["--quick"] if quick else [])],
            check=True,
            capture_output=True,
            text=True,
        )
        found.append(float(told.stdout.split()[-1]))
    return found[1] - found[0]


def alone(case: work.Case, side: str, calls: int) -> None:
    """Does one side's work and prints the process's largest memory in MB."""
    for _ in range(calls):
        getattr(case, side)()
    # Not of `resource`, which counts what started this process.
    status = pathlib.Path("/proc/self/status").read_text().splitlines()
    (most,) = (row.split()[1] for row in status if row.startswith("VmHWM:"))
    print(int(most) / 1024)


def line(name: str, row: dict) -> str:
    """One case for the terminal."""
    milliseconds = ", ".join(
        f"{side} {1e3 * statistics.median(clocks['wall']):.1f}"
        for side, clocks in row["seconds"].items()
    )
    ratios = "; ".join(
        f"{other}/ours {statistics.median(r['wall']):.2f} "
        f"[{min(r['wall']):.2f}, {max(r['wall']):.2f}] "
        f"(CPU seconds {statistics.median(r['cpu']):.2f})"
        for other, r in row["ratios"].items()
    )
    first = ", ".join(f"{k} {v:.1f} s" for k, v in row["first_call_s"].items())
    first += "".join(f"; {v:.1f} s {k}" for k, v in row["before_s"].items())
    for side, size in row.get("peak_mb", {}).items():
        first += f"; {side} {size:.0f} MB at most"
    return (
        f"{name:19s} ms a {row['unit']}: {milliseconds}\n"
        f"{'':19s} {ratios}\n{'':19s} first call: {first}"
    )


def plot(rows: dict[str, dict], path: pathlib.Path) -> None:
    """How many times faster ours is: medians, with the range of the rounds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 0.45 * len(rows) + 1.2))
    offsets = {"eager": -0.15, "compiled": 0.15, "plain": 0.15}
    for side, offset in offsets.items():
        shown = [
            (i, r["ratios"][side]["wall"])
            for i, r in enumerate(rows.values())
            if side in r["ratios"]
        ]
        if not shown:
            continue
        middle = [statistics.median(ratio) for _, ratio in shown]
        axes.errorbar(
            middle,
            [i + offset for i, _ in shown],
            xerr=[
                [m - min(r) for m, (_, r) in zip(middle, shown, strict=True)],
                [max(r) - m for m, (_, r) in zip(middle, shown, strict=True)],
            ],
            fmt="o",
            capsize=3,
            label="plain" if side == "plain" else f"{side} PyTorch",
        )
    axes.axvline(1.0, color="grey", linewidth=1)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set_xlabel("times ours (1: as fast)")
    axes.set_xlim(left=0)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(argv: list[str] | None = None) -> dict:
    """Measures the chosen cases, prints and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default="", help="names with commas; all if empty")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="half the work a case")
    parser.add_argument("--compile", choices=("on", "off"), default="on")
    parser.add_argument("--memory", action="store_true", help="of each side, alone")
    parser.add_argument("--alone", default="", help="SIDE:CALLS; what --memory runs")
    parser.add_argument("--out", default="runs/against_torch", help="without suffix")
    options = parser.parse_args(argv)
    known = build(options.quick)
    groups = {
        family: [name for name in known if name.startswith(start)]
        for family, start in (("graphs", "graph_"), ("depthwise", "depthwise_"))
    }
    groups["84"] = list(large(spread(), 1))
    # They repeat graphs, with a side more.
    groups[""] = [name for name in known if name not in groups["depthwise"]]
    names = options.cases.split(",")
    chosen = groups.get(options.cases) or [name for name in names if name]
    unknown = sorted(set(chosen) - set(known))
    if unknown or options.repeats < 1:
        parser.error(
            f"unknown cases {unknown}; known: {', '.join(known)}"
            if unknown
            else "--repeats must be at least 1"
        )
    torch.set_num_threads(CORES)
    if options.alone:
        side, calls = options.alone.split(":")
        alone(known[chosen[0]](), side, int(calls))
        return {}
    load = os.getloadavg()[0]
    print(
        f"{CORES} cores, load {load:.1f}, {jax.device_count()} JAX device(s) "
        f"({jax.default_backend()}), {torch.get_num_threads()} PyTorch threads",
        flush=True,
    )
    rows = {}
    for name in chosen:
        rows[name] = measure(known[name](), options.repeats, options.compile == "on")
        if options.memory:
            sides = ("ours", "eager")
            rows[name]["peak_mb"] = {x: peak(name, x, options.quick) for x in sides}
        print(line(name, rows[name]), flush=True)
    result = {
        "cores": CORES,
        "load": load,
        "jax": jax.__version__,
        "torch": torch.__version__,
        "device": jax.devices()[0].device_kind,
        "cases": rows,
    }
    out = pathlib.Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    plot(rows, out.with_suffix(".png"))
    return result


if __name__ == "__main__":
    main()
