"""Why models were left out: a reason that many share is said once."""

from collections.abc import Iterable, Sequence

from free_jax.interop.hub.card import Card
from free_jax.interop.hub.names import legible

# How many models of a reason are named, and what stands for each in a shared reason.
_NAMED = 3
_ANY = "MODEL"


def grouped(messages: Iterable[tuple[Card, str]]) -> list[str]:
    """A line for each reason, in order of first mention, with the models that share it.

    Reasons that differ in nothing but the model's own name are one.

    >>> cards = [Card(f"{name}.pth", "checkpoint") for name in "abcde"]
    >>> grouped((card, f"{card.path} is truncated") for card in cards)
    ['5 models (a.pth, b.pth, c.pth and 2 more): MODEL is truncated']
    """
    groups: dict[str, list[tuple[Card, str]]] = {}
    for card, message in messages:
        groups.setdefault(_without_names(card, message), []).append((card, message))
    return [_line(shared, members) for shared, members in groups.items()]


def left_out(cards: Sequence[Card]) -> list[str]:
    """`grouped` reasons of the models that are not used."""
    return grouped((card, card.message) for card in cards if not card.used)


def _line(shared: str, members: Sequence[tuple[Card, str]]) -> str:
    if len(members) == 1:
        card, message = members[0]
        return f"{legible(card.path)} ({card.kind}): {legible(message, 600)}"
    named = ", ".join(legible(card.path, 60) for card, _ in members[:_NAMED])
    if len(members) > _NAMED:
        named += f" and {len(members) - _NAMED} more"
    same = {message for _, message in members}
    reason = same.pop() if len(same) == 1 else shared
    return f"{len(members)} models ({named}): {legible(reason, 600)}"


def _without_names(card: Card, message: str) -> str:
    """The message, with a word in place of the model's own names."""
    names = {card.path, *card.files}
    names |= {name.rpartition("/")[2] for name in names}
    for name in sorted(names, key=len, reverse=True):
        # A short name may be a part of any word.
        if len(name) > 2:
            message = message.replace(name, _ANY)
    return message
