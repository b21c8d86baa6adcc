"""From the command line to a checked config; every mistake is an InputError."""

import ast
import importlib.util
import inspect
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import ml_collections
from absl import flags
from ml_collections import config_flags

from experiments.harness import config_files, files, sections
from experiments.harness.config_files import REPOSITORY as REPOSITORY
from experiments.harness.former import Names
from free_jax.errors import InputError

OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]+)")


# A config as a command line gives it: nested, its values not yet looked at.  Who reads
# it makes a record of it (`sections.read`).
Given = ml_collections.ConfigDict


class Command(NamedTuple):
    """What the user asked for."""

    config: Given
    workdir: str
    distributed: str
    compilation_cache: str
    coordinator: str
    num_processes: int
    process_id: int
    check: bool = False


def parse(argv: Sequence[str], names: Names = Names()) -> Command:
    """Parses ``[program, --config=FILE.py[:VARIANT], --config.key=value, ...]``.

    Args:
      argv: the command line.
      names: former ones of keys and values, which are accepted.

    Raises:
      InputError: anything wrong with it.
    """
    argv, spec = _take_config(list(argv))
    file, _, variant = spec.partition(":")
    config = load_config(file, variant)
    argv = _opened(argv, config)
    argv = _of_today(argv, config, names)
    argv = _take_calls(argv, config)
    _check_overrides(argv, config, names)
    try:
        # Values of a type that no flag has are refused when flags are defined.
        values = define_flags(argv, config)
        rest = values(argv)[1:]
    except (flags.Error, ValueError, TypeError) as error:
        raise InputError(_plain(error)) from None
    if rest:
        raise InputError(f"unexpected argument {rest[0]!r}; options start with --")
    stem = pathlib.Path(file).stem
    if variant:
        # A smoke run must not land in the directory of the full one.
        stem += "_" + re.sub(r"[^A-Za-z0-9.=-]+", "_", variant)
    # Here, at the door: half of a run would go to a folder named "~" otherwise.
    workdir = os.path.expanduser(values.workdir or "")
    workdir = workdir or f"runs/{stem}/seed{config.get('seed', 0)}"
    return Command(
        values.config,
        workdir,
        values.distributed,
        os.path.expanduser(values.compilation_cache or ""),
        values.coordinator,
        values.num_processes,
        values.process_id,
        values.check,
    )


def _plain(error: Exception) -> str:
    """An error of a value in one line, without Python's words for numbers."""
    text = " ".join(str(error).split())
    # absl's words and the value, which Python shows as a tuple.
    text = re.sub(r"\('([^']*)', '([^']*)'\)", r"\1: \2", text)
    text = re.sub(r"invalid literal for int\(\).*", "must be a whole number", text)
    return re.sub(r"could not convert string to float.*", "must be a number", text)


def define_flags(
    argv: Sequence[str], config: ml_collections.ConfigDict
) -> flags.FlagValues:
    """Defines the flags, in a fresh registry so that tests can parse many times."""
    values = flags.FlagValues()
    # Not DEFINE_config_file: it hides errors inside the file behind its own, and loads
    # it by a call that new Pythons drop.
    config_flags.DEFINE_config_dict(
        "config", config, "Overrides.", values, sys_argv=list(argv)
    )
    flags.DEFINE_string(
        "workdir",
        None,
        "Where to write; default runs/<config>[_<variant>]/seed<seed>. A run in the "
        "same workdir continues.",
        values,
    )
    flags.DEFINE_bool(
        "check",
        False,
        "Only look at what the run needs; nothing is computed or written.",
        values,
    )
    flags.DEFINE_enum(
        "distributed",
        "auto",
        ["auto", "on", "off"],
        "Several hosts: found out, required, or not used.",
        values,
    )
    # Cloud TPUs, Slurm and Kubernetes tell these to JAX themselves.
    env = os.environ.get
    flags.DEFINE_string(
        "coordinator",
        env("JAX_COORDINATOR_ADDRESS", ""),
        "Several hosts: HOST:PORT of process 0; default $JAX_COORDINATOR_ADDRESS.",
        values,
    )
    for name, default, text in [
        ("num_processes", env("JAX_NUM_PROCESSES", 0), "how many processes"),
        ("process_id", env("JAX_PROCESS_ID", -1), "the number of this one, from 0"),
    ]:
        text = f"Several hosts: {text}; default $JAX_{name.upper()}."
        flags.DEFINE_integer(name, default, text, flag_values=values)
    flags.DEFINE_string(
        "compilation_cache",
        "",
        "Folder of the persistent compilation cache, or 'off'; default "
        "$FREE_JAX_CACHE/xla or ~/.cache/free_jax/xla.",
        values,
    )
    return values


def load_config(file: str, variant: str = "") -> ml_collections.ConfigDict:
    """Runs ``get_config`` of a config file; its ValueErrors become InputErrors."""
    name = pathlib.Path(file).stem
    spec = importlib.util.spec_from_file_location(f"_config_{name}", file)
    if spec is None or spec.loader is None:
        raise InputError(f"--config={file}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise InputError(f"--config={file}: the file defines no get_config()")
    if variant and not inspect.signature(module.get_config).parameters:
        raise InputError(f"--config={file}:{variant}: this config has no variants")
    try:
        config = module.get_config(*([variant] if variant else []))
    except ValueError as error:
        raise InputError(f"--config={file}:{variant}: {error}") from error
    if not isinstance(config, ml_collections.ConfigDict):
        kind = type(config).__name__
        raise InputError(f"--config={file}: get_config() returned {kind}, no config")
    return config


def _take_config(argv: list[str]) -> tuple[list[str], str]:
    """Returns argv without --config=FILE:VARIANT, and that value, with a full path."""
    for i, arg in enumerate(argv):
        name, equals, spec = arg.partition("=")
        if name not in ("--config", "-config"):
            continue
        if not equals:
            if i + 1 == len(argv):
                break
            spec = argv[i + 1]
        file, colon, variant = spec.partition(":")
        rest = argv[:i] + argv[i + 1 + (not equals) :]
        return rest, f"{config_files.locate(file)}{colon}{variant}"
    raise InputError(f"--config=FILE.py is required; {config_files.known()}")


def _known_keys(config: Any) -> tuple[set[str], set[str]]:
    """Keys with a value, and sections of them."""
    known = set(files.flatten(config))
    found = {
        key.rsplit(".", i)[0] for key in known for i in range(1, key.count(".") + 1)
    }
    return known, found


def _of_today(argv: Sequence[str], config: Any, names: Names) -> list[str]:
    """The arguments with former names of keys and values replaced, each with a line."""
    known, groups = _known_keys(config)
    found: list[str] = []
    implied: list[str] = []  # Before what the user says of the same keys.
    for arg in argv:
        match = OVERRIDE.match(arg)
        if not match:
            found.append(arg)
            continue
        key, dashes = match[1], arg[: match.start(1)]
        if key in names.gone:
            print(f"{arg} has no effect any more", flush=True)
            continue
        value = arg[match.end() + 1 :]
        today = names.override_today(key, value)
        name = names.key_today(key)
        if key in known | groups or name not in known | groups:
            today = {key: names.override_today(name, value).get(name, value)}
        new = {
            k: f"{dashes}{k}{'=' if '=' in arg else ''}{v}"
            for k, v in today.items()
            if k in (name, key) or k in known
        }
        if list(new.values()) != [arg]:
            print(f"{arg} is now {' '.join(new.values())}", flush=True)
        found += [text for k, text in new.items() if k in (name, key)]
        implied += [text for k, text in new.items() if k not in (name, key)]
    return [*found[:1], *implied, *found[1:]]


def _opened(argv: Sequence[str], config: ml_collections.ConfigDict) -> list[str]:
    """The arguments with a section that is given as a dict key by key.

    What a dict does not say stays as the config has it; a whole section in its place
    would lose the config's values for a record's own defaults.  Keywords of a call are
    those that are written (`_take_calls`).
    """
    rest = []
    for arg in argv:
        key, _, text = arg.partition("=")
        match = OVERRIDE.match(arg)
        path = match[1].split(".") if match else []
        above: Any = config
        for name in path[:-1]:
            above = above.get(name) if hasattr(above, "keys") else None
        is_section = (
            hasattr(above, "keys")
            and set(above) != _CALL
            and hasattr(above.get(path[-1]) if path else None, "keys")
        )
        given = _dict(text) if is_section else None
        if given is None:
            rest.append(arg)
        else:
            # Sections within are opened in turn.
            rest += _opened([f"{key}.{k}={v}" for k, v in given.items()], config)
    return rest


def _dict(text: str) -> dict[str, Any] | None:
    """A dict written as Python writes it."""
    try:
        found = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _take_calls(argv: Sequence[str], config: ml_collections.ConfigDict) -> list[str]:
    """The arguments without those that write a section as a call, which replace it.

    ``--config.optimizer=sgd(learning_rate=0.1)`` is a section ``dict(name=...,
    kwargs=...)`` in one piece; its ``kwargs`` are those written, and no others.
    """
    rest = []
    for arg in argv:
        match = OVERRIDE.match(arg)
        path = match[1].split(".") if match and "=" in arg else []
        section: Any = config
        for name in path:
            section = section.get(name) if hasattr(section, "keys") else None
        if not path or not hasattr(section, "keys") or set(section) != _CALL:
            rest.append(arg)
            continue
        parent: Any = config
        for name in path[:-1]:
            parent = parent[name]
        with config.unlocked():
            parent[path[-1]] = ml_collections.ConfigDict(_call(arg))
    return rest


# Keys of a section that names a function.
_CALL = {"name", "kwargs"}


def _call(arg: str) -> dict[str, Any]:
    """Name and keywords of ``--config.key=name`` or ``--config.key=name(a=1)``."""
    key, _, text = arg.partition("=")
    try:
        node = ast.parse(text, mode="eval").body
        named, given = (node.func, node) if isinstance(node, ast.Call) else (node, None)
        if not isinstance(named, ast.Name) or (given and given.args):
            raise ValueError(text)
        kwargs = {
            str(word.arg): ast.literal_eval(word.value)
            for word in (given.keywords if given else ())
        }
    except (SyntaxError, ValueError):
        raise InputError(
            f"{arg}: write a name and its keywords, such as {key}=name(width=64)"
        ) from None
    return {"name": named.id, "kwargs": kwargs}


def _check_overrides(argv: Sequence[str], config: Any, names: Names) -> None:
    """Names a misspelt key and its likely correction, if it had another name too."""
    known, groups = _known_keys(config)
    former = {
        key: today
        for key, today in names.keys.items()
        if today in known | groups and key not in known | groups
    }
    for arg in argv:
        match = OVERRIDE.match(arg)
        if not match:
            continue
        _check_unset(match[1], config)
        if match[1] in known | groups:
            continue
        key = re.sub(r"\[\d+\]$", "", match[1])
        if key in known | groups or _inside_leaf(key, known):
            continue
        today = names.key_today(key)
        hint = sections.did_you_mean(today, known | groups, former)
        raise InputError(f"--config.{match[1]}: the config has no such key; {hint}")


def _check_unset(key: str, config: Any) -> None:
    """Refuses a key that is None, or is within one: nothing says its type."""
    for unset, value in files.flatten(config).items():
        if value is None and (key == unset or key.startswith(f"{unset}.")):
            raise InputError(
                f"--config.{key}: {unset} is None in this config and cannot be given "
                f"on a command line; set config.{unset} = {{...}} in a config file"
            )


def _inside_leaf(key: str, known: set[str]) -> bool:
    """Whether the key points into a list, which `flatten` keeps whole."""
    return any(re.match(re.escape(name) + r"\[\d+\]", key) for name in known)
