"""Ranges of options, as annotations of the records that declare them.

    class ReplayOptions(NamedTuple):
        shots: Annotated[int, AtLeast(1)] = 1

Library functions take such records or their fields; a config section IS such a record,
and `experiments.harness.sections` checks it against these annotations.  This module
imports nothing.
"""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple


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


def _with_hint(text: str, hint: str) -> str:
    return f"{text}; {hint}" if hint else text
