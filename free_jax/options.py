"""Ranges of options, as annotations of the records that declare them.

    class ReplayOptions(NamedTuple):
        shots: Annotated[int, AtLeast(1)] = 1

Library functions take such records or their fields; a config section IS such a record,
and `experiments.harness.sections` checks it against these annotations.  A function that
other code calls with a record checks it by `check`.
"""

import numbers
from collections.abc import Mapping
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    get_args,
    get_origin,
    get_type_hints,
)

from free_jax.errors import InputError


class AtLeast(NamedTuple):
    """A number that is not smaller than `least`; `hint` is added to the message."""

    least: float
    hint: str = ""

    def problem(self, name: str, value: Any) -> str:
        """What is wrong with ``name=value``, in one line; empty if nothing is."""
        if value >= self.least:
            return ""
        bound = f"at least {self.least}" if self.least else "not be negative"
        return _with_hint(
            f"{name}={value} must {'be ' if self.least else ''}{bound}", self.hint
        )


class Positive(NamedTuple):
    """A number greater than zero."""

    hint: str = ""

    def problem(self, name: str, value: Any) -> str:
        """What is wrong with ``name=value``, in one line; empty if nothing is."""
        return (
            ""
            if value > 0
            else _with_hint(f"{name}={value} must be positive", self.hint)
        )


class Between(NamedTuple):
    """A number in (low, high), ends excluded unless `inclusive`."""

    low: float
    high: float
    hint: str = ""
    inclusive: bool = False

    def problem(self, name: str, value: Any) -> str:
        """What is wrong with ``name=value``, in one line; empty if nothing is."""
        inside = self.low < value < self.high
        if inside or (self.inclusive and value in (self.low, self.high)):
            return ""
        text = f"{name}={value}: must be between {self.low} and {self.high}"
        return _with_hint(text, self.hint)


class OneOf(NamedTuple):
    """One of some values that a `Literal` cannot list, and a hint beside them."""

    choices: tuple[Any, ...]
    hint: str = ""

    def problem(self, name: str, value: Any) -> str:
        """What is wrong with ``name=value``, in one line; empty if nothing is."""
        if value in self.choices:
            return ""
        known = ", ".join(map(str, self.choices))
        return _with_hint(f"{name}={value!r}: choose one of {known}", self.hint)


class NotEmpty(NamedTuple):
    """A tuple with at least one entry."""

    hint: str = ""

    def problem(self, name: str, value: Any) -> str:
        """What is wrong with ``name=value``, in one line; empty if nothing is."""
        return "" if value else f"{name} is empty: {self.hint or 'give at least one'}"


class Call(NamedTuple):
    """A function by name with its keywords: ``dict(name=..., kwargs=...)``."""

    def problem(self, name: str, value: Any) -> str:
        """What is wrong with ``name=value``, in one line; empty if nothing is."""
        if "name" in value and set(value) <= {"name", "kwargs"}:
            return ""
        return f"{name} must be dict(name=..., kwargs=...); found keys {sorted(value)}"


class About(NamedTuple):
    """What an option is, where many records share it; any value will do."""

    text: str

    def problem(self, name: str, value: Any) -> str:
        """Nothing is ever wrong."""
        del name, value
        return ""


# An optax optimizer, or a network: its name and keyword arguments.
Named = Annotated[Mapping[str, Any], Call()]


def adam(learning_rate: float, b1: float = 0.9) -> dict[str, Any]:
    """`optax.adam`, by name.

    >>> adam(0.1)
    {'name': 'adam', 'kwargs': {'learning_rate': 0.1, 'b1': 0.9}}
    """
    return {"name": "adam", "kwargs": {"learning_rate": learning_rate, "b1": b1}}


def sgd(learning_rate: float) -> dict[str, Any]:
    """`optax.sgd`, by name."""
    return {"name": "sgd", "kwargs": {"learning_rate": learning_rate}}


_NUMBERS = {
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
}


def check(*records: Any) -> None:
    """Refuses records (NamedTuples) whose fields are not as their annotations say.

    Choices and ranges are checked, and that a number is one; what a field's own reader
    refuses (an optimiser's name, a record within) is left to it.

    >>> class Steps(NamedTuple):
    ...     every: Annotated[int, AtLeast(1)] = 10
    >>> check(Steps(every=3))

    Raises:
      InputError: one line names the field, its value and what is allowed.
    """
    for record in records:
        hints = get_type_hints(type(record), include_extras=True)
        for name, value in record._asdict().items():
            found = problem(hints[name], name, value)
            if found:
                raise InputError(found)


def problem(hint: Any, name: str, value: Any) -> str:
    """What an annotation says against ``name=value``, in one line; empty if nothing."""
    if get_origin(hint) is Annotated:
        found = problem(get_args(hint)[0], name, value)
        limits = (limit.problem(name, value) for limit in hint.__metadata__)
        return found or next(filter(None, limits), "")
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        # True is no 1.
        if any(type(value) is type(one) and value == one for one in choices):
            return ""
        return f"{name}={value!r}: choose one of {', '.join(map(str, choices))}"
    kind, words = _NUMBERS.get(hint, (object, ""))
    return "" if isinstance(value, kind) else f"{name}={value!r}: must be {words}"


def _with_hint(text: str, hint: str) -> str:
    return f"{text}; {hint}" if hint else text
