"""The command, see `benchmarks.robustness`."""

import argparse
import os
import pathlib

import jax

from benchmarks import robustness
from benchmarks.robustness.cells import PARTS, SHARES, check_settings, honest, run
from benchmarks.robustness.tables import plot, tables
from benchmarks.robustness.world import ATTACKS, Bench


def main() -> None:
    """Makes what is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.robustness",
        description=str(robustness.__doc__).split("\n", 1)[0],
    )
    for name in ("--workdir", "--pool", "--zoo", "--data"):
        parser.add_argument(name, required=True)
    parser.add_argument("--other", default="", help="a converted zoo, for domain")
    parser.add_argument("--honest", default="", help="ZOO:RUN,... judged as they are")
    parser.add_argument(
        "--part", nargs="+", default=["found", "panel", "students", "plot"]
    )
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS))
    parser.add_argument("--defences", nargs="+", default=None)
    parser.add_argument("--shares", nargs="+", type=float, default=list(SHARES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--leaves", type=int, default=2000)
    parser.add_argument("--each", type=int, default=20, help="inversions a teacher")
    parser.add_argument("--real", type=int, default=60, help="images a class")
    parser.add_argument("--draw", type=int, default=0, help="seed of these images")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--episodes", type=int, default=400)
    parser.add_argument("--minutes", type=float, default=0, help="of wall time a part")
    args = parser.parse_args()
    if not args.other:
        args.attacks = [kind for kind in args.attacks if kind != "domain"]
    os.makedirs(f"{args.workdir}/compiled", exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", f"{args.workdir}/compiled")
    parts = [part for part in PARTS if part in args.part]
    for part in ("workdir", *parts):
        check_settings(pathlib.Path(args.workdir), part, args)
    bench = Bench(args)
    if args.honest:
        honest(bench)
    for part in parts:
        run(bench, part)
    tables(bench)
    if "plot" in args.part:
        plot(bench)


if __name__ == "__main__":
    main()
