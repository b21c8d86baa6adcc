"""Options of the commands that read folders of models."""

import argparse
from collections.abc import Callable

from free_jax.interop.hub import HubOptions


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds --table, --trust_code, --check, --limit and --cache_dir."""
    add = parser.add_argument
    add("--table", help="what files do not say; default: MODELS/teachers.yaml")
    add(
        "--trust_code",
        default="",
        help="models whose code may run: PATH or PATH@SHA256, with commas between",
    )
    add("--check", action="store_true", help="compare with the original framework")
    add("--limit", type=int, help="read only the first models")
    add("--cache_dir", help="where programs are kept between runs; '' for nowhere")


def hub_options(
    args: argparse.Namespace, progress: Callable[[int, int], None] | None = None
) -> HubOptions:
    """The options of a command line that `add_options` prepared."""
    trusted = tuple(p.strip() for p in args.trust_code.split(",") if p.strip())
    return HubOptions(
        table=args.table,
        guess=args.guess,
        guess_by="--guess",
        trust_code=trusted,
        check=args.check,
        cache_dir=args.cache_dir,
        limit=args.limit,
        progress=progress,
    )
