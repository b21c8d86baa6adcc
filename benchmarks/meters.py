"""What a run noted of its steps, as means over windows of them.

    python benchmarks/meters.py RUN --every=25 --names teacher_accuracy inversion_ce

RUN is a working directory, of a finished run or one that was stopped.  Steps that were
not logged, and names that a step did not note, are left out of a mean.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np

from experiments.harness import metrics

FILE = "metrics.jsonl"


def windows(
    rows: Sequence[dict[str, Any]], every: int, names: Sequence[str]
) -> list[dict[str, str]]:
    """A row for steps 1 to `every`, one for the next as many, and so on.

    >>> rows = [{"step": 1, "a": 1.0}, {"step": 2, "a": 2.0}, {"step": 3}]
    >>> windows(rows, 2, ["a"])
    [{'steps': '1 to 2', 'a': '1.500'}, {'steps': '3 to 3', 'a': ''}]
    """
    found: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["step"] - 1) // every, []).append(row)
    table = []
    for _, mine in sorted(found.items()):
        told = {"steps": f"{mine[0]['step']} to {mine[-1]['step']}"}
        for name in names:
            values = [row[name] for row in mine if name in row]
            told[name] = f"{np.mean(values):.3f}" if values else ""
        table.append(told)
    return table


def main() -> None:
    """Prints the table of one run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--every", type=int, default=25)
    parser.add_argument("--names", nargs="+", required=True)
    options = parser.parse_args()
    if options.every < 1:
        parser.error(f"--every={options.every} must be at least 1")
    file = pathlib.Path(options.run) / FILE
    if not file.exists():
        parser.error(f"{options.run}: no {FILE}; give the working directory of a run")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    noted = sorted({name for row in rows for name in row if name != "step"})
    if unknown := [name for name in options.names if name not in noted]:
        parser.error(
            f"{options.run} notes no {', '.join(unknown)}; choose from "
            f"{', '.join(noted)}"
        )
    table = windows(rows, options.every, options.names)
    metrics.print_table(table, tuple(table[0]), title=options.run)


if __name__ == "__main__":
    main()
