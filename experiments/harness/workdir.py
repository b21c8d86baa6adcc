"""One working directory holds one run: its config, and a lock while it is in use."""

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from experiments.harness import files, hosts
from experiments.harness.results import RESULT_FILE
from free_jax.errors import InputError

CONFIG_FILE = "config.json"
LOCK_FILE = ".lock"
FORMAT_FILE = "format.json"

# How a run's random keys come from its seed: 1 numbered them, 2 names them.
KEYS = 2
# What a finished run of other keys would train on for.
_TRAINS = ("num_steps", "max_seconds")


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
    workdir: epath.PathLike,
    config: Any,
    *,
    may_change: tuple[str, ...] = (),
    upgrade: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    redrawn: tuple[str, ...] = (),
) -> Claim:
    """Reserves a working directory for one run of one config.

    The first use writes ``config.json``.  Once a run has left anything else there,
    later uses must bring the same config, but for the keys under `may_change`, whose
    new values are then recorded.

    ``format.json`` names how keys are made from the seed.  A run of an earlier version,
    which made them otherwise, cannot go on here; if it is finished, it may be read and
    evaluated anew.

    Args:
      workdir: local folder, made if missing, or a remote path such as ``gs://...``
        (remote paths have no lock).
      config: nested dict or ConfigDict.
      may_change: dotted prefixes, such as ``("num_steps", "log")``.
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

    def claim() -> Claim:
        with _clear_os_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            handle = None if "://" in os.fspath(path) else _lock(path)
        claim = Claim(path, handle)
        try:
            with _clear_os_errors(path):
                written = _config_before(path)
                before = None if written is None else upgrade(files.flatten(written))
                _check_config(path, before, config, may_change)
                scheme = _check_keys(path, before, written, config, redrawn)
                record: dict[str, Any] = {"keys": scheme}
                if former := _former(path, before, written):
                    record["former"] = former
                files.write_json(path / FORMAT_FILE, record)
                files.write_json(path / CONFIG_FILE, config)
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


def _config_before(path: epath.Path) -> Any:
    """The config of the run that is there, or None where nothing was computed."""
    file = path / CONFIG_FILE
    if not file.exists():
        return None
    ours = {CONFIG_FILE, LOCK_FILE, FORMAT_FILE}
    if {child.name for child in path.iterdir()} <= ours:
        # It failed before it computed anything, perhaps for a mistyped path: the
        # corrected command may go on here.
        return None
    try:
        return json.loads(file.read_text())
    except ValueError:
        raise InputError(
            f"{file} is not valid JSON, so the config of this run is unknown; "
            "restore the file, or use another --workdir"
        ) from None


def _check_config(
    path: epath.Path, before: Any, config: Any, may_change: tuple[str, ...]
) -> None:
    if before is None:
        return
    changes = differences(files.flatten(before), files.flatten(config), may_change)
    if changes:
        raise InputError(
            f"workdir {path} holds a run of another config: {changes}; "
            "use another --workdir or the same config"
        )


def _check_keys(
    path: epath.Path,
    before: Any,
    written: Any,
    config: Any,
    redrawn: tuple[str, ...],
) -> int:
    """How the keys of the run that is there are made, if it may be used like this."""
    if before is None:
        return KEYS
    file = path / FORMAT_FILE
    scheme = json.loads(file.read_text())["keys"] if file.exists() else 1
    if scheme == KEYS:
        return scheme
    draws = "whose random numbers come from other keys"
    remedy = "use another --workdir, or the version that wrote it"
    if scheme > KEYS:
        raise InputError(f"workdir {path} is of a later version, {draws}; {remedy}")
    if not file.exists() and not _is_finished(path, written):
        raise InputError(
            f"workdir {path} holds an unfinished run of an earlier version, {draws}; "
            "finish it with that version, or use another --workdir"
        )
    old, new = files.flatten(before), files.flatten(config)
    changed = [key for key in sorted(old | new) if old.get(key) != new.get(key)]
    drawn = [key for key in redrawn if old.get(key)]
    wrong = changed if drawn else [key for key in changed if key in _TRAINS]
    if wrong:
        why = f" with {', '.join(drawn)}" if drawn else ""
        raise InputError(
            f"workdir {path} holds a finished run of an earlier version{why}, {draws}: "
            f"{', '.join(wrong)} cannot change; {remedy}"
        )
    return scheme


def _is_finished(path: epath.Path, config: Any) -> bool:
    try:
        result = json.loads((path / RESULT_FILE).read_text())
    except (OSError, ValueError):
        return False
    return result.get("config_hash") == files.config_hash(config)


def hashes(workdir: epath.PathLike, config: Any) -> tuple[str, ...]:
    """What names a config in files of this directory, also by former keys."""
    found = [files.config_hash(config)]
    former = _format(epath.Path(workdir)).get("former", {})
    while found[-1] in former and former[found[-1]] not in found:
        found.append(former[found[-1]])  # Names may have changed several times.
    return tuple(found)


def _format(path: epath.Path) -> dict[str, Any]:
    file = path / FORMAT_FILE
    return json.loads(file.read_text()) if file.exists() else {}


def _former(path: epath.Path, before: Any, written: Any) -> dict[str, str]:
    """Hash of a config of today -> that of the config.json that said the same."""
    known = _format(path).get("former", {})
    if before is None or files.flatten(written) == before:
        return known
    return known | {files.config_hash(_nested(before)): files.config_hash(written)}


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `files.flatten`."""
    found: dict[str, Any] = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        section = found
        for name in path:
            section = section.setdefault(name, {})
        section[last] = value
    return found


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
