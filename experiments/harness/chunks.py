"""Results of jobs on disk, each written as soon as it is known.

A stopped run loses one job at most.
"""

import contextlib
import io
import os
import re
import sys
import time
import zipfile
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from experiments.harness import files as files_lib
from experiments.harness import hosts, metrics, stopping
from experiments.harness.progress import Progress
from free_jax import nouns
from free_jax.jobs import Job
from free_jax.rows import in_archive

_DIGITS = re.compile(r"\d+")
# What reading a file that is damaged raises.
DAMAGED = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile)


def seconds_spent(workdir: epath.PathLike, *stages: str) -> float:
    """Seconds that the results kept of stages took, over all interruptions.

    Args:
      workdir: run directory.
      *stages: names of folders, such as "recovered"; one that is missing took none.
    """
    return sum(_seconds(file) for stage in stages for file in finished(workdir, stage))


def _seconds(file: epath.Path) -> float:
    with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as stored:
        return float(stored["seconds"]) if "seconds" in stored else 0.0


def finished(workdir: epath.PathLike, stage: str) -> list[epath.Path]:
    """The files of a stage, in order."""
    folder = epath.Path(workdir) / stage
    files = folder.glob("[a-z]*.npz") if folder.exists() else ()
    # Numbers by value: the eleventh group comes after the second.
    return sorted(files, key=lambda file: _DIGITS.sub(_padded, file.name))


def _padded(digits: re.Match[str]) -> str:
    return digits[0].zfill(12)


# ``jobs -> (number, result)`` of each as it is done, in any order; None while waiting.
Work = Callable[[Sequence[Job]], Iterator[tuple[int, dict[str, np.ndarray]] | None]]


def timed(job: Job) -> dict[str, np.ndarray]:
    """A job's result, with the ``seconds`` that it took."""
    clock = time.monotonic()
    arrays = job.run()
    return {**arrays, "seconds": np.asarray(time.monotonic() - clock)}


def in_turn(jobs: Sequence[Job]) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Does one job after the other in this process, each when it is asked for."""
    for number, job in enumerate(jobs):
        yield number, timed(job)


def cached(
    folder: epath.Path,
    jobs: Sequence[Job],
    stop: stopping.StopRequest,
    *,
    every_secs: float,
    work: Work = in_turn,
) -> Iterator[dict[str, Any]]:
    """Does the jobs that have no sound file yet, and yields all results in order.

    Args:
      folder: where the files are; its name is that of the stage in what is printed.
      jobs: their names are those of the files.  A result whose entry ``complete`` is
        False is yielded but gets no file.
      stop: polled between jobs.
      every_secs: between two progress lines.
      work: does the jobs.  A result gets its file when it comes, whichever is waited
        for.

    Raises:
      Stopped: stop was requested.
    """
    start = time.monotonic()
    files = [folder / f"{job.name}.npz" for job in jobs]
    if hosts.is_writer():
        folder.mkdir(parents=True, exist_ok=True)
    present = hosts.agreed([_is_sound(file) for file in files])
    missing = np.flatnonzero(~np.asarray(present, bool))
    there = len(jobs) - len(missing)
    done, found = 0, {}

    with (
        Progress(len(jobs), there, label=folder.name, every_secs=every_secs) as bar,
        contextlib.closing(_generator(work, [jobs[int(n)] for n in missing])) as coming,
    ):
        for number, file in enumerate(files):
            while not present[number] and number not in found:
                if stop.requested:
                    raise stopping.Stopped
                if (result := next(coming)) is None:
                    continue
                which, arrays = int(missing[result[0]]), result[1]
                found[which] = _kept(arrays, files[which], jobs[which].by_rows)
                done += 1
                bar.update(there + done, force=there + done == len(jobs))
            if number in found:
                yield found.pop(number)
            else:
                yield open_chunk(file, jobs[number].by_rows)
    if done:
        seconds = metrics.format_duration(time.monotonic() - start)
        print(f"{folder.name}: {nouns.count(done, 'part')} in {seconds}", flush=True)


def _generator(work: Work, jobs: Sequence[Job]) -> Generator[Any, None, None]:
    yield from work(jobs)


def _kept(
    arrays: dict[str, np.ndarray], file: epath.Path, by_rows: Sequence[str]
) -> dict[str, Any]:
    """A result, from its file where it gets one."""
    if not hosts.is_writer() or not arrays.get("complete", True):
        return arrays
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    files_lib.write_bytes(file, buffer.getvalue())
    return open_chunk(file, by_rows)


def read_chunk(file: epath.Path) -> dict[str, np.ndarray]:
    """The arrays of one file."""
    with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as stored:
        return dict(stored)


def open_chunk(file: epath.Path, by_rows: Sequence[str]) -> dict[str, Any]:
    """The arrays of one file; those of some names are read by rows, if it is local."""
    if "://" in str(file):
        return read_chunk(file)
    return in_archive(os.fspath(file), by_rows)


def _is_sound(file: epath.Path) -> bool:
    if not hosts.is_writer() or not file.exists():
        return False
    try:
        read_chunk(file)
    except DAMAGED as error:
        print(f"warning: {file} is damaged ({error}); made anew", file=sys.stderr)
        return False
    return True
