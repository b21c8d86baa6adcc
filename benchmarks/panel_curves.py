"""Accuracy on validation classes against answers, or teachers, of finished panel runs.

    python benchmarks/panel_curves.py --over=answers --picture=OUT.png \
        "an output a teacher=RUN,RUN25,RUN10" "an output a class=RUN_C,RUN25_C"

An argument is a curve: its name, and working directories of runs whose tables are on
validation classes (``--config.eval.split=val``, as in `panel_ablation_cifar_fs.py`).
Runs with equally many answers (with ``--over=teachers``: teachers in the zoo) are seeds
of one point: the mean of their accuracies is drawn, with the mean of their intervals
over episodes.  Prints a table: answers or teachers, runs, accuracy at each number of
shots, and the difference to the point with the most of them.
"""

import argparse
import json
import pathlib
import sys
from typing import NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np

from experiments.evaluation import former_rows
from experiments.harness import metrics, plots, results

ROW = "panel distilled, centroids"
# What a curve is drawn over, and its name on the axis.
OVER = {
    "answers": "answers (images x teachers asked about each)",
    "teachers": "teachers",
}


class Point(NamedTuple):
    """One run.

    Attributes:
      place: what it paid or had: answers, or teachers.
      scores: (mean, 95 % interval) by number of shots.
    """

    place: int
    scores: dict[str, tuple[float, float]]


def point_of(folder: str, row: str, protocol: str, over: str) -> Point:
    """What a finished run paid, or had, and reached.

    Raises:
      ValueError: no finished run of a panel, measured on validation classes.
    """
    file = pathlib.Path(folder) / results.RESULT_FILE
    if not folder or not file.exists():
        raise ValueError(f"{folder}: not the working directory of a finished run")
    result = former_rows.read_result(file)
    if result.get("split") != "val":
        raise ValueError(
            f"{folder}: its table is on {result.get('split', 'no')} classes; set "
            "config.eval.split=val"
        )
    cost = result.get("cost", {})
    place = {
        "answers": cost.get("answers"),
        "teachers": sum(each["teachers"] for each in cost.get("networks", ())),
    }[over]
    if row not in result["results"] or not place:
        raise ValueError(f"{folder}: no row {row!r}, or no {over} were counted")
    cells = result["results"][row].items()
    return Point(
        int(place),
        {n: (cell[protocol]["mean"], cell[protocol]["ci95"]) for n, cell in cells},
    )


def merged(points: list[Point]) -> list[tuple[int, Point]]:
    """(runs, their mean) at every place, the lowest first."""
    by_place: dict[int, list[Point]] = {}
    for point in points:
        by_place.setdefault(point.place, []).append(point)
    found = []
    for place, same in sorted(by_place.items()):
        shots = [n for n in same[0].scores if all(n in p.scores for p in same)]
        means = {n: np.mean([p.scores[n] for p in same], axis=0) for n in shots}
        scores = {n: (float(m), float(ci)) for n, (m, ci) in means.items()}
        found.append((len(same), Point(place, scores)))
    return found


def main() -> None:
    """Draws the curves and prints their table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("curves", nargs="+", metavar="NAME=RUN,RUN,...")
    parser.add_argument("--over", default="answers", choices=OVER)
    parser.add_argument("--row", default=ROW)
    parser.add_argument("--shots", default="1", help="drawn; the table has all")
    parser.add_argument(
        "--protocol", default="inductive", choices=("inductive", "transductive")
    )
    parser.add_argument("--picture", default="panel_curves.png")
    parser.add_argument("--json", default="")
    options = parser.parse_args()
    drawn, table = {}, []
    for argument in options.curves:
        name, _, folders = argument.partition("=")
        try:
            points = [
                point_of(f, options.row, options.protocol, options.over)
                for f in folders.split(",")
            ]
        except ValueError as error:
            parser.error(str(error))
        found = merged(points)
        most = found[-1][1].scores
        drawn[name] = [(p.place, *p.scores[options.shots]) for _, p in found]
        for runs, point in found:
            told = {"curve": name, options.over: f"{point.place:,}", "runs": runs}
            for n, (mean, ci95) in point.scores.items():
                change = mean - most[n][0]
                told[f"{n}-shot"] = f"{mean:.1f} +- {ci95:.1f} ({change:+.1f})"
            table.append(told)
    metrics.print_table(table, tuple(table[0]), title=f"{options.row}, validation")
    plots.save_curves(
        options.picture,
        drawn,
        xlabel=OVER[options.over],
        ylabel="accuracy (%)",
        title=f"{options.shots}-shot {options.protocol}, validation classes",
        logarithmic="x",
    )
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
