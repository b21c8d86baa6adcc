r"""Draws pictures of the embedded classes into folders, to try `classify.py` on.

    python experiments/draw_pictures.py --target=DIR

Writes DIR/support/<class>/*.png, three pictures a class, and the others into
DIR/pictures/<class>/*.png: what ``--support``, ``--images`` and ``--labelled`` of
`classify.py` take.  The classes are those of the test split, which no teacher trained
on embedded images has seen.  The same command draws the same pictures.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from experiments.data import procedural  # noqa: E402
from experiments.data.base import SPLITS  # noqa: E402
from free_jax.errors import InputError  # noqa: E402

_PARTS = ("support", "pictures")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status (2 for bad input)."""
    args = _parsed(arguments)
    try:
        _draw(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Draws pictures of the embedded classes into folders."
    )
    add = parser.add_argument
    add("--target", required=True, help="the folder to write into")
    add("--split", choices=SPLITS, default="test", help="whose classes (test)")
    add("--support", type=int, default=3, help="labelled pictures of a class (3)")
    add("--per_class", type=int, default=120, help="all pictures of a class (120)")
    add("--size", type=int, default=32, help="their height and width (32)")
    args = parser.parse_args(arguments)
    # Here, at the door: nothing below knows of "~".
    args.target = pathlib.Path(args.target).expanduser()
    return args


def _draw(args: argparse.Namespace) -> None:
    if not 1 <= args.support < args.per_class:
        raise InputError(
            f"--support={args.support} of --per_class={args.per_class}: give at least "
            "1, and more pictures than those"
        )
    drawn = procedural.make_split(
        args.split, images_per_class=args.per_class, image_size=args.size
    )
    wanted = {
        args.target / _PARTS[i >= args.support] / name / f"{i:03}.png": image
        for name, images in zip(drawn.class_names, drawn.images, strict=True)
        for i, image in enumerate(images)
    }
    _write(args.target, wanted)
    ways = len(drawn.class_names)
    print(
        f"{ways} classes of the {args.split} split: {args.support} pictures each in "
        f"{args.target / _PARTS[0]}, {args.per_class - args.support} in "
        f"{args.target / _PARTS[1]}"
    )


def _write(target: pathlib.Path, wanted: dict[pathlib.Path, np.ndarray]) -> None:
    for part in _PARTS:
        for file in sorted((target / part).rglob("*")):
            if file.is_file() and file not in wanted:
                raise InputError(
                    f"--target={target}: {file} is not of these pictures and would be "
                    "mixed with them; give another folder"
                )
    try:
        for file, image in wanted.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
    except OSError as error:
        raise InputError(f"--target={target}: cannot be written ({error})") from None


if __name__ == "__main__":
    sys.exit(main())
