"""Jobs done by the workers of a Dask cluster, which schedules and retries them.

A list of jobs is sent once and read once by each worker, so that a program is compiled
once a worker. Workers may come, go and die; what they were at is done by another. If
the cluster dies, what it finished is in the run's folder, and the same command goes on.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import io
import logging
import pathlib
import pickle
import socket
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.harness import chunks, hosts, metrics
from free_jax import parallel
from free_jax.errors import InputError
from free_jax.jobs import Job

# What of JAX's configuration decides what a program computes.
_SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_threefry_partitionable",
    "jax_default_prng_impl",
)
# Seconds between two looks at whether the run was asked to stop.
_LOOK = 1.0


@contextlib.contextmanager
def opened(address: str, *, patience: float = 60.0) -> Iterator[chunks.Work]:
    """The workers of a scheduler.

    Args:
      address: of the scheduler, such as ``tcp://10.0.0.2:8786``; "": this process does
        the jobs.
      patience: seconds that a scheduler, and then a worker, is waited for.

    Yields:
      Who does jobs, for `chunks.cached`.

    Raises:
      InputError: nobody answers there, a worker has other versions, or this is one of
        several processes of a run.
    """
    if not address:
        yield chunks.in_turn
        return
    try:
        import distributed
    except ImportError as error:
        raise InputError(
            f"config.cluster={address}: {error}; pip install 'free_jax[cluster]'"
        ) from None
    if hosts.are_many():
        raise InputError(
            "config.cluster is for runs of one process; make the images and answers "
            "with it, and then continue in the same --workdir without it"
        )
    # Of what goes wrong there one line is told, not every attempt to reconnect.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    try:
        client = distributed.Client(address, timeout=patience, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"config.cluster={address}: no scheduler answers ({error}); start one by "
            "`dask scheduler` and workers by `dask worker ADDRESS --nthreads 1`"
        ) from None
    with client:
        _check(client, address, patience)
        yield functools.partial(_work, client)


def _check(client: Any, address: str, patience: float) -> None:
    """Waits for a worker; says how many there are.

    Raises:
      InputError: none came, or one has another version of what computes.
    """
    try:
        client.wait_for_workers(1, timeout=patience)
    except TimeoutError:
        raise InputError(
            f"config.cluster={address}: no worker came within {patience:g} seconds; "
            "start some by `dask worker ADDRESS --nthreads 1`"
        ) from None
    if many := [name for name, count in client.nthreads().items() if count > 1]:
        raise InputError(
            f"config.cluster={address}: worker {many[0]} does several jobs at once; "
            "start workers by `dask worker ADDRESS --nthreads 1`"
        )
    try:
        told = client.run(versions)
    except Exception as error:
        raise InputError(
            f"config.cluster={address}: a worker cannot import what this command runs "
            f"({error}); install the same free_jax there"
        ) from error
    for worker, found in told.items():
        _compare(found, worker)
    print(f"cluster {address}: {len(told)} workers", flush=True)


@functools.cache
def versions() -> str:
    """Of what computes: packages, and the sources that are run."""
    digest = hashlib.sha256()
    for name in ("free_jax", "experiments"):
        spec = importlib.util.find_spec(name)
        for folder in (spec and spec.submodule_search_locations) or ():
            for file in sorted(pathlib.Path(folder).rglob("*.py")):
                digest.update(f"{file.relative_to(folder)}\n".encode())
                digest.update(file.read_bytes())
    packages = ("jax", "jaxlib", "numpy", "flax", "optax")
    found = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    return ", ".join([f"sources {digest.hexdigest()[:12]}", *found])


def _compare(found: str, worker: str) -> None:
    """Refuses what is not as it is in this process.

    Raises:
      InputError: says what is not.
    """
    if found != versions():
        raise InputError(
            f"config.cluster: {worker} has {found}; here are {versions()}; install the "
            "same, and start the workers again"
        )


class Sent(NamedTuple):
    """Jobs on their way to a worker.

    Attributes:
      versions: of what they were made by.
      settings: of JAX, which decide what a program computes.
      jobs: see `pickled`.
    """

    versions: str
    settings: dict[str, Any]
    jobs: bytes


def _work(
    client: Any, jobs: Sequence[Job]
) -> Iterator[tuple[int, dict[str, np.ndarray]] | None]:
    """Does jobs on the workers, those of this process alone here, see `chunks.Work`."""
    import distributed
    from distributed.comm.core import CommClosedError
    from distributed.scheduler import KilledWorker

    if any(job.here for job in jobs):
        yield from chunks.in_turn(jobs)
        return
    if not jobs:
        return
    settings = {name: getattr(jax.config, name) for name in _SETTINGS}
    blob = pickle.dumps(Sent(versions(), settings, pickled(tuple(jobs))))
    try:
        sent = client.submit(bytes, blob, pure=False)
        numbers = {
            client.submit(_do, sent, number, pure=False): number
            for number in range(len(jobs))
        }
        waiting = set(numbers)
        try:
            while waiting:
                try:
                    with client.as_current():
                        over: Any = distributed.wait(waiting, _LOOK, "FIRST_COMPLETED")
                except TimeoutError:
                    yield None
                    continue
                for future in over.done:
                    yield numbers.pop(future), future.result()
                waiting = set(over.not_done)
                del over  # And with it what the scheduler keeps for us.
        finally:
            client.cancel([sent, *numbers])
    except (KilledWorker, CancelledError, CommClosedError) as error:
        raise metrics.RunError(
            f"the cluster does not go on ({error}); what it finished is kept, and the "
            "same command continues"
        ) from error


def _do(sent: bytes, number: int) -> dict[str, np.ndarray]:
    """One of the jobs, on a worker.

    Raises:
      InputError: this worker is another, or does not find what the job reads.
    """
    settings, jobs = _read(sent)
    for name, value in settings.items():  # Another run's jobs may have changed them.
        jax.config.update(name, value)
    try:
        return chunks.timed(jobs[number])
    except OSError as error:
        raise InputError(
            f"config.cluster: worker {socket.gethostname()}: {error}; the models' "
            "folder and --workdir must be the same for all workers"
        ) from error


@functools.lru_cache(maxsize=2)
def _read(sent: bytes) -> tuple[dict[str, Any], Sequence[Job]]:
    """Settings and jobs; equal ones of a worker share their programs."""
    made, settings, jobs = pickle.loads(sent)
    _compare(made, f"worker {socket.gethostname()} is asked by a run that")
    return settings, pickle.loads(jobs)


def pickled(jobs: tuple[Job, ...]) -> bytes:
    """Jobs as bytes, with the functions that they are made of.

    Meshes become those of the devices where they are read.
    """
    import cloudpickle

    class Pickler(cloudpickle.Pickler):
        """Meshes and remembered results too, which cloudpickle cannot write."""

        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, jax.sharding.Mesh):
                return _mesh, (obj.axis_names,)
            if isinstance(obj, functools._lru_cache_wrapper) and (
                "<locals>" in obj.__qualname__
            ):
                return _remembered, (obj.__wrapped__,)
            if isinstance(obj, weakref.ReferenceType):  # Functions with checked types.
                return weakref.ref, (obj(),)
            return super().reducer_override(obj)

    room = io.BytesIO()
    Pickler(room).dump(jobs)
    return room.getvalue()


def _mesh(axes: tuple[str, ...]) -> jax.sharding.Mesh:
    sizes = {name: 1 for name in axes}
    return parallel.make_mesh({**sizes, axes[0]: jax.local_device_count()})


def _remembered(function: Any) -> Any:
    return functools.cache(function)
