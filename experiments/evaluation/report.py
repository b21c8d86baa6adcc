"""The end of a run: its table, ``result.json``, the model and pictures."""

import shlex
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.evaluation import costs as costs_lib
from experiments.evaluation import (
    final,
    former_rows,
    run_page,
    run_pictures,
    run_sections,
    samples,
)
from experiments.harness import (
    files,
    hosts,
    metrics,
    page,
    results,
    same_run,
)
from experiments.harness.method import Meters, Method, Outcome
from experiments.harness.run import Run
from free_jax import model_io, nouns
from free_jax.algorithm import total_draws
from free_jax.zoo import Zoo

COLUMNS = ("method", "shots", "transductive %", "inductive %")
TABLE_FILE = "table.md"
NO_IMAGES = "not measured on real images: none were given (config.data.path)"
# Where teachers take nothing from the data.
LATER = "; the same command with them measures this model"


class About(NamedTuple):
    """What a table and ``result.json`` say of their run.

    Attributes:
      algorithm: name of the method.
      learner: how a model is adapted to an episode, kept in ``model.npz``.
      data: name of the data set.
      split: its classes that the table is on.
      way, shots, queries, episodes: of the table's episodes.
      selection: what chose the model: "last", "pseudo" or "val".
      protocol: of the validation curve that is drawn.
    """

    algorithm: str
    learner: dict[str, Any]
    data: str
    split: str
    way: int
    shots: Sequence[int]
    queries: int
    episodes: int
    selection: str
    protocol: str


def finished(run: Run, *, may_go_on: bool = True) -> dict[str, Any] | None:
    """The result of a run of this very config that is finished already, or None.

    Args:
      run: that may be finished.
      may_go_on: whether more steps would train on; for what is said.
    """
    found = hosts.agreed(_stored(run))
    if found is not None:
        print(run.path(TABLE_FILE).read_text())
        if hosts.is_writer() and not run.path(page.PAGE_FILE).exists():
            run_page.write(run.workdir)  # Of an earlier version's run.
        more = " or more steps to train on" if may_go_on else " to train anew"
        print(f"{run.workdir} is finished; use another --workdir{more}")
    return found


def _stored(run: Run) -> dict[str, Any] | None:
    file = run.path(results.RESULT_FILE)
    if not hosts.is_writer() or not file.exists():
        return None
    record = former_rows.read_result(file)
    same = record.get("config_hash") in same_run.hashes(run.workdir, run.identity)
    return record if same else None


def recovery_seconds(meters: Meters) -> float | None:
    """Time that recovering images took; None where it is part of training's steps."""
    if meters.images_per_step or meters.images_before:
        return meters.making_images
    return meters.making_images or 0.0


def write(
    run: Run,
    about: About,
    method: Method,
    outcome: Outcome,
    table: final.Table,
    *,
    further: Sequence[Mapping[str, Any]] = (),
    zoo: Zoo | None = None,
    teachers: Sequence[Mapping[str, Any]] = (),
    bill: Mapping[str, Any] | None = None,
    choice: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Writes everything a reader wants of a finished run.

    Args:
      run: where to write.
      about: what the table is of.
      method: what was trained.
      outcome: of the training.
      table: all cells.
      further: what the rows of further folders are of, ready for JSON.
      zoo: teachers, for the names and the costs of recovered images; None: none were.
      teachers: what the model was made from, kept in ``model.npz``; see
        `release.made_from`.
      bill: what a service charged, counts ready for JSON; None without one.
      choice: entries about which teachers took part, ready for JSON.

    Returns:
      The contents of ``result.json``.
    """
    text = _print_table(run.seed, about, method, table, further)
    if hosts.is_writer():
        print("writing the model, pictures and what was spent ...", flush=True)
        files.write_text(run.path(TABLE_FILE), text)
        model_io.save_model(
            run.path("model.npz"),
            method.network,
            jax.device_get(outcome.model),
            algorithm=about.algorithm,
            learner=about.learner,
            steps=outcome.steps,
            seed=run.seed,
            teachers=list(teachers),
        )
        names = zoo.class_names if zoo else ()
        run_pictures.recovered(run, method, outcome, names)
        title = f"{about.algorithm} on {about.data}"
        run_pictures.curves(run, method, outcome, about.shots, about.protocol, title)
    queries = _queries(method, outcome, bill)
    drawn = _drawn(run, method, outcome, [entry["source"] for entry in teachers])
    if bill:
        each = max(count["queries"] for count in bill["endpoints"].values())
        print(f"queries: {bill['queries']} images in total, at most {each} an endpoint")
    costs = _kept_for_the_page(run, method, outcome, zoo) if zoo else None
    told = method.told(outcome.state)
    record = results.write_result(
        run.workdir,
        {
            "algorithm": about.algorithm,
            "results": table.results,
            "selection": about.selection,
            "split": about.split,
            "episodes": about.episodes,
            "seed": run.seed,
            "steps": outcome.steps,
            "meta_updates": outcome.meta_updates,
            "seconds": outcome.seconds,
            "recovery_seconds": recovery_seconds(method.meters),
            "evaluation_seconds": table.seconds,
            "images_recovered": method.meters.images_before
            + outcome.steps * method.meters.images_per_step,
            "curve": outcome.curve,
            **({"further": list(further)} if further else {}),
            **({"cost": costs} if costs else {}),
            **queries,
            **choice,
            **drawn,
        },
        run.identity,
        told,
    )
    if hosts.is_writer():
        run_page.write(run.workdir)
        _say_where(run.workdir)
    return record


def _print_table(
    seed: int,
    about: About,
    method: Method,
    table: final.Table,
    further: Sequence[Mapping[str, Any]],
) -> str:
    """Prints the table, or why there is none; returns what ``table.md`` shall say."""
    title = (
        f"{about.data or 'further folders'}, {about.split} classes, {about.way}-way, "
        f"{about.queries} queries, {about.episodes} episodes, 95 % intervals, seed "
        f"{seed}, model selected by: {about.selection}"
    )
    if table.results:
        text = metrics.print_table(_rows(table, about.shots), COLUMNS, title=title)
    else:
        title = f"{method.title}, seed {seed}, model selected by: {about.selection}"
        text = NO_IMAGES + ("" if about.data else LATER)
        print(text)
    for each in further:
        line = "{name}: {classes} classes, {queries} queries, {path}".format(**each)
        print(line)
        text += f"\n{line}"
    return f"{title}\n\n{text}\n"


def _kept_for_the_page(
    run: Run, method: Method, outcome: Outcome, zoo: Zoo
) -> dict[str, Any] | None:
    """Keeps what only teachers can tell; returns the costs."""
    if recovered := method.subject.recovered:
        # What counts its queries asks nothing beside them; and of several processes
        # all would have to ask, also after a failure of one.
        asking = method.meters.queries_of is None and jax.process_count() == 1
        page.attempted(
            "samples",
            lambda: samples.keep(
                run, zoo, jax.device_get(recovered(outcome.state)), asking=asking
            ),
        )
    return page.attempted("costs", lambda: costs_lib.counted(zoo, method, outcome))[0]


def _say_where(folder: str) -> None:
    """The last lines: where to look, and what to do next."""
    files_there = (TABLE_FILE, results.RESULT_FILE, model_io.MODEL_FILE)
    print(f"written to {folder}: {', '.join(files_there)}, metrics, pictures")
    run_page.say_where(folder)
    print(f"next: {run_sections.classify_command(shlex.quote(folder))}", flush=True)


def _rows(table: final.Table, shots: Sequence[int]) -> list[dict[str, Any]]:
    rows = []
    for number in shots:
        for name, cells in table.results.items():
            if str(number) in cells:
                both = final.shown(cells[str(number)])
                values = (name, number, *both)
                rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def _queries(
    method: Method, outcome: Outcome, bill: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Images that teachers were asked about: as charged, else by our own count."""
    if bill:
        rest = {key: value for key, value in bill.items() if key != "queries"}
        return {"queries": {"total": bill["queries"], **rest}}
    if not method.meters.queries_of:
        return {}
    spent = method.meters.queries_of(outcome.state)
    return {"queries": {"total": int(spent.sum()), **_by_teacher(method, spent)}}


def _by_teacher(method: Method, counts: np.ndarray) -> dict[str, Any]:
    """Counts of those that take part and, where not all do, their rows in the zoo."""
    rows = method.subject.rows
    which = {} if rows is None else {"teachers": np.asarray(rows).tolist()}
    return {"per_teacher": counts.tolist(), **which}


def _drawn(
    run: Run, method: Method, outcome: Outcome, names: Sequence[str]
) -> dict[str, Any]:
    """How often each teacher's turn came, for methods that draw them."""
    numbers = outcome.key_numbers
    # An earlier version's steps had other keys.
    if numbers is None or same_run.key_scheme(run.workdir) != same_run.KEYS:
        return {}
    counts = total_draws(
        method.algorithm, lambda number: run.key("step", number), numbers, method.data
    )
    if counts is None:
        return {}
    names = names or [f"teacher {row}" for row in range(len(counts))]
    never = [name for name, times in zip(names, counts, strict=True) if not times]
    line = (
        f"drawn: each of {nouns.count(len(counts), 'teacher')} {counts.min()} to "
        f"{counts.max()} times"
    )
    if never:
        more = ", ..." if len(never) > 5 else ""
        line += f"; never: {', '.join(never[:5])}{more} "
        line += f"({nouns.count(len(never), 'teacher')})"
    print(line)
    return {"drawn": {**_by_teacher(method, counts), "never": len(never)}}
