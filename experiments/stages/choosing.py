"""Which teachers of a zoo take part in a run, where not all do."""

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from experiments import inputs
from experiments.harness import files, hosts
from experiments.harness.run import Run
from experiments.inputs.contents import fingerprint
from experiments.stages import reuse
from free_jax import zoo as zoo_lib
from free_jax.errors import InputError
from free_jax.inversion import cost
from free_jax.panel.choosing_teachers import ChoosingOptions, choose_from_zoo
from free_jax.zoo import Zoo, tasks

CHOSEN_FILE = "chosen_teachers.json"
# Of a zoo, the teachers that a method can use.
Usable = Callable[[Zoo], tasks.Able]


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


def everyone(zoo: Zoo) -> tasks.Able:
    """All teachers can be used."""
    return tasks.able(zoo, 1)


def chosen(
    zoo: Zoo | None, options: ChoosingOptions, run: Run, able: Usable = everyone
) -> Choice:
    """Chooses the teachers, and writes ``chosen_teachers.json``: why each is or is not.

    Args:
      zoo: all teachers; None where there are none.
      options: how many, and by what.
      run: keeps the images and the answers that decide.
      able: those of a zoo that the method can use.

    Raises:
      Stopped: stop was requested; finished parts are kept.
      InputError: nobody answers anything that depends on the image, the method can use
        nobody, or endpoints may not be asked about so many probes.
    """
    if zoo is None or not 0 < options.teachers < zoo.num_teachers:
        return Choice(zoo)
    usable = _usable(zoo, options, able)
    # Once made it stays: another processor might break a tie otherwise.
    made = hosts.agreed(_kept(run))
    if made is None:
        key = run.key("chosen teachers")
        for line in usable.left_out:
            print(f"not chosen among: {line}; the panel would use it", flush=True)
        found = choose_from_zoo(
            key,
            zoo,
            options,
            run.cached,
            among=usable.rows,
            map_tasks=run.map_tasks,
        )
        made = {"asked": found.asked, "teachers": found.verdicts}
        made = hosts.agreed({"zoo": fingerprint(zoo), **made})
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
        "asking_gflops": _gflops(usable.zoo, made["asked"]),
        "seconds": seconds,
        "teachers": sorted(best, key=lambda verdict: verdict["place"]),
    }
    few = inputs.place_zoo(zoo_lib.select(zoo, rows), run.place, run.split)
    return Choice(few, {"chosen_teachers": told}, seconds)


def stand_ins(
    zoo: Zoo | None, options: ChoosingOptions, able: Usable = everyone
) -> Zoo | None:
    """The teachers any of whom `chosen` may give; nobody is asked.

    Raises:
      InputError: as `chosen`, of what is known before anybody is asked.
    """
    if zoo is None or not 0 < options.teachers < zoo.num_teachers:
        return zoo
    return _usable(zoo, options, able).zoo


def _usable(zoo: Zoo, options: ChoosingOptions, able: Usable) -> tasks.Able:
    """Those to choose among, whose budgets outlast the choice."""
    found = able(zoo)
    asks = options.by == "informative" and options.teachers < len(found.rows)
    if asks and found.zoo.service is not None:
        _check_budgets(found.zoo, options.probes)
    return found


def _check_budgets(zoo: Zoo, probes: int) -> None:
    """Refuses to pay for a choice after which nobody could be asked.

    Whole budgets count, not what is left of them: a run that goes on has asked already.

    Raises:
      InputError: a budget is no larger than what the choice asks.
    """
    remote = [g for g in zoo.groups if g.network.service is not None]
    bill, needed = zoo.service.bill(), probes * sum(g.num_teachers for g in remote)
    limits = [(bill["budget"], needed, "all endpoints")]
    limits += [(e["budget"], probes, name) for name, e in bill["endpoints"].items()]
    for budget, asked, who in limits:
        if 0 < budget <= asked:
            raise InputError(
                f"config.zoo.choose.probes={probes}: the choice asks {asked} of the "
                f"{budget} queries that {who} may be sent, and nothing is left for "
                "the images; lower probes, raise the budget, or choose by random"
            )


def part_of(run: Run) -> reuse.Part | None:
    """From whom a run's teachers were chosen; None where all take part.

    Nor is it known of a run that chose before this was noted.
    """
    made = hosts.agreed(_kept(run)) or {}
    if "zoo" not in made:
        return None
    rows = [told["teacher"] for told in made["teachers"] if told["place"] is not None]
    return reuse.Part(made["zoo"], np.sort(rows))


def _kept(run: Run) -> dict[str, Any] | None:
    """The choice that this run made earlier."""
    file = run.path(CHOSEN_FILE)
    there = hosts.is_writer() and file.exists()
    return json.loads(file.read_text()) if there else None


def _gflops(zoo: Zoo, asked: int) -> float:
    """Of the questions, by the cost model."""
    total = sum(cost.gflops(g.network) * g.num_teachers for g in zoo.groups)
    return asked * total / zoo.num_teachers
