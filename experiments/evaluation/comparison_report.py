"""One table, one JSON file and plots of a comparison's cells."""

import pathlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.evaluation import comparison_places
from experiments.evaluation.comparison_places import figure
from experiments.harness import metrics, pictures, plots, results
from experiments.harness.files import write_text
from experiments.harness.run import Run
from free_jax.fewshot.evaluation import PROTOCOLS
from free_jax.interop.hub.names import no_formula

COSTS = ("recovery_seconds", "images_recovered", "meta_updates", "wall_seconds")


def write(
    run: Run,
    title: str,
    outcomes: Mapping[Any, dict[str, Any]],
    *,
    shots: Sequence[int],
    places: Sequence[str] = ("",),
    final: bool = False,
) -> dict[str, Any]:
    """Writes what is known so far; plots only in the end.

    Args:
      run: of the comparison.
      title: of the table.
      outcomes: `cells.Cell` to its result, or ``{"error": line}``.
      shots: support images a class of the columns.
      places: what the images are called that cells are measured on; the first are their
        own, further ones are columns of a second table.
      final: print the table and draw.

    Returns:
      The contents of ``result.json``.
    """
    folder = pathlib.Path(run.workdir)
    rows = list(_rows(outcomes, shots, places))
    shown = [formatted(row) for row in rows]
    columns = list(dict.fromkeys(name for row in shown for name in row))
    table = metrics.markdown_table(shown, columns)
    by_place = comparison_places.formatted(rows)
    names = list(by_place[0]) if by_place else []
    if by_place:
        second = metrics.markdown_table(by_place, names)
        table += f"\n\n{comparison_places.TOLD}\n\n{second}"
    write_text(folder / "table.md", f"{title}\n\n{table}\n")
    if final:
        print()
        metrics.print_table(shown, columns, title=title)
        if by_place:
            metrics.print_table(by_place, names, title=comparison_places.TOLD)
        _draw(folder, rows, outcomes, shots[0])
        print(f"written to {run.workdir}: table.md, result.json, plots, cells")
    record = {"title": title, "rows": rows}
    return results.write_result(run.workdir, record, run.identity)


def _rows(
    outcomes: Mapping[Any, dict[str, Any]],
    shots: Sequence[int],
    places: Sequence[str] = ("",),
) -> Iterator[dict[str, Any]]:
    """One row a method (a cell may hold several), in numbers, over all seeds."""
    for name in dict.fromkeys(cell.name for cell in outcomes):
        by_seed = {c.seed: r for c, r in outcomes.items() if c.name == name}
        zoo = next(cell.zoo for cell in outcomes if cell.name == name)
        errors = {s: r["error"] for s, r in by_seed.items() if "error" in r}
        done = {s: r for s, r in by_seed.items() if s not in errors}
        if not done:
            yield {"method": name, "seeds": [], "errors": errors}
            continue
        first = next(iter(done.values()))
        found = [
            row
            for row in first["results"]
            if not comparison_places.is_placed(row, places)
        ]
        for method in found:
            row = {"method": method, "seeds": list(done), "errors": errors}
            if zoo or first.get("steps", 1):  # What trains nothing is its rows.
                several = len(found) > 1
                row["method"] = f"{name}: {method}" if several else name
            row["cell"] = name
            row["selection"] = first["selection"]
            row["accuracy"] = _accuracies(done.values(), method, shots)
            if len(places) > 1:
                row["places"] = comparison_places.with_mean(
                    {
                        place: _accuracies(
                            done.values(),
                            comparison_places.placed(method, place, places[0]),
                            shots,
                        )
                        for place in places
                    }
                )
            for cost in COSTS:
                values = [_cost(r, cost) for r in done.values()]
                known = [value for value in values if value is not None]
                complete = len(known) == len(values)
                row[cost] = float(np.mean(known)) if complete else None
            yield row


def _cost(result: dict[str, Any], name: str) -> float | None:
    if name == "wall_seconds":
        return result["seconds"] + result["evaluation_seconds"]
    return result[name]


def _accuracies(
    results: Collection[dict[str, Any]], row: str, shots: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """A row's accuracy at each number of shots."""
    return {
        str(n): _accuracy([result["results"][row][str(n)] for result in results])
        for n in shots
    }


def _accuracy(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean over seeds; the interval is that of all seeds' episodes together."""
    skipped = [cell["skipped"] for cell in cells if "skipped" in cell]
    if skipped:
        return {"skipped": skipped[0]}
    found = {}
    for protocol in PROTOCOLS:
        if any(protocol not in cell for cell in cells):
            continue
        # Numbers that are not finite are text in files.
        means = [float(cell[protocol]["mean"]) for cell in cells]
        widths = [float(cell[protocol]["ci95"]) for cell in cells]
        found[protocol] = {
            "mean": float(np.mean(means)),
            "ci95": float(np.linalg.norm(widths) / len(widths)),
            "by_seed": means,
        }
    return found


def formatted(row: dict[str, Any]) -> dict[str, Any]:
    """A row as the table shows it."""
    shown: dict[str, Any] = {
        "method": no_formula(row["method"]),
        "seeds": len(row["seeds"]),
    }
    if row["errors"]:
        line = next(iter(row["errors"].values())).replace("|", "/")
        if not row["seeds"]:
            return shown | {"selection": f"failed: {line}"}
        shown["seeds"] = f"{len(row['seeds'])} ({len(row['errors'])} failed: {line})"
    shown["selection"] = row["selection"]
    for protocol in PROTOCOLS:
        for shots, cell in row["accuracy"].items():
            column = f"{shots}-shot" + (" ind." if protocol == "inductive" else "")
            if "skipped" in cell:
                shown[column] = f"- ({cell['skipped']})"
            else:
                # A network without batch norm has no transductive figure.
                shown[column] = figure(cell[protocol]) if protocol in cell else "-"
    names = ("recovery s", "images", "meta-updates", "wall s")
    for name, cost in zip(names, COSTS, strict=True):
        shown[name] = "in training" if row[cost] is None else f"{row[cost]:.0f}"
    return shown


def _draw(
    folder: pathlib.Path,
    rows: list[dict[str, Any]],
    outcomes: Mapping[Any, dict[str, Any]],
    shots: int,
) -> None:
    """Accuracy over time and against cost, recovery time, and recovered images."""
    metrics = [f"val_{shots}shot_{protocol}" for protocol in PROTOCOLS]
    curves, sheets = {}, {}
    for cell, result in outcomes.items():
        curve = result.get("curve", ())
        found = (plots.points(curve, "seconds", metric) for metric in metrics)
        points = next(filter(None, found), None)
        if points and cell.name not in curves:
            curves[cell.name] = points
        sheet = cell.workdir / "recovered.png"
        if sheet.exists() and cell.name not in sheets:
            sheets[cell.name] = sheet
    if curves:
        plots.save_curves(
            folder / "accuracy_over_time.png",
            curves,
            xlabel="seconds of recovery and training",
            ylabel="accuracy (%)",
            title=f"{shots}-shot, validation classes",
        )
    ends, recovery = {}, {}
    for row in rows:
        accuracy = row.get("accuracy", {}).get(str(shots), {})
        # A cell of many baselines has one time for all of them.
        measured = [name for name in PROTOCOLS if name in accuracy]
        if measured and row["meta_updates"]:
            value = accuracy[measured[0]]
            point = (row["wall_seconds"], value["mean"], value["ci95"])
            ends[row["method"]] = [point]
        if row.get("recovery_seconds"):
            recovery[row["cell"]] = row["recovery_seconds"]
    if ends:
        plots.save_curves(
            folder / "accuracy_and_cost.png",
            ends,
            xlabel="seconds, evaluation included",
            ylabel="accuracy (%)",
            title=f"{shots}-shot",
        )
    if recovery:
        plots.save_bars(
            folder / "recovery_time.png", recovery, xlabel="seconds of recovery"
        )
    if sheets:
        pictures.save_side_by_side(folder / "recovered.png", sheets)
