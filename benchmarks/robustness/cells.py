"""What each attack costs under each defence: a file a cell."""

import argparse
import itertools
import json
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.robustness.defences import DEFENCES, counts_of, trust_of
from benchmarks.robustness.students import panel_of, student_of
from benchmarks.robustness.world import Bench
from experiments.stages import reuse
from free_jax import panel
from free_jax import zoo as zoo_lib

SHARES = (0.1, 0.3, 0.5, 0.7)
PARTS = ("found", "panel", "students")
# What decides the answers that are kept, and the figures of a part, beside what a
# cell's name says.
SETTINGS = {
    "workdir": ("pool", "zoo", "other", "data", "draw", "leaves"),
    "found": ("pool", "zoo", "other", "leaves", "each"),
    "panel": (
        "pool",
        "zoo",
        "other",
        "data",
        "leaves",
        "each",
        "real",
        "draw",
        "episodes",
    ),
}
SETTINGS["students"] = (*SETTINGS["panel"], "steps", "batch")


def cells(bench: Bench, part: str) -> Iterator[tuple[str, str, float, int]]:
    """(attack, defence, share, seed) in the order in which they are worth most."""
    args = bench.args
    defences = args.defences or (
        ("trust",)
        if part == "found"
        else ("none", "trust", "selection")
        if part == "panel"
        else DEFENCES
    )
    seeds = args.seeds if part == "found" else args.seeds[:1]
    for seed, defence in itertools.product(seeds, defences):
        yield "honest", defence, 0.0, seed
    for share in (0.5, *(s for s in args.shares if s != 0.5)):
        for kind, defence, seed in itertools.product(args.attacks, defences, seeds):
            yield kind, defence, share, seed


def check_settings(home: pathlib.Path, part: str, args: argparse.Namespace) -> None:
    """Refuses to add to cells that were made with other settings.

    Raises:
      SystemExit: names them.
    """
    file = home / f"{part}.settings.json"
    now = {name: getattr(args, name) for name in SETTINGS[part]}
    if not file.exists():
        if any((home / part).glob("*.json")):
            raise SystemExit(
                f"error: {home / part} holds cells whose settings were not kept; give "
                "another --workdir"
            )
        home.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(now))
    then = json.loads(file.read_text())
    other = [f"--{k}={then.get(k)}, now {now[k]}" for k in now if then.get(k) != now[k]]
    if other:
        raise SystemExit(
            f"error: {home / part} was made with {'; '.join(other)}; give the same, or "
            "another --workdir"
        )


def run(bench: Bench, part: str) -> None:
    """Makes the cells that are not there yet, while time is left."""
    folder, begun = bench.home / part, time.monotonic()
    folder.mkdir(exist_ok=True)
    for kind, defence, share, seed in cells(bench, part):
        name = f"{kind}_{defence}_{share:g}_{seed}".replace(" ", "-").replace(",", "")
        file = folder / f"{name}.json"
        if file.exists():
            continue
        if bench.args.minutes and time.monotonic() - begun > 60 * bench.args.minutes:
            print(f"{part}: time is up before {name}", flush=True)
            return
        start = time.process_time()
        real = part == "panel" or defence == "selection"
        world = bench.world(kind, share, seed, real=real)
        found: dict[str, Any]
        if part == "found":
            trust = trust_of(world)
            found = counts_of(trust.weights, world.hostile)
            once = panel.trust(world.answers, world.class_ids, world.images)
            found["one pass"] = counts_of(once.weights, world.hostile)
        elif part == "panel":
            found = panel_of(bench, world, defence, seed)
        else:
            found = student_of(bench, world, defence, seed)
        found |= {"attack": kind, "defence": defence, "share": share, "seed": seed}
        found["cpu_seconds"] = round(time.process_time() - start, 1)
        file.write_text(json.dumps(found))
        print(part, json.dumps(found), flush=True)


def honest(bench: Bench) -> None:
    """Whom the trust rule leaves out of honest zoos of earlier runs."""
    for pair in filter(None, bench.args.honest.split(",")):
        path, folder = pair.split(":")
        zoo = zoo_lib.load_zoo(path)
        found = reuse.everything("reuse", folder, zoo, np.arange(zoo.num_teachers))
        for passes in (1, panel.REVISED):
            trust = panel.judge(zoo, *found, passes=passes)
            out = [zoo.sources[t] for t in np.flatnonzero(trust.weights == 0)]
            print(
                f"{path}: {len(out)} of {zoo.num_teachers} left out by at most "
                f"{passes} passes {out}",
                flush=True,
            )


def rows_of(bench: Bench, part: str) -> list[dict]:
    files = sorted((bench.home / part).glob("*.json"))
    return [json.loads(file.read_text()) for file in files]
