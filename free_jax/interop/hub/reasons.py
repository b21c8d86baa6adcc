"""What is said of many models at once: how many are used, and why others are not."""

import re
from collections.abc import Iterable, Sequence

from free_jax import nouns
from free_jax.interop.hub.card import Card
from free_jax.interop.hub.names import legible

# How many models of a reason are named, and what stands for each in a shared reason.
_NAMED = 3
_ANY = "MODEL"
# Names of layers, shapes and counts: with others the reason is the same.
_DETAIL = re.compile(r"[\w.\[\]]*\d[\w.\[\]]*")


def grouped(messages: Iterable[tuple[Card, str]]) -> list[str]:
    """A line for each reason with the models that share it, that of the most first.

    Reasons that differ in nothing but the model's own name, or in words with numbers
    such as layers and shapes, are one; of the latter the first is said.

    >>> cards = [Card(f"{name}.pth", "checkpoint") for name in "abcde"]
    >>> grouped((card, f"{card.path} is truncated") for card in cards)
    ['5 models (a.pth, b.pth, c.pth and 2 more): MODEL is truncated']
    """
    groups: dict[str, list[tuple[Card, str]]] = {}
    for card, message in messages:
        groups.setdefault(_alike(card, message), []).append((card, message))
    commonest = sorted(groups.values(), key=len, reverse=True)
    return [_line(members) for members in commonest]


def left_out(cards: Sequence[Card]) -> list[str]:
    """`grouped` reasons of the models that are not used."""
    return grouped((card, card.message) for card in cards if not card.used)


def used_of(number: int, among: int) -> str:
    """How many models of a folder are used.

    >>> used_of(0, 1), used_of(1, 2)
    ('0 of 1 model is used', '1 of 2 models are used')
    """
    verb = "is" if among == 1 else "are"
    return f"{number} of {nouns.count(among, 'model')} {verb} used"


def counted(cards: Sequence[Card]) -> str:
    """How many models are used, and how many of these rest on guesses.

    >>> counted([Card("a.pth", "checkpoint"), Card("b.pth", "checkpoint")])
    '0 of 2 models are used'
    """
    used = [card for card in cards if card.used]
    told = [used_of(len(used), len(cards))]
    seen = [card.guessed_preprocessing for card in used if card.guessed_preprocessing]
    if seen:
        fields = dict.fromkeys(name for names in seen for name in names)
        words = f"{len(seen)} of them with guessed preprocessing"
        told.append(f"{words} ({', '.join(fields)})")
    other = sum(card.guessed != card.guessed_preprocessing for card in used)
    if other:
        told.append(f"{other} with guesses about the network")
    return ", ".join(told)


def _line(members: Sequence[tuple[Card, str]]) -> str:
    if len(members) == 1:
        card, message = members[0]
        for name in (card.path, card.path.rpartition("/")[2]):
            message = message.removeprefix(f"{name}: ")  # It is named already.
        return f"{legible(card.path)} ({card.kind}): {legible(message, 600)}"
    named = ", ".join(legible(card.path, 60) for card, _ in members[:_NAMED])
    if len(members) > _NAMED:
        named += f" and {len(members) - _NAMED} more"
    reason, alike = members[0][1], ""
    if len({message for _, message in members}) > 1:
        reason = _without_names(*members[0])
        if len({_without_names(*member) for member in members}) > 1:
            alike = ", alike but for names or numbers"
    return f"{len(members)} models ({named}){alike}: {legible(reason, 600)}"


def _alike(card: Card, message: str) -> str:
    """The same of reasons that are one."""
    return _DETAIL.sub("#", _without_names(card, message))


def _without_names(card: Card, message: str) -> str:
    """The message, with a word in place of the model's own names."""
    names = {card.path, *card.files}
    names |= {name.rpartition("/")[2] for name in names}
    for name in sorted(names, key=len, reverse=True):
        # A short name may be a part of any word.
        if len(name) > 2:
            message = message.replace(name, _ANY)
    return message
