r"""Classifies your own pictures by a trained model and a few labelled ones.

    python experiments/classify.py --model=runs/mine --support=MY_CLASSES \
        --images=MY_PICTURES --out=predictions.csv

MY_CLASSES holds a folder for each class, named as it, with one or a few pictures each.
MY_PICTURES is a folder, folders in it included, or one picture.  Beside the table comes
a page to look at, predictions.html; with ``--labelled``, where MY_PICTURES holds
folders named as the classes, the accuracy and who was taken for whom.
"""

import argparse
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Sequence

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))

import numpy as np  # noqa: E402

from experiments.data.listing import Pictures  # noqa: E402
from experiments.evaluation import predictions as report  # noqa: E402
from experiments.evaluation.predictions import Prediction  # noqa: E402
from experiments.harness import files  # noqa: E402
from experiments.harness.progress import Progress  # noqa: E402
from experiments.inputs import few_shot  # noqa: E402
from experiments.inputs.few_shot import Picture, Support  # noqa: E402
from free_jax import load_model, nouns, predictor  # noqa: E402
from free_jax.errors import InputError  # noqa: E402
from free_jax.predictor import HEADS, Predictor  # noqa: E402

_MOST_SHOWN = 500  # Pictures on the page: some megabytes.
_SECONDS_PER_LINE = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status (2 for bad input)."""
    args = _parsed(arguments)
    try:
        _check_out(args.out)
        _classify(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Classifies pictures by a model and a few labelled ones."
    )
    add = parser.add_argument
    add("--model", required=True, help="model.npz, its run, or an exported folder")
    add("--support", required=True, help="a folder a class, with a few pictures each")
    add("--images", required=True, help="a folder of pictures, or one picture")
    add("--out", required=True, help="the table to write, FILE.csv")
    add(
        "--head",
        choices=HEADS,
        help="centroid (default of distilled models), ridge, soft_kmeans (sees all "
        "pictures at once), balanced_kmeans (the same, where all classes have about "
        "equally many), or adapt: by gradient (default of meta-learned models)",
    )
    add(
        "--labelled",
        action="store_true",
        help="the pictures stand in folders named as the classes: count what is right",
    )
    add("--batch", type=int, default=64, help="pictures at once (64)")
    args = parser.parse_args(arguments)
    # Here, at the door: nothing below knows of "~".
    for name in ("support", "images", "out"):
        setattr(args, name, pathlib.Path(getattr(args, name)).expanduser())
    return args


def _check_out(out: pathlib.Path) -> None:
    """Refuses before anything is computed what could not be written after it."""
    if out.suffix.lower() != ".csv":
        raise InputError(f"--out={out}: give a file whose name ends in .csv")
    for file in (out, out.with_suffix(".html"), out.with_suffix(".json")):
        if file.is_dir():
            raise InputError(f"--out={out}: {file} is a folder; give another name")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise InputError(
            f"--out={out}: {out.parent} cannot be written to ({error.strerror})"
        ) from None


def _classify(args: argparse.Namespace) -> None:
    if args.batch < 1:
        raise InputError(f"--batch={args.batch}: give at least 1")
    network, variables, notes = load_model(args.model)
    height, width, _ = network.image_shape
    size = (height, width)
    support = few_shot.read_support(args.support, size)
    report.check_classes(support.classes)
    listed = few_shot.find_pictures(args.images)
    way, total = len(support.classes), len(listed.names)
    truth = few_shot.true_classes(listed, support.classes) if args.labelled else None
    print(
        f"{network.name}, images of {height} x {width}; {len(support.labels)} support "
        f"pictures of {way} classes; {nouns.count(total, 'picture')}",
        flush=True,
    )
    fitted = predictor.fit(
        network,
        variables,
        notes,
        support.images,
        support.labels,
        way=way,
        head=args.head,
        size=min(args.batch, max(total, len(support.labels))),
    )
    found, unread = _predicted(fitted, listed, size)
    if len(unread) == total:
        raise InputError(f"--images={args.images}: no picture is readable: {unread[0]}")
    _write(args, support, found, fitted, truth)
    if unread:
        more = f"; and {len(unread) - 1} more" if len(unread) > 1 else ""
        print(
            f"no prediction for {len(unread)} of {total} pictures: {unread[0]}{more}",
            file=sys.stderr,
        )


def _predicted(
    fitted: Predictor, listed: Pictures, size: tuple[int, int]
) -> tuple[list[Prediction], list[str]]:
    """A record for each picture, in order, and why some were not read."""
    found: list[Picture] = []
    progress = Progress(
        len(listed.names),
        label="pictures",
        every_secs=_SECONDS_PER_LINE,
        at_once=False,
    )

    def chunks() -> Iterator[np.ndarray]:
        for chunk in few_shot.read_pictures(
            listed, size, at_once=fitted.size, num_small=_MOST_SHOWN
        ):
            images = [picture.image for picture in chunk if picture.image is not None]
            if images:
                yield np.stack(images)
            # The pixels are not needed any more.
            found.extend(picture._replace(image=None) for picture in chunk)
            progress.update(len(found))

    scores = iter(predictor.predict(fitted, chunks()))
    predictions = [
        Prediction(
            picture.name, None if picture.problem else next(scores), picture.small
        )
        for picture in found
    ]
    return predictions, [
        # One line, whatever the names of files hold.
        " ".join(picture.problem.split())
        for picture in found
        if picture.problem
    ]


def _write(
    args: argparse.Namespace,
    support: Support,
    found: list[Prediction],
    fitted: Predictor,
    truth: Sequence[int] | None,
) -> None:
    """The table, the page, and, if the truth is known, the judgement."""
    classes = support.classes
    how = "each picture is treated alone"
    if not fitted.is_inductive:
        how = "transductive: a prediction depends on all other pictures"
    about = f"head {fitted.head}, {how}"
    written = [args.out, args.out.with_suffix(".html")]
    files.write_text(args.out, report.as_csv(found, classes))
    page = report.as_page(
        found,
        classes,
        list(zip(support.labels.tolist(), support.small, strict=True)),
        about=f"{args.images}, by {args.model}; {about}",
        truth=truth,
    )
    files.write_text(written[1], page)
    print(about)
    if truth is not None:
        judged = report.judge(found, truth, len(classes))
        written.append(args.out.with_suffix(".json"))
        record = {
            "model": args.model,
            "head": fitted.head,
            "inductive": fitted.is_inductive,
            "episodes": 1,
            "accuracy": judged.correct / judged.total,
            "interval95": judged.interval,
            "correct": judged.correct,
            "pictures": judged.total,
            "unreadable": [said.name for said in found if said.scores is None],
            "classes": classes,
            "confusion": judged.confusion,
        }
        files.write_json(written[-1], record)
        print(report.judgement_text(judged, classes))
    print(f"written: {', '.join(map(str, written))}")


if __name__ == "__main__":
    sys.exit(main())
