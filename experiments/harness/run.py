"""One run: where it writes, what it draws from, and the cache of what takes minutes."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from experiments.harness import chunks, same_run, stopping, workdir
from experiments.harness.contents import NOTHING, Contents
from free_jax import keys
from free_jax.errors import InputError
from free_jax.jobs import Job
from free_jax.split import Split


@dataclasses.dataclass(frozen=True)
class Run:
    """What all parts of a run share.

    Attributes:
      workdir: run directory, claimed by this process.
      seed: everything random comes from it.
      place: copies a tree of arrays to every device.
      map_tasks: how tasks are spread over devices, see `free_jax.parallel`.
      stop: polled between parts, so that all processes stop at the same point.
      identity: what a checkpoint must have in common with the run that restores it: the
        config as a nested dict.
      may_change: its dotted keys that may differ.
      every_secs: seconds between two progress lines.
      upgrade: the flat config of an earlier version's run as it reads today.
      work: does the jobs whose results are kept.
      split: over which axis of a mesh what grows is held in parts; None: nothing is.
    """

    workdir: str
    seed: int
    place: Callable[[Any], Any]
    map_tasks: Callable[..., Callable]
    stop: stopping.StopRequest
    identity: Any = None
    may_change: tuple[str, ...] = ()
    every_secs: float = 10.0
    upgrade: Callable[[dict[str, Any]], dict[str, Any]] = dict
    work: chunks.Work = chunks.in_turn
    split: Split | None = None

    def key(self, purpose: str, number: int | jax.Array | None = None) -> jax.Array:
        """The key of a named purpose, see `keys.named`."""
        return keys.named(jax.random.key(self.seed), purpose, number)

    def rng(self, purpose: str) -> np.random.Generator:
        """NumPy's generator of a named purpose."""
        return keys.named_rng(self.seed, purpose)

    def path(self, name: str) -> epath.Path:
        """A file or folder of the run."""
        return epath.Path(self.workdir) / name

    def cached(self, stage: str, jobs: Sequence[Job]) -> Iterator[dict[str, Any]]:
        """Does the jobs that have no sound file yet; yields all results in order.

        Results are kept in the folder `stage`, a file each, as soon as they are known:
        a stopped run loses one job at most.  A damaged file is made anew.  Each result
        gets an entry ``seconds``; one whose ``complete`` is False is not kept.

        Args:
          stage: name of the folder, also in what is printed.
          jobs: in order; their names are those of the files.

        Raises:
          Stopped: the run was asked to stop; what is finished is kept.
        """
        return chunks.cached(
            self.path(stage),
            jobs,
            self.stop,
            every_secs=self.every_secs,
            work=self.work,
        )

    def seconds_spent(self, *stages: str) -> float:
        """Seconds that the kept results of stages took, over all interruptions."""
        return chunks.seconds_spent(self.workdir, *stages)

    def confirm(self, contents: Contents) -> None:
        """Compares contents that were claimed unknown with those of the run's start.

        Raises:
          InputError: what results depend on is another.
        """
        same_run.confirm(self.workdir, self.identity, contents)


@contextlib.contextmanager
def opened(
    folder: str,
    *,
    seed: int,
    place: Callable[[Any], Any],
    map_tasks: Callable[..., Callable],
    identity: Any,
    may_change: tuple[str, ...] = (),
    elsewhere: tuple[str, ...] = (),
    contents: Contents = NOTHING,
    upgrade: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    redrawn: tuple[str, ...] = (),
    every_secs: float = 10.0,
    work: chunks.Work = chunks.in_turn,
    split: Split | None = None,
) -> Iterator[Run]:
    """A run in a working directory that is claimed for it; signals ask it to stop.

    Arguments are attributes of `Run`, and those of `workdir.claim_workdir`.

    Raises:
      InputError: the directory is in use, holds another run, or cannot be written.
    """
    with (
        workdir.claim_workdir(
            folder,
            identity,
            may_change=may_change,
            elsewhere=elsewhere,
            contents=contents,
            upgrade=upgrade,
            redrawn=redrawn,
        ) as claim,
        stopping.StopRequest() as stop,
    ):
        found = Run(
            folder,
            seed,
            place,
            map_tasks,
            stop,
            identity,
            may_change + elsewhere,
            every_secs,
            upgrade,
            work,
            split,
        )
        try:
            yield found
        except InputError:  # A run that is refused leaves nothing behind.
            claim.withdraw()
            raise
