"""Writes a trained model for others: weights or an ONNX file, a config, a model card.

    python experiments/export_model.py --model=runs/mine --target=DIR
    python experiments/export_model.py --model=runs/mine --target=DIR --format=onnx

``--model`` is the working directory of a finished run, its model.npz, or a folder that
was exported before.  Both formats may be written to one folder, one after the other.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))

from etils import epath  # noqa: E402

from experiments.evaluation import report  # noqa: E402
from experiments.harness import results  # noqa: E402
from free_jax import model_io, release  # noqa: E402
from free_jax.errors import InputError  # noqa: E402

# Of result.json, what the card shows or a reader may ask.
_KEPT = (
    *("algorithm", "results", "selection", "split", "episodes", "seed", "steps"),
    *("seconds", "images_recovered", "versions", "backend", "config_hash"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status (2 for bad input)."""
    parser = argparse.ArgumentParser(description="Writes a model for others.")
    add = parser.add_argument
    add("--model", required=True, help="finished run, its model.npz or exported folder")
    add("--target", required=True, help="folder: new, empty or a former export")
    add("--format", default="safetensors", help="safetensors (default) or onnx")
    add("--input", help="of onnx: images are uint8 (default), or float in [0, 1]")
    args = parser.parse_args(arguments)
    try:
        if args.input and args.format != "onnx":
            raise InputError("--input goes with --format=onnx; weights take both kinds")
        network, variables, notes = model_io.load_model(args.model)
        found = measured(args.model)
        if found:
            notes = {**notes, "measured": found}
        files = release.export(
            args.target,
            network,
            variables,
            notes,
            format=args.format,
            given=args.input or "uint8",
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written to {args.target}: {', '.join(files)}")
    return 0


def measured(model: str) -> dict[str, Any]:
    """What the run of a model measured; empty where its folder does not say.

    Args:
      model: see ``--model``.

    Raises:
      InputError: its result.json is damaged.
    """
    folder = epath.Path(model).expanduser()
    if not folder.is_dir():
        if folder.name != model_io.MODEL_FILE:
            return {}
        folder = folder.parent
    found: dict[str, Any] = {}
    if (folder / report.TABLE_FILE).exists():
        found["table"] = (folder / report.TABLE_FILE).read_text()
    if (folder / results.RESULT_FILE).exists():
        try:
            result = results.read_result(folder)
        except (OSError, ValueError) as error:
            raise InputError(f"{folder}/{results.RESULT_FILE}: {error}") from None
        found["result"] = {key: result[key] for key in _KEPT if key in result}
    return found


if __name__ == "__main__":
    sys.exit(main())
