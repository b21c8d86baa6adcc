"""Shows what the models of a folder are: one line a model, used or why not.

    python experiments/inspect_zoo.py MODELS
    python experiments/inspect_zoo.py MODELS --check --json=FILE --write_table=FILE

What neither files nor the table say is guessed and marked; nothing is written into the
folder and nothing in it is run but what ``--trust_code`` names.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))

from experiments.harness.progress import counter  # noqa: E402
from experiments.inputs.hub import add_options, hub_options  # noqa: E402
from free_jax.errors import InputError  # noqa: E402
from free_jax.interop import hub  # noqa: E402
from free_jax.interop.hub import report  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0 if a model can be used, else 2."""
    parser = argparse.ArgumentParser(description="Shows the models of a folder.")
    parser.add_argument("models", help="folder of models, or one model")
    parser.add_argument("--json", help="also write what was found to this file")
    parser.add_argument("--write_table", help="write a filled teachers.yaml here")
    parser.add_argument(
        "--guess",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="guess what no file says (on)",
    )
    add_options(parser)
    args = parser.parse_args(arguments)
    try:
        targets = _targets(args)
        found = hub.survey(args.models, hub_options(args, counter("reading")))
        used = [card for card in found.cards if card.used]
        merged = hub.zoo_of(found).classes.merged if used else {}
        for target, text in (
            (targets[0], report.as_json),
            (targets[1], report.as_table),
        ):
            if target is not None:
                target.write_text(text(found.cards), encoding="utf-8")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report.as_text(found.cards, found.notes, merged))
    return 0 if used else 2


def _targets(args: argparse.Namespace) -> list[pathlib.Path | None]:
    """Files to write, which must lie outside the folder of models."""
    models = pathlib.Path(args.models).expanduser().resolve()
    targets: list[pathlib.Path | None] = []
    for option in ("json", "write_table"):
        name = getattr(args, option)
        target = pathlib.Path(name).expanduser() if name else None
        if target is not None and not target.resolve().parent.is_dir():
            raise InputError(f"--{option}={name}: there is no such folder to write to")
        if target is not None and target.is_dir():
            raise InputError(f"--{option}={name}: is a folder; give a file")
        inside = target is not None and target.resolve().is_relative_to(models)
        if inside and option == "json":
            raise InputError(
                f"--{option}={name}: lies in the folder of models, into which nothing "
                "is written; give another place"
            )
        targets.append(target)
    return targets


if __name__ == "__main__":
    sys.exit(main())
