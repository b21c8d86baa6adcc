"""One working directory holds one run: its config, and a lock while it is in use."""

import contextlib
import errno
import fcntl
import functools
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from experiments.harness import contents as contents_lib
from experiments.harness import files, hosts
from experiments.harness.contents import NOTHING, Contents, Noted
from experiments.harness.results import RESULT_FILE
from free_jax.errors import InputError

CONFIG_FILE = "config.json"
LOCK_FILE = ".lock"
FORMAT_FILE = "format.json"

# What a claim writes.
_OURS = {CONFIG_FILE, LOCK_FILE, FORMAT_FILE}

# How a run's random keys come from its seed: 1 numbered them, 2 names them.
KEYS = 2
# What a finished run of other keys would train on for.
_TRAINS = ("num_steps", "max_seconds")


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
        if self._made and there <= _OURS:
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
    upgrade: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    redrawn: tuple[str, ...] = (),
) -> Claim:
    """Reserves a working directory for one run of one config.

    The first use writes ``config.json``.  Once a run has left anything else there,
    later uses must bring the same config, but for the keys under `may_change`, whose
    new values are then recorded.

    A run may move: what `contents` names is compared by what it holds, as noted in
    ``format.json``, and not by its path.  A run that moved and is finished stays
    finished, see `hashes`.

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
        _compared,
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
        with _clear_os_errors(path):
            made = _missing(path) if local else ()
            path.mkdir(parents=True, exist_ok=True)
            handle = _lock(path) if local else None
        claim = Claim(path, handle, made)
        try:
            with _clear_os_errors(path):
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
    with _clear_os_errors(path):
        used = _config_before(path) is not None
        now = _compared(path, config, **options)
    # As it will be noted: the move itself is not yet.
    former = dict(now.get("former", {}))
    for name, then in now.get("moving", {}).items():
        former = _with(former, name, then)
    known = _all_names(files.config_hash(config), former)
    finished = any(_is_finished(path, each) for each in known)
    return "finished" if finished else "continued" if used else "new"


def _check_local(path: epath.Path) -> None:
    """Refuses a folder that cannot be made, written or locked; nothing is left."""
    there = pathlib.Path(path)
    while not there.exists() and there != there.parent:
        there = there.parent
    with _clear_os_errors(path):
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


def _compared(
    path: epath.Path,
    config: Any,
    *,
    may_change: tuple[str, ...] = (),
    elsewhere: tuple[str, ...] = (),
    contents: Contents = NOTHING,
    upgrade: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    redrawn: tuple[str, ...] = (),
) -> dict[str, Any]:
    """What ``format.json`` shall say, if the run that is there may go on like this.

    Raises:
      InputError: it may not.
    """
    written = _config_before(path)
    if written is None:
        return {"keys": KEYS} | _noted({}, contents)
    before, known = upgrade(files.flatten(written)), noted(path)
    free = contents_lib.free_keys(known, contents, config, path)
    _check_config(path, before, config, (*may_change, *elsewhere, *free))
    record: dict[str, Any] = {
        "keys": _check_keys(path, before, written, config, redrawn, elsewhere + free),
        **_noted(known, contents),
    }
    if former := _former(path, before, written):
        record["former"] = former
    pointing = {k: name for name in contents for k in contents[name].keys}
    old, new = before, files.flatten(config)
    changed = [k for k in old.keys() | new.keys() if old.get(k) != new.get(k)]
    names = {pointing[key] for key in changed if key in pointing}
    rest = [key for key in changed if key not in pointing]
    if not changed or differences(
        {key: old.get(key) for key in rest},
        {key: new.get(key) for key in rest},
        elsewhere,
    ):
        return record  # The same run, or another one.
    late = [name for name in names if contents[name].parts is None]
    told = names.difference(late)
    if all(contents_lib.is_same(known, name, contents[name]) for name in told):
        # It moved, or what it points to has to be seen first.
        now, then = files.config_hash(config), files.config_hash(written)
        if late:
            record["moving"] = {now: then}
        else:
            record["former"] = _with(record.get("former", {}), now, then)
    return record


def confirm(workdir: epath.PathLike, config: Any, contents: Contents) -> None:
    """Compares what became known after the claim, and notes it.

    Args:
      workdir: that was claimed.
      config: of the run.
      contents: all that were claimed without their parts.

    Raises:
      InputError: what results depend on is another than when the run was started.
    """
    path = epath.Path(workdir)

    def check() -> None:
        record = _format(path)
        known = record.get("contents", {})
        contents_lib.free_keys(known, contents, config, path)
        same = all(
            contents_lib.is_same(known, name, contents[name]) for name in contents
        )
        record |= _noted(known, contents)
        moved = record.pop("moving", {})
        if same:
            for now, then in moved.items():
                record["former"] = _with(record.get("former", {}), now, then)
        with _clear_os_errors(path):
            files.write_json(path / FORMAT_FILE, record)
            if moved:
                files.write_json(path / CONFIG_FILE, config)

    hosts.first_only(check)


def _noted(known: Noted, now: Contents) -> dict[str, Any]:
    found = contents_lib.noted(known, now)
    return {"contents": found} if found else {}


def check_contents(workdir: epath.PathLike, config: Any, contents: Contents) -> None:
    """Refuses what `confirm` would refuse; nothing is written."""
    path = epath.Path(workdir)
    if path.exists() and _config_before(path) is not None:
        contents_lib.free_keys(noted(path), contents, config, path)


def noted(workdir: epath.PathLike) -> Noted:
    """What is noted of the contents that a run was started with."""
    return _format(epath.Path(workdir)).get("contents", {})


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


def _config_before(path: epath.Path) -> Any:
    """The config of the run that is there, or None where nothing was computed."""
    file = path / CONFIG_FILE
    if not file.exists():
        return None
    if {child.name for child in path.iterdir()} <= _OURS:
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
    harmless: tuple[str, ...] = (),
) -> int:
    """How the keys of the run that is there are made, if it may be used like this."""
    file, scheme = path / FORMAT_FILE, key_scheme(path)
    if scheme == KEYS:
        return scheme
    draws = "whose random numbers come from other keys"
    remedy = "use another --workdir, or the version that wrote it"
    if scheme > KEYS:
        raise InputError(f"workdir {path} is of a later version, {draws}; {remedy}")
    if not file.exists() and not _is_finished(path, files.config_hash(written)):
        raise InputError(
            f"workdir {path} holds an unfinished run of an earlier version, {draws}; "
            "finish it with that version, or use another --workdir"
        )
    old, new = files.flatten(before), files.flatten(config)
    changed = [
        key
        for key in sorted(old | new)
        if old.get(key) != new.get(key) and not _under(key, harmless)
    ]
    drawn = [key for key in redrawn if old.get(key)]
    wrong = changed if drawn else [key for key in changed if key in _TRAINS]
    if wrong:
        why = f" with {', '.join(drawn)}" if drawn else ""
        raise InputError(
            f"workdir {path} holds a finished run of an earlier version{why}, {draws}: "
            f"{', '.join(wrong)} cannot change; {remedy}"
        )
    return scheme


def _is_finished(path: epath.Path, config_hash: str) -> bool:
    try:
        result = json.loads((path / RESULT_FILE).read_text())
    except (OSError, ValueError):
        return False
    return result.get("config_hash") == config_hash


def key_scheme(workdir: epath.PathLike) -> int:
    """How the keys of randomness of the run that is there are made, see `KEYS`."""
    return _format(epath.Path(workdir)).get("keys", 1)


def hashes(workdir: epath.PathLike, config: Any) -> tuple[str, ...]:
    """What names a config in files of this directory, also by former keys."""
    former = _format(epath.Path(workdir)).get("former", {})
    return _all_names(files.config_hash(config), former)


def _all_names(name: str, former: Mapping[str, Any]) -> tuple[str, ...]:
    """A hash, and all that said the same before, the latest first."""
    found = [name]
    for known in found:  # Grows: names may have changed several times.
        more = former.get(known, ())
        # Earlier versions noted one.
        more = [more] if isinstance(more, str) else more
        found += [each for each in more if each not in found]
    return tuple(found)


def _with(former: Mapping[str, Any], name: str, written: str) -> dict[str, Any]:
    """The names with one more: what was written says the same as `name`."""
    more = [written, *_all_names(name, former)[1:], *_all_names(written, former)[1:]]
    return {**former, name: list(dict.fromkeys(x for x in more if x != name))}


def _format(path: epath.Path) -> dict[str, Any]:
    file = path / FORMAT_FILE
    return json.loads(file.read_text()) if file.exists() else {}


def _former(path: epath.Path, before: Any, written: Any) -> dict[str, Any]:
    """Hash of a config of today -> that of the config.json that said the same."""
    known = _format(path).get("former", {})
    if files.flatten(written) == before:
        return known
    now, then = files.config_hash(_nested(before)), files.config_hash(written)
    return _with(known, now, then)


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
        and not _under(key, may_change)
    ]
    more = len(found) - limit if limit else 0
    return ", ".join(found[:limit]) + (f" and {more} more" if more > 0 else "")


def _under(key: str, prefixes: tuple[str, ...]) -> bool:
    return any(key == p or key.startswith(p + ".") for p in prefixes)


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
