"""One working directory holds one run: a claim to it, and a lock while it is in use."""

import contextlib
import errno
import fcntl
import functools
import os
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

from etils import epath

from experiments.harness import files, hosts, same_run
from experiments.harness.contents import NOTHING, Contents
from experiments.harness.same_run import CLAIMED, CONFIG_FILE, FORMAT_FILE, LOCK_FILE
from free_jax.errors import InputError


class Claim:
    """The right to write in a working directory, held until `release` or exit.

    The operating system frees the lock when the process ends, however it ends, so a
    killed run never leaves a stale one.
    """

    def __init__(
        self, path: epath.Path, handle: int | None, made: Sequence[epath.Path] = ()
    ):
        self.path = path
        self._handle, self._made = handle, made

    def release(self) -> None:
        """Lets another process claim the directory; calling it twice is harmless."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def withdraw(self) -> None:
        """Takes back what the claim made, if nothing else was written there since."""
        there = {child.name for child in self.path.iterdir()} if self._made else set()
        if self._made and there <= CLAIMED:
            for name in there:
                (self.path / name).unlink()
            with contextlib.suppress(OSError):  # Another has written there meanwhile.
                for folder in self._made:
                    folder.rmdir()
        self.release()

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, *_: Any) -> None:
        self.release()


def claim_workdir(
    workdir: epath.PathLike,
    config: Any,
    *,
    may_change: tuple[str, ...] = (),
    elsewhere: tuple[str, ...] = (),
    contents: Contents = NOTHING,
    upgrade: same_run.Upgrade = dict,
    redrawn: tuple[str, ...] = (),
) -> Claim:
    """Reserves a working directory for one run of one config.

    The first use writes ``config.json``.  Once a run has left anything else there,
    later uses must bring the same config, but for the keys under `may_change`, whose
    new values are then recorded.

    A run may move: what `contents` names is compared by what it holds, as noted in
    ``format.json``, and not by its path.  A run that moved and is finished stays
    finished, see `same_run.hashes`.

    ``format.json`` names how keys are made from the seed.  A run of an earlier version,
    which made them otherwise, cannot go on here; if it is finished, it may be read and
    evaluated anew.

    Args:
      workdir: local folder, made if missing, or a remote path such as ``gs://...``
        (remote paths have no lock).
      config: nested dict or ConfigDict.
      may_change: dotted prefixes, such as ``("num_steps", "log")``.
      elsewhere: the same, of what only says where and how a run works: results are
        those of the run before.
      contents: what keys point to, by name.
      upgrade: the flat config of an earlier version's run as it reads today.
      redrawn: keys that draw anew, if random keys are made otherwise, even where
        nothing is trained.

    Returns:
      The claim; the lock lasts until it is released or the process ends.

    Raises:
      InputError: the directory cannot be written, is in use by another process, or
        holds a run of another config or an unfinished one of an earlier version.
    """
    path = epath.Path(workdir)
    compare = functools.partial(
        same_run.compared,
        path,
        config,
        may_change=may_change,
        elsewhere=elsewhere,
        contents=contents,
        upgrade=upgrade,
        redrawn=redrawn,
    )

    def claim() -> Claim:
        local = "://" not in os.fspath(path)
        with files.refused_in_words(path):
            made = _missing(path) if local else ()
            path.mkdir(parents=True, exist_ok=True)
            handle = _lock(path) if local else None
        claim = Claim(path, handle, made)
        try:
            with files.refused_in_words(path):
                record = compare()
                files.write_json(path / FORMAT_FILE, record)
                if "moving" not in record:  # Else when it is known to be the same.
                    files.write_json(path / CONFIG_FILE, config)
        except BaseException:
            claim.withdraw()
            raise
        return claim

    return hosts.first_only(claim) or Claim(path, None)


def _missing(path: epath.Path) -> list[epath.Path]:
    """The folders that have yet to be made for it, the innermost first."""
    return [each for each in (path, *path.parents) if not each.exists()]


def check_workdir(workdir: epath.PathLike, config: Any, **options: Any) -> str:
    """Refuses what `claim_workdir` would refuse; nothing is made or written.

    Args:
      workdir: as of `claim_workdir`, as the rest.
      config: of the run.
      **options: those of `claim_workdir`.

    Returns:
      What the directory is, in words.

    Raises:
      InputError: as `claim_workdir`.
    """
    path = epath.Path(workdir)
    if "://" not in os.fspath(path):
        _check_local(path)
    if not path.exists():
        return "new"
    with files.refused_in_words(path):
        return same_run.state(path, config, **options)


def _check_local(path: epath.Path) -> None:
    """Refuses a folder that cannot be made, written or locked; nothing is left."""
    there = pathlib.Path(path)
    while not there.exists() and there != there.parent:
        there = there.parent
    with files.refused_in_words(path):
        if not there.is_dir():
            raise NotADirectoryError
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "permission denied")
        if there != pathlib.Path(path):
            with tempfile.TemporaryFile(dir=there):  # What permissions do not tell.
                pass
        if (path / LOCK_FILE).exists():
            # Given back at once: only an owner keeps it.
            os.close(_lock(path, note=False))


def _lock(path: epath.Path, *, note: bool = True) -> int:
    # A bare descriptor, not a file object: it must outlive a claim that the caller
    # drops, and flock gives it back when the process ends.
    handle = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(handle, 32).decode(errors="replace").strip()
        os.close(handle)
        raise InputError(
            f"workdir {path} is in use by another run (process {owner or 'unknown'}); "
            "wait for it to end, stop it, or use another --workdir"
        ) from None
    if note and not _is_file_of(handle, path / LOCK_FILE):
        # Who had it was refused, and has taken back folder and lock meanwhile.
        os.close(handle)
        path.mkdir(parents=True, exist_ok=True)
        return _lock(path)
    if note:
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
    return handle


def _is_file_of(handle: int, file: epath.Path) -> bool:
    return file.exists() and os.path.samestat(os.fstat(handle), os.stat(file))
