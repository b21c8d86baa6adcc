"""Config sections as typed records: their defaults, their check, their reference.

A section is a NamedTuple whose fields are plain values or sections in turn.  What a
field may hold is said by its annotation: ``Literal`` lists choices, `free_jax.options`
holds the ranges; the class's docstring has one line a field under ``Attributes:``.
"""

import difflib
import inspect
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from free_jax.errors import InputError

T = TypeVar("T")

_KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}


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
    given = _mapping(values, where)
    hints = fields(record)
    for key in given:
        if key not in hints:
            hint = did_you_mean(key, hints)
            raise InputError(f"{where}.{key}: the config has no such key; {hint}")
    found: dict[str, Any] = {}
    for key, hint in hints.items():
        name = f"{where}.{key}"
        if key in given:
            found[key] = _value(hint, given[key], name)
        elif key not in _defaults(record):
            if not is_record(_base(hint)):
                raise InputError(f"{name} is missing: give it a value")
            found[key] = read(_base(hint), {}, name)
    return record(**found)


def defaults(record: type) -> dict[str, Any]:
    """The record's defaults as nested plain values, ready for a ConfigDict.

    Raises:
      TypeError: a field has no default and is no section that has some.
    """
    found = {}
    known = _defaults(record)
    for key, hint in fields(record).items():
        if key in known:
            found[key] = plain(known[key])
        elif is_record(_base(hint)):
            found[key] = defaults(_base(hint))
        else:
            raise TypeError(f"{record.__name__}.{key} has no default")
    return found


def plain(value: Any) -> Any:
    """Records as dicts, at every depth; other values as they are."""
    if is_record(type(value)):
        return {key: plain(item) for key, item in value._asdict().items()}
    if hasattr(value, "to_dict"):  # A ConfigDict, without importing it.
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(plain(item) for item in value)
    return value


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


def did_you_mean(key: str, known: Iterable[str]) -> str:
    """The likely correction of a misspelt key, or all that are known."""
    pool = sorted(known)
    close = difflib.get_close_matches(key, pool, n=1, cutoff=0.5)
    # A right name in a wrong section is the commonest mistake after typing errors.
    close = [k for k in pool if k.split(".")[-1] == key.split(".")[-1]] or close
    return f"did you mean {close[0]!r}?" if close else f"keys: {', '.join(pool)}"


def is_record(kind: Any) -> bool:
    """Whether a type is a NamedTuple class."""
    return (
        isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")
    )


def fields(record: type) -> dict[str, Any]:
    """Field names and their annotations, ranges included."""
    hints = typing.get_type_hints(record, include_extras=True)
    return {key: hints[key] for key in getattr(record, "_fields", ())}


def _defaults(record: type) -> dict[str, Any]:
    return getattr(record, "_field_defaults", {})


def _mapping(values: Any, where: str) -> dict[str, Any]:
    if is_record(type(values)):
        return values._asdict()
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
        value = _value(args[0], value, name)
        for limit in hint.__metadata__:
            problem = limit.problem(name, value)
            if problem:
                raise InputError(problem)
        return value
    if _is_union(hint):
        return _of_union(args, value, name)
    if origin is Literal:
        if not any(type(value) is type(arg) and value == arg for arg in args):
            known = ", ".join(map(str, args))
            raise InputError(f"{name}={value!r}: choose one of {known}")
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
        return value
    raise InputError(f"{name}={value!r}: must be {_KINDS[kind]}")


def _rows(record: type, prefix: str, values: Mapping[str, Any]) -> Iterable[Row]:
    texts = attributes(record)
    for key, hint in fields(record).items():
        name, base = f"{prefix}{key}", _base(hint)
        if is_record(base) and values[key] is not None:
            yield from _rows(base, f"{name}.", values[key])
        else:
            kind, allowed = _words(hint)
            yield Row(name, kind, repr(values[key]), allowed, texts.get(key, ""))


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
        return " or ".join(t[0] for t in told) + optional, ", ".join(
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
    if "least" in told:
        return f"at least {told['least']}"
    if "choices" in told:
        return ", ".join(map(str, told["choices"]))
    if "low" in told:
        return f"between {told['low']} and {told['high']}"
    return {"Positive": "positive", "NotEmpty": "not empty"}.get(
        type(limit).__name__, "name, kwargs"
    )
