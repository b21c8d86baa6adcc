"""Which teachers of a zoo take part in a run, where not all do."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from experiments import inputs
from experiments.harness import files, hosts
from experiments.harness.run import Run
from free_jax import zoo as zoo_lib
from free_jax.errors import InputError
from free_jax.inversion import cost
from free_jax.panel.choosing_teachers import ChoosingOptions, choose_from_zoo
from free_jax.zoo import Zoo

CHOSEN_FILE = "chosen_teachers.json"


class Choice(NamedTuple):
    """The teachers that take part.

    Attributes:
      zoo: of them alone.
      told: entries of ``result.json`` about the choice; none where all take part.
      seconds: that choosing took, over all interruptions.
    """

    zoo: Zoo | None
    told: Mapping[str, Any] = MappingProxyType({})
    seconds: float = 0.0


def chosen(zoo: Zoo | None, options: ChoosingOptions, run: Run) -> Choice:
    """Chooses the teachers, and writes ``chosen_teachers.json``: why each is or is not.

    Args:
      zoo: all teachers; None where there are none.
      options: how many, and by what.
      run: keeps the images and the answers that decide.

    Raises:
      Stopped: stop was requested; finished parts are kept.
      InputError: nobody answers anything that depends on the image; or some teachers
        are behind endpoints, whose choice could not be paid for and billed.
    """
    if zoo is None or not 0 < options.teachers < zoo.num_teachers:
        return Choice(zoo)
    check(zoo, options)
    # Once made it stays: another processor might break a tie otherwise.
    made = hosts.agreed(_kept(run))
    if made is None:
        key = run.key("chosen teachers")
        found = choose_from_zoo(key, zoo, options, run.cached, map_tasks=run.map_tasks)
        made = hosts.agreed({"asked": found.asked, "teachers": found.verdicts})
        if hosts.is_writer():
            files.write_json(run.path(CHOSEN_FILE), made)
    best = [verdict for verdict in made["teachers"] if verdict["place"] is not None]
    rows = np.sort([verdict["teacher"] for verdict in best])
    print(
        f"{len(rows)} of {zoo.num_teachers} teachers take part ({options.by}); see "
        f"{run.path(CHOSEN_FILE)}",
        flush=True,
    )
    seconds = run.seconds_spent("probes", "probed")
    told = {
        "by": options.by,
        "of": zoo.num_teachers,
        "asked": made["asked"],
        "asking_gflops": _gflops(zoo, made["asked"]),
        "seconds": seconds,
        "teachers": sorted(best, key=lambda verdict: verdict["place"]),
    }
    few = inputs.place_zoo(zoo_lib.select(zoo, rows), run.place, run.split)
    return Choice(few, {"chosen_teachers": told}, seconds)


def check(zoo: Zoo | None, options: ChoosingOptions) -> None:
    """Refuses a choice that cannot be made; nobody is asked.

    Raises:
      InputError: some teachers are behind endpoints.
    """
    if zoo is not None and zoo.service is not None and options.teachers:
        raise InputError(
            "config.zoo.choose: teachers behind endpoints are not chosen among; list "
            "fewer in config.zoo.apis, and leave config.zoo.choose.teachers=0"
        )


def stand_ins(zoo: Zoo | None, options: ChoosingOptions) -> Zoo | None:
    """All teachers, any of whom `chosen` may give; nobody is asked.

    Whether those that will be chosen know enough classes for a method is not known yet.

    Raises:
      InputError: see `check`.
    """
    check(zoo, options)
    return zoo


def _kept(run: Run) -> dict[str, Any] | None:
    """The choice that this run made earlier."""
    file = run.path(CHOSEN_FILE)
    there = hosts.is_writer() and file.exists()
    return json.loads(file.read_text()) if there else None


def _gflops(zoo: Zoo, asked: int) -> float:
    """Of the questions, by the cost model."""
    total = sum(cost.gflops(g.network) * g.num_teachers for g in zoo.groups)
    return asked * total / zoo.num_teachers
