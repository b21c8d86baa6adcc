"""Shows what the models of a folder are: one line a model, used or why not.

    python experiments/inspect_zoo.py MODELS
    python experiments/inspect_zoo.py MODELS --check --json=FILE --write_table=FILE
    python experiments/inspect_zoo.py ZOO --judge

What neither files nor the table say is guessed and marked; nothing is written into the
folder and nothing in it is run but what ``--trust_code`` names.  ``--judge`` recovers a
few images from every model, asks all about them and about dead leaves, and says who is
believed, and why; minutes on a CPU, as a panel run takes for as many images.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Iterator, Sequence

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))

import jax  # noqa: E402
import numpy as np  # noqa: E402

from experiments.harness.progress import counter  # noqa: E402
from experiments.inputs.hub import add_options, hub_options  # noqa: E402
from free_jax import jobs as jobs_lib  # noqa: E402
from free_jax import panel  # noqa: E402
from free_jax.errors import InputError  # noqa: E402
from free_jax.interop import hub  # noqa: E402
from free_jax.interop.hub import report  # noqa: E402
from free_jax.inversion import invertible  # noqa: E402
from free_jax.panel.verdicts import as_text  # noqa: E402


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
    parser.add_argument(
        "--judge", action="store_true", help="ask the models; say who is believed"
    )
    parser.add_argument(
        "--judge_images", type=int, default=12, help="recovered of each class (12)"
    )
    parser.add_argument(
        "--judge_leaves", type=int, default=300, help="dead leaves beside them (300)"
    )
    add_options(parser)
    args = parser.parse_args(arguments)
    try:
        targets = _targets(args)
        if args.judge:
            return _judge(args, targets[0])
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
    if any(card.guessed_preprocessing for card in used):
        print("a run refuses guessed preprocessing unless --config.zoo.guess=True")
    return 0 if used else 2


def _counted(
    stage: str, jobs: Sequence[jobs_lib.Job]
) -> Iterator[dict[str, np.ndarray]]:
    """One job after the other, and how far they are."""
    tell = counter(stage)
    for done, job in enumerate(jobs, 1):
        yield job.run()
        tell(done, len(jobs))


def _judge(args: argparse.Namespace, target: pathlib.Path | None) -> int:
    """Asks the models of a folder, or of a converted zoo, and prints verdicts."""
    options = panel.RecoverOptions(
        images_per_class=args.judge_images, dead_leaves=args.judge_leaves
    )
    if args.judge_images < 1 or args.judge_leaves < 0:
        raise InputError(
            f"--judge_images={args.judge_images} must be at least 1 and "
            f"--judge_leaves={args.judge_leaves} not negative"
        )
    zoo = hub.load_zoo(args.models, hub_options(args, counter("reading")))
    if not any(invertible(options.inversion, network) for network in zoo.networks):
        if not args.judge_leaves:
            raise InputError(
                "--judge_leaves=0: no model gives gradients, so that there is nothing "
                "else to ask about; ask for some"
            )
        options = options._replace(images_per_class=0)
        print("no model gives gradients: judged by what answers tell, nothing else")
    images = panel.recover_zoo(jax.random.key(0), zoo, options, _counted)
    answers = panel.ask_zoo(zoo, images.images, _counted)
    once = panel.judge(zoo, images, answers)
    trust = panel.judge(zoo, images, answers, passes=panel.REVISED)
    found = panel.verdicts(trust, zoo.sources)
    for each, weight in zip(found, once.weights, strict=True):
        each["trusted_by_one_pass"] = bool(weight)
    if target is not None:
        target.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(as_text(found))
    other = [each for each in found if each["trusted"] != each["trusted_by_one_pass"]]
    print(
        "revised by those who are believed; one pass alone (panel.trust_passes=1) "
        f"believes {int(once.weights.sum())} of {len(found)}"
        + ("; it judges otherwise: " if other else "")
        + ", ".join(each["source"] for each in other)
    )
    return 0 if any(each["trusted"] for each in found) else 2


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
