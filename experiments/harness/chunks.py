"""Recovered images and answers on disk, in chunks written as soon as they are known.

A stopped run loses a chunk at most.
"""

import io
import re
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from experiments.harness import files as files_lib
from experiments.harness import hosts, metrics, stopping
from experiments.stages import meta_generator

_DIGITS = re.compile(r"\d+")


class Pool(NamedTuple):
    """Recovered images of a whole zoo, on the host.

    Attributes:
      images: [N, h, w, c] uint8.
      classes: [N] int32 absolute class ids; -1 for scenes, which have none.
      owners: [N] int32 index over the teachers of all groups; -1 for scenes.
      natural: [N] bool, like real images: scenes, and what was recovered from them.
    """

    images: np.ndarray
    classes: np.ndarray
    owners: np.ndarray
    natural: np.ndarray


def seconds_spent(workdir: str, *stages: str) -> float:
    """Time that stages took, over all interruptions; meta-training is recovery.

    Args:
      workdir: run directory.
      *stages: "recovered", "described"; both if none is given.
    """
    stages = stages or ("recovered", "described")
    total = meta_generator.seconds_spent(workdir) if "recovered" in stages else 0.0
    return total + sum(
        float(read_chunk(file).get("seconds", 0.0))
        for stage in stages
        for file in finished(workdir, stage)
    )


def finished(workdir: str, stage: str) -> list[epath.Path]:
    """The chunks of a stage, ``recovered`` or ``described``, in order."""
    folder = epath.Path(workdir) / stage
    files = folder.glob("[a-z]*.npz") if folder.exists() else ()
    # Numbers by value: the eleventh group of teachers comes after the second.
    return sorted(files, key=lambda file: _DIGITS.sub(_padded, file.name))


def _padded(digits: re.Match[str]) -> str:
    return digits[0].zfill(12)


def in_chunks(
    folder: epath.Path,
    title: str,
    jobs: list[tuple[str, Callable[[], dict[str, np.ndarray]]]],
    config: Any,
    stop: stopping.StopRequest,
    keep: Callable[[np.ndarray], bool] = lambda array: True,
) -> Iterator[dict[str, np.ndarray]]:
    """Does the jobs that have no sound file yet, and yields all results in order.

    Args:
      folder: where the files are.
      title: of the stage, in what is printed.
      jobs: names of the files and what makes their arrays.
      config: of the run.
      stop: polled between jobs.
      keep: results with an array that is not to be kept get no file.

    Raises:
      Stopped: stop was requested.
    """
    progress = metrics.Progress(len(jobs), every_secs=config.log.every_secs)
    start, done = time.monotonic(), 0
    files = [folder / f"{name}.npz" for name, _ in jobs]
    if hosts.is_writer():
        folder.mkdir(parents=True, exist_ok=True)
    present = hosts.agreed([_is_sound(file) for file in files])
    for number, (_, job) in enumerate(jobs):
        if present[number]:
            yield read_chunk(files[number])
            continue
        if stop.requested:
            raise stopping.Stopped
        clock = time.monotonic()
        arrays = job()
        arrays["seconds"] = np.asarray(time.monotonic() - clock)
        if hosts.is_writer() and all(keep(array) for array in arrays.values()):
            buffer = io.BytesIO()
            np.savez(buffer, allow_pickle=False, **arrays)
            files_lib.write_bytes(files[number], buffer.getvalue())
        done += 1
        progress.update(number + 1, {title: ""}, force=number + 1 == len(jobs))
        yield arrays
    if done:
        seconds = metrics.format_duration(time.monotonic() - start)
        print(f"{title}: {done} chunks in {seconds}", flush=True)


def read_chunk(file: epath.Path) -> dict[str, np.ndarray]:
    """The arrays of one file."""
    with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as stored:
        return dict(stored)


def _is_sound(file: epath.Path) -> bool:
    if not hosts.is_writer() or not file.exists():
        return False
    try:
        read_chunk(file)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        print(f"warning: {file} is damaged ({error}); made anew", file=sys.stderr)
        return False
    return True
