"""Config sections as typed records: their defaults, their check, their reference.

A section is a NamedTuple whose fields are plain values or sections in turn.  What a
field may hold is said by its annotation: ``Literal`` lists choices, `free_jax.options`
holds the ranges; the class's docstring has one line a field under ``Attributes:``.

Usually a field is a key, and a record in it a section.  Two annotations make a config
of records that are shared: the keys of a `Flat` record stand where it stands, and
`Without` leaves out fields that no user sets.
"""

import difflib
import inspect
import os
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from free_jax.errors import InputError
from free_jax.options import problem

T = TypeVar("T")

_KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}


class Flat(NamedTuple):
    """Of a record whose keys are those of the section that holds it.

    >>> class Inner(NamedTuple):
    ...     seed: int = 0
    >>> class Outer(NamedTuple):
    ...     inner: Annotated[Inner, Flat()] = Inner(seed=3)
    >>> defaults(Outer), read(Outer, {"seed": 5})
    ({'seed': 3}, Outer(inner=Inner(seed=5)))
    """

    def problem(self, name: str, value: Any) -> str:
        """Nothing is ever wrong."""
        del name, value
        return ""


class Without(NamedTuple):
    """Of a record some fields of which are no keys: they keep their values."""

    fields: tuple[str, ...]

    def problem(self, name: str, value: Any) -> str:
        """Nothing is ever wrong."""
        del name, value
        return ""


def read(record: type[T], values: Any, where: str = "config") -> T:
    """A record from nested plain values; what is not given has its default.

    >>> class Log(NamedTuple):
    ...     every_steps: int = 1
    >>> read(Log, {"every_steps": 5})
    Log(every_steps=5)

    Args:
      record: a NamedTuple class.
      values: nested dicts or a ConfigDict; an instance of `record` is checked again.
      where: name of the section in messages.

    Raises:
      InputError: a key is unknown or missing, or its value is of another type, no
        choice, or out of range; one line names the key, the value and the remedy.
    """
    return _read(record, values, where)


def _read(
    record: type[T],
    values: Any,
    where: str,
    base: Any = None,
    hidden: tuple[str, ...] = (),
) -> T:
    """See `read`; `base` has the values of what is not given and of what is hidden."""
    if isinstance(values, record):
        base, values = values, _items(values, hidden)
    given, known = _mapping(values, where), keys(record, hidden)
    for key in given:
        if key not in known:
            hint = did_you_mean(key, known)
            raise InputError(f"{where}.{key}: the config has no such key; {hint}")
    start = _defaults(record) if base is None else base._asdict()
    found: dict[str, Any] = {}
    for key, hint in fields(record).items():
        name = f"{where}.{key}"
        if _is_flat(hint):
            part, without = _base(hint), _hidden(hint)
            own = {k: given[k] for k in keys(part, without) if k in given}
            found[key] = _read(part, own, where, start.get(key), without)
        elif key in given and key not in hidden:
            found[key] = _value(hint, given[key], name)
        elif key in start:
            found[key] = start[key]
        elif is_record(_base(hint)):
            found[key] = _read(_base(hint), {}, name)
        else:
            raise InputError(f"{name} is missing: give it a value")
    return record(**found)


def defaults(record: type, hidden: tuple[str, ...] = ()) -> dict[str, Any]:
    """The record's defaults as nested plain values, ready for a ConfigDict.

    Args:
      record: a NamedTuple class.
      hidden: fields that are no keys.

    Raises:
      TypeError: a field has no default and is no section that has some.
    """
    found: dict[str, Any] = {}
    known = _defaults(record)
    for key, hint in fields(record).items():
        if key in hidden:
            continue
        if key in known:
            value, without = known[key], _hidden(hint)
            section = is_record(type(value))
            value = _shown(value, without) if section else plain(value)
        elif is_record(_base(hint)):
            value = defaults(_base(hint), _hidden(hint))
        else:
            raise TypeError(f"{record.__name__}.{key} has no default")
        found |= value if _is_flat(hint) else {key: value}
    return found


def plain(value: Any) -> Any:
    """Records as dicts of their keys, at every depth; other values as they are."""
    if is_record(type(value)):
        return _shown(value)
    if hasattr(value, "to_dict"):  # A ConfigDict, without importing it.
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(plain(item) for item in value)
    return value


def _shown(value: Any, hidden: tuple[str, ...] = ()) -> dict[str, Any]:
    """A record as a dict of its keys, at every depth."""
    hints = keys(type(value), hidden)
    return {
        key: _shown(item, _hidden(hints[key])) if is_record(type(item)) else plain(item)
        for key, item in _items(value, hidden).items()
    }


def _items(value: Any, hidden: tuple[str, ...] = ()) -> dict[str, Any]:
    """The keys of a record and what they hold, which may be records."""
    found: dict[str, Any] = {}
    for key, hint in fields(type(value)).items():
        item = getattr(value, key)
        if _is_flat(hint):
            found |= _items(item, _hidden(hint))
        elif key not in hidden:
            found[key] = item
    return found


class Row(NamedTuple):
    """One key of a config, for a reference.

    Attributes:
      key: dotted.
      kind: of its values, in words.
      default: as Python writes it.
      allowed: choices or range in words; empty where any value will do.
      text: what it does.
    """

    key: str
    kind: str
    default: str
    allowed: str
    text: str


def document(record: type, prefix: str = "") -> list[Row]:
    """One row for each key, sections in the order of their fields."""
    return list(_rows(record, prefix, defaults(record)))


def did_you_mean(
    key: str, known: Iterable[str], former: Mapping[str, str] | None = None
) -> str:
    """The likely correction of a misspelt key, or all that are known.

    Args:
      key: as it was written.
      known: keys that exist.
      former: keys that existed, with their names today.
    """
    pool, former = sorted(known), former or {}
    close = difflib.get_close_matches(key, [*pool, *former], n=1, cutoff=0.5)
    # A right name in a wrong section is the commonest mistake after typing errors.
    close = [k for k in pool if k.split(".")[-1] == key.split(".")[-1]] or close
    found = [former.get(k, k) for k in close]
    return f"did you mean {found[0]!r}?" if found else f"keys: {', '.join(pool)}"


def is_record(kind: Any) -> bool:
    """Whether a type is a NamedTuple class."""
    return (
        isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")
    )


def fields(record: type) -> dict[str, Any]:
    """Field names and their annotations, ranges included."""
    hints = typing.get_type_hints(record, include_extras=True)
    return {key: hints[key] for key in getattr(record, "_fields", ())}


def keys(record: type, hidden: tuple[str, ...] = ()) -> dict[str, Any]:
    """Names of a section's keys and their annotations."""
    found: dict[str, Any] = {}
    for key, hint in fields(record).items():
        if key not in hidden:
            flat = _is_flat(hint)
            found |= keys(_base(hint), _hidden(hint)) if flat else {key: hint}
    return found


def _is_flat(hint: Any) -> bool:
    return any(isinstance(x, Flat) for x in getattr(hint, "__metadata__", ()))


def _hidden(hint: Any) -> tuple[str, ...]:
    """Fields of an annotated record that are no keys."""
    limits = getattr(hint, "__metadata__", ())
    return sum((x.fields for x in limits if isinstance(x, Without)), ())


def _defaults(record: type) -> dict[str, Any]:
    return getattr(record, "_field_defaults", {})


def _mapping(values: Any, where: str) -> dict[str, Any]:
    if is_record(type(values)):
        return _items(values)
    if hasattr(values, "to_dict"):
        values = values.to_dict()
    if not isinstance(values, Mapping):
        raise InputError(f"{where}={values!r}: must be a section of keys")
    return {str(key): value for key, value in values.items()}


def _base(hint: Any) -> Any:
    """An annotation without its ranges and without None."""
    if typing.get_origin(hint) is Annotated:
        return _base(typing.get_args(hint)[0])
    if _is_union(hint):
        rest = [arg for arg in typing.get_args(hint) if arg is not types.NoneType]
        return _base(rest[0]) if len(rest) == 1 else hint
    return hint


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _value(hint: Any, value: Any, name: str) -> Any:
    """The value as its annotation wants it, or an InputError."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        hidden = _hidden(hint)
        if hidden:
            value = _read(args[0], value, name, hidden=hidden)
        else:
            value = _value(args[0], value, name)
        for limit in hint.__metadata__:
            found = limit.problem(name, value)
            if found:
                raise InputError(found)
        return value
    if _is_union(hint):
        return _of_union(args, value, name)
    if origin is Literal:
        found = problem(hint, name, value)
        if found:
            raise InputError(found)
        return value
    if is_record(hint):
        return read(hint, value, name)
    if hint is tuple or origin is tuple:
        return _of_tuple(args, value, name)
    if hint in (dict, Mapping) or origin in (dict, Mapping) or _is_mapping(origin):
        return plain(_mapping(value, name))
    if hint is Any:
        return plain(value)
    return _scalar(hint, value, name)


def _is_mapping(origin: Any) -> bool:
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _of_union(args: tuple[Any, ...], value: Any, name: str) -> Any:
    if value is None and types.NoneType in args:
        return None
    error = InputError(f"{name}={value!r}: must be set")
    for arg in args:
        if arg is types.NoneType:
            continue
        try:
            return _value(arg, value, name)
        except InputError as found:
            error = found
    raise error


def _of_tuple(args: tuple[Any, ...], value: Any, name: str) -> tuple:
    if not isinstance(value, (tuple, list)) or is_record(type(value)):
        raise InputError(f"{name}={value!r}: must be several values, as (1, 2)")
    if not args:
        return tuple(value)
    if args[-1] is Ellipsis:
        kinds = (args[0],) * len(value)
    elif len(args) != len(value):
        raise InputError(f"{name}={value!r}: must be {len(args)} values")
    else:
        kinds = args
    return tuple(
        _value(kind, item, f"{name}[{i}]")
        for i, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )


def _scalar(kind: Any, value: Any, name: str) -> Any:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if kind is float and whole:
        return float(value)
    if kind not in _KINDS:
        raise TypeError(f"{name}: {kind} is no type of a config's values")
    if isinstance(value, kind) and (whole or kind is not int):
        return _at_home(value) if isinstance(value, str) else value
    raise InputError(f"{name}={value!r}: must be {_KINDS[kind]}")


def _at_home(value: str) -> str:
    """Paths, one or several with commas between, with ~ replaced by the home folder.

    Here, at the door, so that no reader of a path has to, and none of a pair forgets.
    """
    if "~" not in value:
        return value
    return ",".join(os.path.expanduser(part) for part in value.split(","))


def _rows(
    record: type, prefix: str, values: Mapping[str, Any], hidden: tuple[str, ...] = ()
) -> Iterable[Row]:
    texts = attributes(record)
    for key, hint in fields(record).items():
        name, base = f"{prefix}{key}", _base(hint)
        if key in hidden:
            continue
        if _is_flat(hint):
            yield from _rows(base, prefix, values, _hidden(hint))
        elif is_record(base) and values[key] is not None:
            yield from _rows(base, f"{name}.", values[key], _hidden(hint))
        else:
            kind, allowed = _words(hint)
            text = texts.get(key) or _about(hint)
            yield Row(name, kind, repr(values[key]), allowed, text)


def attributes(record: type) -> dict[str, str]:
    """What a class's docstring says under ``Attributes:``, by name."""
    text = inspect.getdoc(record) or ""
    _, found, section = text.partition("Attributes:\n")
    texts: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines() if found else ():
        if line.strip() and not line.startswith("  "):
            break  # Another section.
        start = re.match(r"  ([a-z_]\w*(?:, [a-z_]\w*)*): (.*)", line)
        if start:
            names = start[1].split(", ")
            texts |= dict.fromkeys(names, start[2].strip())
        else:
            texts |= {name: f"{texts[name]} {line.strip()}".strip() for name in names}
    return texts


def _about(hint: Any) -> str:
    """What an annotation itself says of an option."""
    limits = getattr(hint, "__metadata__", ())
    return " ".join(limit.text for limit in limits if hasattr(limit, "text"))


def _words(hint: Any) -> tuple[str, str]:
    """An annotation in words: the kind of values, and which are allowed."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        kind, allowed = _words(args[0])
        told = [allowed, *(_limit_words(limit) for limit in hint.__metadata__)]
        return kind, ", ".join(filter(None, told))
    if _is_union(hint):
        told = [_words(arg) for arg in args if arg is not types.NoneType]
        optional = " or None" if types.NoneType in args else ""
        kinds = dict.fromkeys(t[0] for t in told)
        return " or ".join(kinds) + optional, ", ".join(
            filter(None, (t[1] for t in told))
        )
    if origin is Literal:
        return _KINDS.get(type(args[0]), "text"), ", ".join(map(str, args))
    if hint is tuple or origin is tuple:
        kind, allowed = _words(args[0]) if args else ("values", "")
        return f"several of: {kind}", allowed
    if hint in _KINDS:
        return _KINDS[hint], ""
    return ("anything" if hint is Any else "keywords"), ""


def _limit_words(limit: Any) -> str:
    """What a range of `free_jax.options` allows, in words."""
    told = limit._asdict()
    if "text" in told:
        return ""
    if "least" in told:
        return f"at least {told['least']}"
    if "choices" in told:
        return ", ".join(map(str, told["choices"]))
    if "low" in told:
        return f"between {told['low']} and {told['high']}"
    return {"Positive": "positive", "NotEmpty": "not empty"}.get(
        type(limit).__name__, "name, kwargs"
    )
