"""One working directory holds one run: its config, and a lock while it is in use."""

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator
from typing import Any

from etils import epath

from experiments import hosts, jsonio
from free_jax.errors import InputError

CONFIG_FILE = "config.json"
LOCK_FILE = ".lock"


class Claim:
    """The right to write in a working directory, held until `release` or exit.

    The operating system frees the lock when the process ends, however it ends, so a
    killed run never leaves a stale one.
    """

    def __init__(self, path: epath.Path, handle: int | None):
        self.path = path
        self._handle = handle

    def release(self) -> None:
        """Lets another process claim the directory; calling it twice is harmless."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, *_: Any) -> None:
        self.release()


def claim_workdir(
    workdir: epath.PathLike, config: Any, *, may_change: tuple[str, ...] = ()
) -> Claim:
    """Reserves a working directory for one run of one config.

    The first use writes ``config.json``.  Once a run has left anything else there,
    later uses must bring the same config, but for the keys under `may_change`, whose
    new values are then recorded.

    Args:
      workdir: local folder, made if missing, or a remote path such as ``gs://...``
        (remote paths have no lock).
      config: nested dict or ConfigDict.
      may_change: dotted prefixes, such as ``("num_steps", "log")``.

    Returns:
      The claim; the lock lasts until it is released or the process ends.

    Raises:
      InputError: the directory cannot be written, is in use by another process, or
        holds a run of another config.
    """
    path = epath.Path(workdir)

    def claim() -> Claim:
        with _clear_os_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            handle = None if "://" in os.fspath(path) else _lock(path)
        claim = Claim(path, handle)
        try:
            with _clear_os_errors(path):
                _check_config(path, config, may_change)
                jsonio.write_json(path / CONFIG_FILE, config)
        except BaseException:
            claim.release()
            raise
        return claim

    return hosts.first_only(claim) or Claim(path, None)


def _lock(path: epath.Path) -> int:
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
    os.ftruncate(handle, 0)
    os.write(handle, str(os.getpid()).encode())
    return handle


def _check_config(path: epath.Path, config: Any, may_change: tuple[str, ...]) -> None:
    file = path / CONFIG_FILE
    if not file.exists():
        return
    if {child.name for child in path.iterdir()} <= {CONFIG_FILE, LOCK_FILE}:
        # It failed before it computed anything, perhaps for a mistyped path: the
        # corrected command may go on here.
        return
    try:
        before = jsonio.flatten(json.loads(file.read_text()))
    except ValueError:
        raise InputError(
            f"{file} is not valid JSON, so the config of this run is unknown; "
            "restore the file, or use another --workdir"
        ) from None
    changes = differences(before, jsonio.flatten(config), may_change)
    if changes:
        raise InputError(
            f"workdir {path} holds a run of another config: {changes}; "
            "use another --workdir or the same config"
        )


def differences(
    before: dict[str, Any],
    now: dict[str, Any],
    may_change: tuple[str, ...] = (),
    limit: int | None = None,
) -> str:
    """Names the keys of two flat dicts that differ, with both values.

    >>> differences({"a": 1, "log.x": 1}, {"a": 2, "b": 3}, may_change=("log",))
    'a: 1 -> 2, b: (absent) -> 3'
    """
    absent = "(absent)"
    found = [
        f"{key}: {before.get(key, absent)} -> {now.get(key, absent)}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key, absent) != now.get(key, absent)
        and not any(key == p or key.startswith(p + ".") for p in may_change)
    ]
    more = len(found) - limit if limit else 0
    return ", ".join(found[:limit]) + (f" and {more} more" if more > 0 else "")


@contextlib.contextmanager
def _clear_os_errors(path: epath.Path) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, NotADirectoryError):
        raise InputError(
            f"workdir {path} is not a folder (or lies under a file); "
            "use another --workdir"
        ) from None
    except OSError as error:
        remedy = (
            "free some space"
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else "make it writable"
        )
        raise InputError(
            f"workdir {path} cannot be written ({error.strerror or error}); "
            f"{remedy}, or use another --workdir"
        ) from None
