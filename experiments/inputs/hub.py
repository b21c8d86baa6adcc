"""Options of the commands that read folders of models."""

import argparse
import os
import pathlib
from collections.abc import Callable

from free_jax.interop.hub import HubOptions


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds --table, --trust_code, --check, --limit and --cache_dir."""
    add = parser.add_argument
    add("--table", help="what files do not say; default: MODELS/teachers.yaml")
    add(
        "--trust_code",
        default="",
        help="models whose code may run: PATH or PATH@SHA256, separated by commas",
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
        trust_code=trusted,
        check=args.check,
        cache_dir=_cache(args.cache_dir),
        limit=args.limit,
        progress=progress,
    )


def _cache(stated: str | None) -> pathlib.Path | None:
    """The folder of programs: stated, or that of the user's caches."""
    if stated is not None:
        return pathlib.Path(stated).expanduser() if stated else None
    base = os.environ.get("FREE_JAX_CACHE") or os.environ.get("XDG_CACHE_HOME")
    folder = pathlib.Path(base).expanduser() if base else pathlib.Path.home() / ".cache"
    return folder / "free_jax" / "programs"
