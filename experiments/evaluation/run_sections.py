"""What the page of a run says of its results, its training and what it cost."""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.evaluation import final
from experiments.harness import metrics, page, plots
from experiments.harness.page import Html
from free_jax.fewshot.evaluation import PROTOCOLS

_SIZE = (5.6, 3.6)  # Inches of a plot.


def results(
    result: Mapping[str, Any], trust: Mapping[str, Any], untold: str
) -> Sequence[Html]:
    """The table of a run and the numbers that matter most.

    Args:
      result: contents of ``result.json``.
      trust: contents of ``teachers.json``; empty where nobody judged.
      untold: why there is no table.
    """
    table = result.get("results", {})
    shots = sorted({int(n) for cells in table.values() for n in cells})
    columns = ("method", "shots", *(f"{name} %" for name in PROTOCOLS))
    rows, tiles = [], []
    for number in shots:
        for place, (name, cells) in enumerate(table.items()):
            if str(number) not in cells:
                continue
            both = [page.signed(text) for text in final.shown(cells[str(number)])]
            rows.append(dict(zip(columns, (name, number, *both), strict=True)))
            if place == 0 and "skipped" not in cells[str(number)]:
                first = next((text for text in both if text != "-"), "-")
                tiles.append((f"{first} %", f"{number}-shot, {name}"))
    if weights := trust.get("weights"):
        believed = sum(weight > 0 for weight in weights)
        tiles.append((f"{believed} of {len(weights)}", "teachers believed"))
    if images := result.get("images_recovered"):
        tiles.append((f"{images:,}".replace(",", " "), "images recovered"))
    if seconds := result.get("seconds"):
        spent = metrics.format_duration(float(seconds))
        tiles.append((spent, "recovery and training"))
    blocks = [page.tiles(tiles[:8])]
    blocks.append(page.table(rows, columns) if rows else page.paragraph(untold))
    for each in result.get("further", ()):
        line = "{name}: {classes} classes, {queries} queries, {path}".format(**each)
        blocks.append(page.paragraph(line))
    return blocks


def training(
    result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> Sequence[Html]:
    """Accuracy and losses over steps and over minutes.

    Args:
      result: contents of ``result.json``.
      rows: of the metrics file, in order.
    """
    curve = list(result.get("curve", ()))
    drawn = []
    minutes = [row | {"minutes": float(row["seconds"]) / 60} for row in curve]
    for x in ("minutes", "step"):
        series = accuracies(minutes, x)
        if series:
            plot = plots.Curves(series, x, "accuracy (%)", "validation classes")
            drawn.append(page.figure(plots.drawing_uri(plot, _SIZE)))
    for kind, names in _meters(rows).items():
        for x, at in (("minutes", _minutes(curve, rows)), ("step", None)):
            series = {name: _points(rows, name, at) for name in names}
            series = {name: points for name, points in series.items() if points}
            if not series or (x == "minutes" and at is None):
                continue
            values = [point[1] for points in series.values() for point in points]
            low, high = min(values), max(values)
            wide = kind == "losses" and 0 < low < high / 10
            plot = plots.Curves(series, x, "", kind, "y" if wide else "")
            drawn.append(page.figure(plots.drawing_uri(plot, _SIZE)))
    if not drawn:
        return []
    blocks = [page.figures(drawn)]
    if len(curve) > 1:
        told = (
            "Minutes hold what was spent before the first step; between two judgements "
            "they are interpolated."
        )
        blocks.append(page.paragraph(told))
    return blocks


def accuracies(
    curve: Sequence[Mapping[str, Any]], x: str
) -> dict[str, list[tuple[float, float, float]]]:
    """Validation accuracies with intervals, by what they are of."""
    names = dict.fromkeys(name for row in curve for name in row)
    ends = tuple(f"_{protocol}" for protocol in PROTOCOLS)
    found = {}
    for name in names:
        if name.startswith("val_") and name.endswith(ends):
            label = (
                name.removeprefix("val_").replace("_", ", ").replace("shot", "-shot")
            )
            found[label] = plots.points(curve, x, name)
    return found


def _meters(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Names of metrics that can share an axis: losses, shares, and other numbers."""
    found: dict[str, list[str]] = {"losses": [], "shares": [], "other meters": []}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row[name] for row in rows if name in row]
        if name in ("step", "queries") or name.startswith("val_"):
            continue
        numbers = [x for x in values if isinstance(x, (int, float))]
        if name.endswith(("loss", "_ce", "entropy")):
            found["losses"].append(name)
        elif numbers and 0 <= min(numbers) <= max(numbers) <= 1:
            found["shares"].append(name)
        else:
            found["other meters"].append(name)
    return found


def _points(
    rows: Sequence[Mapping[str, Any]], name: str, at: Sequence[float] | None
) -> list[tuple[float, float]]:
    found = []
    for number, row in enumerate(rows):
        if isinstance(row.get(name), (int, float)):
            found.append((row["step"] if at is None else at[number], row[name]))
    return found


def _minutes(
    curve: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]
) -> list[float] | None:
    """Of each row of metrics, interpolated between judged steps; None: unknown."""
    if len(curve) < 2:
        return None  # When the first step was made is not known.
    steps = [float(row["step"]) for row in curve]
    spent = [float(row["seconds"]) / 60 for row in curve]
    # The first judged step is as long after the start as it goes on.
    rate = (spent[-1] - spent[0]) / max(steps[-1] - steps[0], 1.0)
    steps, spent = [0.0, *steps], [max(spent[0] - rate * steps[0], 0.0), *spent]
    return np.interp([row["step"] for row in rows], steps, spent).tolist()


def costs(result: Mapping[str, Any], asking: float) -> Sequence[Html]:
    """Seconds, images, queries and GFLOPs: by the cost model, and as measured.

    Args:
      result: contents of ``result.json``.
      asking: seconds that asking teachers took, where it was a stage of its own.
    """
    counted = result.get("cost") or {}
    recovering = result.get("recovery_seconds")
    steps, chosen = result.get("steps"), result.get("chosen_teachers") or {}
    rows = [
        _cost(
            "asking all teachers, to choose some (forward passes)",
            chosen.get("asked"),
            chosen.get("asking_gflops"),
            chosen.get("seconds"),
        ),
        _cost(
            "recovering images (gradients)",
            counted.get("gradients") or None,
            counted.get("recovering_gflops"),
            recovering,
        ),
        _cost(
            "asking teachers (forward passes)",
            counted.get("answers"),
            counted.get("asking_gflops"),
            asking or None,
        ),
        _cost(f"all of the training, {steps} steps", None, None, result.get("seconds")),
        _cost("final evaluation", None, None, result.get("evaluation_seconds")),
    ]
    columns = ("what", "images", "GFLOPs by the cost model", "seconds measured")
    columns += ("GFLOPs a second",)
    columns = tuple(name for name in columns if any(name in row for row in rows))
    blocks = [page.table([row for row in rows if len(row) > 1], columns)]
    told = [f"{result.get('images_recovered', 0)} images were recovered"]
    if recovering is None:
        told.append("within the steps of the training, whose seconds hold theirs")
    if "queries" in result:
        told.append(f"teachers were asked about {result['queries']['total']} images")
    blocks.append(page.paragraph("; ".join(told) + "."))
    if counted:
        networks = [
            {
                "network": row["network"],
                "pixels": row["pixels"],
                "teachers": row["teachers"],
                "GFLOPs of an image": f"{row['gflops']:.4g}",
            }
            for row in counted["networks"]
        ]
        model = counted["model"]
        about = (
            "The cost model is that of published tables: N_iter x N_img x GFLOPs, with "
            "two times the multiply-adds of one forward pass for an image. A gradient "
            f"takes about twice that. The model itself ({model['network']}): "
            f"{model['gflops']:.4g} GFLOPs an image."
        )
        blocks.append(page.paragraph(about))
        blocks.append(
            page.details("By network", page.table(networks, tuple(networks[0])))
        )
    return blocks


def _cost(
    what: str, images: int | None, gflops: float | None, seconds: Any
) -> dict[str, Any]:
    row: dict[str, Any] = {"what": what}
    if images:
        row["images"] = images
    if gflops:
        row["GFLOPs by the cost model"] = metrics.format_number(float(gflops))
    if seconds:
        row["seconds measured"] = metrics.format_number(float(seconds))
    if gflops and seconds:
        row["GFLOPs a second"] = metrics.format_number(float(gflops) / float(seconds))
    return row


def going_on(
    folder: str, result: Mapping[str, Any], keys: Mapping[str, Any], *, model: bool
) -> Sequence[Html]:
    """Commands, config and versions.

    Args:
      folder: the working directory.
      result: contents of ``result.json``.
      keys: contents of ``config.json``.
      model: whether there is one to classify with.
    """
    blocks, where = [], shlex.quote(folder)
    command = result.get("command")
    if command:
        blocks += [
            page.paragraph("The same command continues the run, or shows its table:"),
            page.code(command),
        ]
    else:
        told = "The command it was started with, with the same --workdir, continues it."
        blocks.append(page.paragraph(told))
    if model:
        blocks += [
            page.paragraph("Classify your own pictures, and give the model to others:"),
            page.code(classify_command(where)),
            page.code(
                f"python experiments/export_model.py --model={where} --target=DIR"
            ),
        ]
    versions = result.get("versions", {})
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    place = f"{result.get('device_count', '?')} {result.get('backend', '?')} device(s)"
    blocks.append(page.paragraph(f"{place}; {told}; seed {keys.get('seed')}"))
    text = json.dumps(keys, indent=1, sort_keys=True)
    blocks.append(page.details("Config", page.code(text)))
    return blocks


def classify_command(folder: str) -> str:
    """How a model is used, of a folder that is quoted where it needs to be."""
    return (
        f"python experiments/classify.py --model={folder} --support=MY_CLASSES "
        "--images=MY_PICTURES --out=predictions.csv"
    )
