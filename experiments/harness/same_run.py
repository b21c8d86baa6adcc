"""Whether a working directory holds the same run: its config, keys and contents.

``config.json`` is the config of the run; ``format.json`` says how its random keys are
made, what its paths pointed to, and what the same config was called before.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from experiments.harness import contents as contents_lib
from experiments.harness import files, hosts
from experiments.harness.contents import NOTHING, Contents, Noted
from experiments.harness.results import RESULT_FILE
from free_jax.errors import InputError

CONFIG_FILE = "config.json"
FORMAT_FILE = "format.json"
LOCK_FILE = ".lock"  # Of who has claimed the folder, see `workdir`.

# What is there where nothing was computed yet.
CLAIMED = {CONFIG_FILE, LOCK_FILE, FORMAT_FILE}

# How a run's random keys come from its seed: 1 numbered them, 2 names them.
KEYS = 2
# What a finished run of other keys would train on for.
_TRAINS = ("num_steps", "max_seconds")

# A flat config of an earlier version's run -> the same as it reads today.
Upgrade = Callable[[dict[str, Any]], dict[str, Any]]


def compared(
    path: epath.Path,
    config: Any,
    *,
    may_change: tuple[str, ...] = (),
    elsewhere: tuple[str, ...] = (),
    contents: Contents = NOTHING,
    upgrade: Upgrade = dict,
    redrawn: tuple[str, ...] = (),
) -> dict[str, Any]:
    """What ``format.json`` shall say, if the run that is there may go on like this.

    Raises:
      InputError: it may not.
    """
    written = config_before(path)
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


def state(path: epath.Path, config: Any, **options: Any) -> str:
    """What a folder that is there is to a config: "new", "continued" or "finished".

    Args:
      path: it.
      config: of the run.
      **options: those of `compared`.

    Raises:
      InputError: the config may not go on there.
    """
    used = config_before(path) is not None
    now = compared(path, config, **options)
    # As it will be noted: the move itself is not yet.
    former = dict(now.get("former", {}))
    for name, then in now.get("moving", {}).items():
        former = _with(former, name, then)
    known = _all_names(files.config_hash(config), former)
    finished = any(_is_finished(path, each) for each in known)
    return "finished" if finished else "continued" if used else "new"


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
        with files.refused_in_words(path):
            files.write_json(path / FORMAT_FILE, record)
            if moved:
                files.write_json(path / CONFIG_FILE, config)

    hosts.first_only(check)


def check_contents(workdir: epath.PathLike, config: Any, contents: Contents) -> None:
    """Refuses what `confirm` would refuse; nothing is written."""
    path = epath.Path(workdir)
    if path.exists() and config_before(path) is not None:
        contents_lib.free_keys(noted(path), contents, config, path)


def noted(workdir: epath.PathLike) -> Noted:
    """What is noted of the contents that a run was started with."""
    return _format(epath.Path(workdir)).get("contents", {})


def _noted(known: Noted, now: Contents) -> dict[str, Any]:
    found = contents_lib.noted(known, now)
    return {"contents": found} if found else {}


def read_config(workdir: epath.PathLike, upgrade: Upgrade = dict) -> dict[str, Any]:
    """``config.json`` of a folder as it reads today, nested; empty where there is none.

    Args:
      workdir: of a run, or of anything else that keeps its config.
      upgrade: see `compared`.
    """
    file = epath.Path(workdir) / CONFIG_FILE
    if not file.exists():
        return {}
    return files.nested(upgrade(files.flatten(json.loads(file.read_text()))))


def config_before(path: epath.Path) -> Any:
    """The config of the run that is there, or None where nothing was computed."""
    file = path / CONFIG_FILE
    if not file.exists():
        return None
    if {child.name for child in path.iterdir()} <= CLAIMED:
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
    now, then = files.config_hash(files.nested(before)), files.config_hash(written)
    return _with(known, now, then)


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
