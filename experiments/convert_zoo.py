"""Converts a folder of PyTorch teachers into a zoo that is read without PyTorch.

    python experiments/convert_zoo.py --source=DIR --target=DIR \
        --data=cifar_fs --data_path=DIR/cifar_fs

`cached_zoo` does the same behind the scenes of a run, once for each source.
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
from experiments.inputs.conversion import class_names_of, show_progress  # noqa: E402
from free_jax.errors import InputError  # noqa: E402
from free_jax.interop import convert_folder  # noqa: E402
from free_jax.zoo import Zoo, save_zoo  # noqa: E402


def describe(zoo: Zoo) -> str:
    """One line for each group."""
    lines = []
    for group in zoo.groups:
        arch = group.network
        known = group.accuracy[np.isfinite(group.accuracy)]
        accuracy = f"{known.mean():.3f} ({len(known)})" if known.size else "unknown"
        lines.append(
            f"{group.num_teachers} x {arch.name} {arch.image_shape}, "
            f"{arch.num_classes} classes, domain {group.domain or '-'}, "
            f"mean held-out accuracy {accuracy}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status (2 for bad input)."""
    parser = argparse.ArgumentParser(description="Converts PyTorch teachers to a zoo.")
    add = parser.add_argument
    add("--source", required=True, help="folder of .pth or .safetensors teachers")
    add("--target", required=True, help="folder of the converted zoo")
    add("--data", required=True, help="data set, for normalisation; e.g. cifar_fs")
    add("--data_path", required=True, help="folder holding train/<class>/<images>")
    add("--image_size", type=int, help="default: that of the data set")
    add("--limit", type=int, help="convert only the first teachers")
    args = parser.parse_args(arguments)
    try:
        known = preset(args.data)
        zoo = convert_folder(
            args.source,
            class_names=class_names_of(args.data_path),
            mean=known.mean,
            std=known.std,
            image_size=args.image_size or known.image_size,
            domain=args.data,
            limit=args.limit,
            progress=show_progress,
        )
        save_zoo(zoo, args.target)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(describe(zoo))
    print(f"written to {args.target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
