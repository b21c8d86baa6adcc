"""The cells of the final table, each kept as soon as it is measured."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from experiments.evaluation import former_rows
from experiments.harness import contents as contents_lib
from experiments.harness import files, hosts, same_run, stopping
from experiments.harness.method import Outcome
from experiments.harness.progress import Progress
from experiments.harness.run import Run
from free_jax import nouns
from free_jax.baselines import BASELINES, NotApplicable, Scores, Setting, evaluate
from free_jax.fewshot import evaluation
from free_jax.fewshot.evaluation import Classify

CELLS_FILE = "cells.json"


class Table(NamedTuple):
    """A finished table.

    Attributes:
      results: row to shots (as text) to ``{protocol: {mean, ci95, per_episode}}``, or
        to ``{"skipped": reason}``.
      seconds: that measuring took, over all interruptions.
    """

    results: dict[str, dict[str, dict[str, Any]]]
    seconds: float


# Of a run without real images.
NOT_MEASURED = Table({}, 0.0)


def measure(
    run: Run,
    predictors: Mapping[str, Classify],
    outcome: Outcome,
    setting: Setting,
    *,
    shots: Sequence[int],
    baselines: Sequence[str] = (),
    place: str = "",
) -> Table:
    """Measures all cells that an earlier call has not.

    Args:
      run: its directory keeps the cells.
      predictors: of the method; their rows come first.
      outcome: of the training: the model that `predictors` take.
      setting: the episodes, the same for every row; its ``shots`` is replaced.
      shots: support images a class, one column of cells each.
      baselines: names of `BASELINES`, in order.
      place: what the images are called, in the rows; "": they are the run's own.

    Raises:
      Stopped: stop was requested; what is measured by then is kept.
    """
    found = _rows(predictors, outcome.model, baselines)
    rows = {placed(name, place): row for name, row in found.items()}
    known = same_run.hashes(run.workdir, run.identity)
    store = _Store(run.path(CELLS_FILE), known, same_run.noted(run.workdir))
    cells = list(_cells(rows, shots))
    todo = sum(store.get(name, number) is None for number, name, _ in cells)
    if todo:
        print(
            f"measuring {nouns.count(todo, 'cell')} of "
            f"{nouns.count(setting.num_episodes, 'episode')}; the first of a row "
            "compiles",
            flush=True,
        )
    done, every = 0, run.every_secs
    with Progress(todo, label="cells", every_secs=every, at_once=False) as progress:
        for number, name, row in cells:
            cell = store.get(name, number)
            if cell is None:
                if run.stop.requested:
                    raise stopping.Stopped(outcome.steps)
                clock = time.monotonic()
                cell = _measured(row, setting._replace(shots=number))
                store.put(name, number, cell, time.monotonic() - clock)
                done += 1
                progress.update(done)
            print(f"  tested {name}, {number}-shot: {shown(cell)[0]}", flush=True)
    return Table(store.results, store.seconds)


def placed(row: str, place: str) -> str:
    """What a row is called that is measured on further images.

    >>> placed("one teacher", "birds"), placed("one teacher", "")
    ('one teacher on birds', 'one teacher')
    """
    return f"{row} on {place}" if place else row


def shown(cell: Mapping[str, Any]) -> tuple[str, str]:
    """A cell as the table shows it: transductive and inductive, "-" for none."""
    if "skipped" in cell:
        return f"- ({cell['skipped']})", ""
    # A network without batch norm has no transductive figure.
    first, second = (
        _shown(cell[name]) if name in cell else "-" for name in evaluation.PROTOCOLS
    )
    return first, second


def _shown(value: Mapping[str, Any]) -> str:
    # Numbers that are not finite are text in files.
    mean, ci95 = float(value["mean"]), float(value["ci95"])
    episodes = value.get("per_episode", ())
    return evaluation.shown(mean, ci95, value.get("failed", 0), len(episodes))


def _rows(
    predictors: Mapping[str, Classify], model: Any, baselines: Sequence[str]
) -> dict[str, Callable[[Setting], Scores]]:
    """Name of a row to how it is measured, the method's first."""
    ours = {
        name: lambda setting, classify=classify: evaluate(setting, classify, model)
        for name, classify in predictors.items()
    }
    return ours | {BASELINES[name].label: BASELINES[name].run for name in baselines}


def _cells(
    rows: dict[str, Callable[[Setting], Scores]], shots: Sequence[int]
) -> Iterator[tuple[int, str, Callable[[Setting], Scores]]]:
    for number in shots:
        for name, row in rows.items():
            yield number, name, row


def _measured(row: Callable[[Setting], Scores], setting: Setting) -> dict[str, Any]:
    try:
        scores = row(setting)
    except NotApplicable as reason:
        return {"skipped": str(reason)}
    return {
        protocol: {
            "mean": value.mean,
            "ci95": value.ci95,
            **({"failed": value.failed} if value.failed else {}),
            "per_episode": value.per_episode.round(3).tolist(),
        }
        for protocol, value in scores.items()
    }


class _Store:
    """Measured cells on disk."""

    def __init__(
        self, file: epath.Path, hashes: tuple[str, ...], contents: contents_lib.Noted
    ):
        self._file, self._hash, self._contents = file, hashes[0], contents
        stored: dict[str, Any] = hosts.agreed(_stored(file, hashes, contents)) or {}
        known = stored.get("results", {})
        self.results: dict[str, dict[str, Any]] = {
            former_rows.row_name(name): cells for name, cells in known.items()
        }
        self.seconds: float = stored.get("seconds", 0.0)

    def get(self, row: str, shots: int) -> dict[str, Any] | None:
        return self.results.get(row, {}).get(str(shots))

    def put(self, row: str, shots: int, cell: dict[str, Any], seconds: float) -> None:
        self.results.setdefault(row, {})[str(shots)] = files.to_plain(cell)
        self.seconds += seconds
        stored = {
            "config_hash": self._hash,
            "contents": self._contents,
            "results": self.results,
            "seconds": self.seconds,
        }
        if hosts.is_writer():
            files.write_json(self._file, stored)


def _stored(
    file: epath.Path, hashes: tuple[str, ...], contents: contents_lib.Noted
) -> dict[str, Any] | None:
    """The cells, if they are of a config of these hashes and of the same images."""
    if not hosts.is_writer() or not file.exists():
        return None
    record = json.loads(file.read_text())
    # With another config, more steps or episodes were asked for since.
    if record.get("config_hash") not in hashes:
        return None
    before = record.get("contents", {})
    other = contents_lib.contradict(before, contents, needed=False)
    return None if other else record
