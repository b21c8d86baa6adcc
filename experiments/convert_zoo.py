"""Converts a folder of models into a zoo that is read with JAX alone.

    python experiments/convert_zoo.py --source=MODELS --target=ZOO

Models are what hubs hold; see inspect_zoo.py, which shows what is found and why a model
is left out.  With ``--data`` and ``--data_path``, all files are teachers of that data
set in the released layouts: class names and normalisation are the data set's.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))

import numpy as np  # noqa: E402

from experiments.data import preset  # noqa: E402
from experiments.harness.progress import counter  # noqa: E402
from experiments.inputs.conversion import class_names_of  # noqa: E402
from experiments.inputs.hub import add_options, hub_options  # noqa: E402
from free_jax.errors import InputError  # noqa: E402
from free_jax.interop import convert_folder, hub  # noqa: E402
from free_jax.interop.hub import report  # noqa: E402
from free_jax.interop.hub.reasons import used_of  # noqa: E402
from free_jax.zoo import Zoo, save_zoo  # noqa: E402


def format_groups(zoo: Zoo) -> str:
    """One line for each group."""
    lines = []
    for group in zoo.groups:
        network = group.network
        known = group.accuracy[np.isfinite(group.accuracy)]
        accuracy = f"{known.mean():.3f} ({len(known)})" if known.size else "unknown"
        lines.append(
            f"{group.num_teachers} x {network.name} {network.image_shape}, "
            f"{network.num_classes} classes, domain {group.domain or '-'}, "
            f"mean held-out accuracy {accuracy}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status (2 for bad input)."""
    parser = argparse.ArgumentParser(description="Converts models to a zoo.")
    add = parser.add_argument
    add("--source", required=True, help="folder of models, or one model")
    add("--target", required=True, help="folder of the converted zoo")
    add("--data", help="data set of released teachers, e.g. cifar_fs")
    add("--data_path", help="folder holding train/<class>/<images>")
    add("--image_size", type=int, help="with --data; default: that of the data set")
    add("--json", help="also write what was found to this file")
    add(
        "--guess",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="guess what neither files nor the table say (off)",
    )
    add_options(parser)
    args = parser.parse_args(arguments)
    try:
        _check(args)
        zoo, text = _of_data_set(args) if args.data else _of_models(args)
        save_zoo(zoo, args.target)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text)
    print(format_groups(zoo))
    print(f"written to {args.target}")
    return 0


def _check(args: argparse.Namespace) -> None:
    if bool(args.data) != bool(args.data_path):
        raise InputError("give --data and --data_path together, or neither")
    if args.image_size and not args.data:
        raise InputError("--image_size goes with --data; write size into teachers.yaml")
    source, target = (
        pathlib.Path(path).expanduser().resolve() for path in (args.source, args.target)
    )
    if not args.data and target.is_relative_to(source) and source.is_dir():
        raise InputError(
            f"--target={args.target}: lies in the folder of models, into which nothing "
            "is written; give another place"
        )


def _of_models(args: argparse.Namespace) -> tuple[Zoo, str]:
    """A zoo of whatever models the folder holds, and what was found."""
    found = hub.survey(args.source, hub_options(args, counter("converting")))
    if args.json:
        pathlib.Path(args.json).expanduser().write_text(report.as_json(found.cards))
    if not any(card.used for card in found.cards):
        # The reasons are the answer, one a model; the error need not repeat them.
        print(report.as_text(found.cards, found.notes), file=sys.stderr)
        raise InputError(
            f"{args.source}: nothing is written, for no model can be used; the reasons "
            "stand above"
        )
    assembled = hub.zoo_of(found)
    merged = assembled.classes.merged
    return assembled.zoo, report.as_text(found.cards, found.notes, merged)


def _of_data_set(args: argparse.Namespace) -> tuple[Zoo, str]:
    """A zoo of released teachers of one data set."""
    known = preset(args.data)
    zoo = convert_folder(
        args.source,
        class_names=class_names_of(args.data_path),
        mean=known.mean,
        std=known.std,
        image_size=args.image_size or known.image_size,
        domain=args.data,
        limit=args.limit,
        progress=counter("converting"),
    )
    return zoo, used_of(zoo.num_teachers, zoo.num_teachers)


if __name__ == "__main__":
    sys.exit(main())
