"""Accuracy on validation classes against minutes, of finished runs in one picture.

    python benchmarks/accuracy_over_time.py panel=runs/panel FREE=runs/free_1s \
        baselines=runs/baselines --picture=docs/accuracy_over_time.png

Each argument names a working directory.  A run that learned is a curve: its validation
while it trained, where time includes recovery and asking; one that did not (a run of
`baselines_cifar_fs.py` with ``--config.eval.split=val``) is a level line for each of
its rows, under the row's name.  Prints the last point of each.
"""

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from experiments.evaluation import former_rows
from experiments.harness import plots, results

Points = list[tuple[float, float, float]]


def curve(result: dict, shots: int, protocol: str) -> Points:
    """Points (minutes, accuracy, interval) of one run's validation."""
    metric = f"val_{shots}shot_{protocol}"
    found = plots.points(result.get("curve", ()), "seconds", metric)
    return [(seconds / 60, mean, ci95) for seconds, mean, ci95 in found]


def levels(result: dict, shots: int, protocol: str) -> dict[str, tuple[float, float]]:
    """Accuracy and interval of each row that needs no training."""
    cells = {name: row.get(str(shots), {}) for name, row in result["results"].items()}
    return {
        name: (cell[protocol]["mean"], cell[protocol]["ci95"])
        for name, cell in cells.items()
        if protocol in cell
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="NAME=WORKDIR")
    parser.add_argument("--shots", type=int, default=1)
    parser.add_argument(
        "--protocol", default="inductive", choices=("inductive", "transductive")
    )
    parser.add_argument("--picture", default="accuracy_over_time.png")
    options = parser.parse_args()
    drawn: dict[str, Points] = {}
    flat: dict[str, tuple[float, float]] = {}
    for argument in options.runs:
        name, _, folder = argument.partition("=")
        file = pathlib.Path(folder) / results.RESULT_FILE
        if not folder or not file.exists():
            parser.error(f"{argument}: give NAME=WORKDIR of a finished run")
        result = former_rows.read_result(file)
        points = curve(result, options.shots, options.protocol)
        rows = {}
        if not points and result.get("split") == "val":
            rows = levels(result, options.shots, options.protocol)
        if not points and not rows:
            parser.error(
                f"{argument}: no {options.shots}-shot validation was made in training, "
                f"and its table is on {result.get('split', 'no')} classes; set "
                "config.eval.every_steps, or config.eval.split=val for baselines"
            )
        if twice := ({name} if points else rows.keys()) & (drawn.keys() | flat.keys()):
            parser.error(f"{argument}: there is another {', '.join(sorted(twice))}")
        drawn |= {name: points} if points else {}
        flat |= rows
    times = [point[0] for points in drawn.values() for point in points] or [0.0, 1.0]
    for name, (mean, ci95) in flat.items():
        drawn[name] = [(min(times), mean, ci95), (max(times), mean, ci95)]
    for name, points in drawn.items():
        minutes, mean, ci95 = points[-1]
        when = "" if name in flat else f" after {minutes:.0f} minutes"
        print(f"{name}: {mean:.1f} +- {ci95:.1f} %{when}")
    plots.save_curves(
        options.picture,
        drawn,
        xlabel="minutes of recovery, asking and training",
        ylabel="accuracy (%)",
        title=f"{options.shots}-shot {options.protocol}, validation classes",
    )


if __name__ == "__main__":
    main()
