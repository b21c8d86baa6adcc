"""Which teachers of a zoo take part in a run, where not all do."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from experiments import inputs
from experiments.harness import files, hosts
from experiments.harness.run import Run
from free_jax import zoo as zoo_lib
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
      InputError: nobody answers anything that depends on the image.
    """
    if zoo is None or not 0 < options.teachers < zoo.num_teachers:
        return Choice(zoo)
    key = run.key("chosen teachers")
    found = choose_from_zoo(key, zoo, options, run.cached, map_tasks=run.map_tasks)
    # By floating point: processes of several machines might find another order.
    rows = np.asarray(hosts.agreed(found.rows.tolist()))
    if hosts.is_writer():
        files.write_json(run.path(CHOSEN_FILE), {"teachers": found.verdicts})
    print(
        f"{len(rows)} of {zoo.num_teachers} teachers take part ({options.by}); see "
        f"{run.path(CHOSEN_FILE)}",
        flush=True,
    )
    seconds = run.seconds_spent("probes", "probed")
    best = [verdict for verdict in found.verdicts if verdict["place"] is not None]
    told = {
        "by": options.by,
        "of": zoo.num_teachers,
        "asked": found.asked,
        "asking_gflops": _gflops(zoo, found.asked),
        "seconds": seconds,
        "teachers": sorted(best, key=lambda verdict: verdict["place"]),
    }
    few = inputs.place_zoo(zoo_lib.select(zoo, rows), run.place)
    return Choice(few, {"chosen_teachers": told}, seconds)


def stand_ins(zoo: Zoo | None, options: ChoosingOptions) -> Zoo | None:
    """The first ones in place of those that `chosen` will give; nobody is asked."""
    if zoo is None or not 0 < options.teachers < zoo.num_teachers:
        return zoo
    return zoo_lib.select(zoo, np.arange(options.teachers))


def _gflops(zoo: Zoo, asked: int) -> float | None:
    """Of the questions, by the cost model; None where services answer."""
    if zoo.service is not None:
        return None
    total = sum(cost.gflops(g.network) * g.num_teachers for g in zoo.groups)
    return asked * total / zoo.num_teachers
