"""Jobs done by the workers of a Dask cluster, which schedules and retries them.

A list of jobs is sent once and read once by each worker, so that a program is compiled
once a worker. Workers may come, go and die; what they were at is done by another. If
the cluster dies, what it finished is in the run's folder, and the same command goes on.
"""

import contextlib
import functools
import importlib.metadata
import io
import logging
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from typing import Any

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
    try:
        told = client.run(versions)
    except Exception as error:
        raise InputError(
            f"config.cluster={address}: a worker cannot import what this command runs "
            f"({error}); install the same free_jax there"
        ) from error
    for worker, found in told.items():
        if found != versions():
            raise InputError(
                f"config.cluster={address}: worker {worker} has {found}, this process "
                f"{versions()}; install the same there"
            )
    print(f"cluster {address}: {len(told)} workers", flush=True)


def versions() -> str:
    """Of what computes, as far as it is installed."""
    found = []
    for name in ("free_jax", "jax", "jaxlib", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return ", ".join(found)


def _work(
    client: Any, jobs: Sequence[Job]
) -> Iterator[tuple[int, dict[str, np.ndarray]] | None]:
    """Does jobs on the workers, those of this process alone here, see `chunks.Work`."""
    import distributed
    from distributed.scheduler import KilledWorker

    if any(job.here for job in jobs):
        yield from chunks.in_turn(jobs)
        return
    if not jobs:
        return
    settings = {name: getattr(jax.config, name) for name in _SETTINGS}
    try:
        sent = client.submit(bytes, pickled((settings, tuple(jobs))), pure=False)
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
    except (KilledWorker, CancelledError, OSError) as error:
        raise metrics.RunError(
            f"the cluster does not go on ({error}); what it finished is kept, and the "
            "same command continues"
        ) from error


def _do(sent: bytes, number: int) -> dict[str, np.ndarray]:
    """One of the jobs, on a worker."""
    return chunks.timed(_read(sent)[number])


@functools.lru_cache(maxsize=2)
def _read(sent: bytes) -> Sequence[Job]:
    """The jobs; equal ones of a worker share their programs."""
    import cloudpickle

    settings, blob = cloudpickle.loads(sent)
    for name, value in settings.items():
        jax.config.update(name, value)
    return cloudpickle.loads(blob)


def pickled(sent: tuple[dict[str, Any], tuple[Job, ...]]) -> bytes:
    """Settings, and jobs as they are read once these are made.

    Meshes become those of the devices where they are read.
    """
    import cloudpickle

    class Pickler(cloudpickle.Pickler):
        """Of what cloudpickle does not know."""

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

    settings, jobs = sent
    room = io.BytesIO()
    Pickler(room).dump(jobs)
    return cloudpickle.dumps((settings, room.getvalue()))


def _mesh(axes: tuple[str, ...]) -> jax.sharding.Mesh:
    sizes = {name: 1 for name in axes}
    return parallel.make_mesh({**sizes, axes[0]: jax.local_device_count()})


def _remembered(function: Any) -> Any:
    return functools.cache(function)
