"""What was found in a folder of models: shown, as JSON, and as a table to correct."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from free_jax.interop.hub.card import Card
from free_jax.interop.hub.facts import GUESSED
from free_jax.interop.hub.names import legible
from free_jax.interop.hub.preprocessing import Preprocessing
from free_jax.interop.hub.reasons import counted, grouped, left_out

_DIGITS = 6
# Classes of several models that are listed.
_MERGES = 8


def as_json(cards: Sequence[Card]) -> str:
    """The cards as JSON text: a list, one object a model.

    Letters outside ASCII, control characters and those of mark-up are written as
    escapes, so that the text may stand anywhere; a JSON reader gives them back.
    """
    text = json.dumps([card_dict(card) for card in cards], indent=1, allow_nan=False)
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text + "\n"


def card_dict(card: Card) -> dict[str, Any]:
    """One model as plain values."""
    network, seen = card.network, card.preprocessing
    return {
        "path": card.path,
        "status": "used" if card.used else "refused",
        "kind": card.kind,
        "network": card.recognised,
        "files": list(card.files),
        "num_classes": None if network is None else network.num_classes,
        "class_names": None if card.class_names is None else list(card.class_names),
        "class_ids": None if card.class_ids is None else list(card.class_ids),
        "image_shape": None if network is None else list(network.image_shape),
        "mean": None if seen is None else _rounded(seen.mean),
        "std": None if seen is None else _rounded(seen.std),
        "preprocessing": None if seen is None else _steps(seen),
        "sources": dict(card.sources),
        "guessed": list(card.guessed),
        "accuracy": card.accuracy if math.isfinite(card.accuracy) else None,
        "licence": card.licence or None,
        "network_difference": _figure(card.network_difference),
        "reference_difference": _figure(card.reference_difference),
        "gives": None if network is None else sorted(network.gives),
        "consent": dict(card.consent),
        "message": card.message,
    }


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.9g}") for value in values]


def _figure(value: float | None) -> float | None:
    """JSON has no infinity: a difference that large is 1e9."""
    if value is None:
        return None
    return min(float(value), 1e9) if not math.isnan(value) else 1e9


def _steps(seen: Preprocessing) -> dict[str, Any]:
    return {
        "resize_to": _sides(seen.resize_to),
        "crop": _square(seen.size) if seen.crop else None,
        "crop_offset": seen.crop_offset,
        "resample": seen.resample,
        "channels": seen.channels,
        "range": seen.range,
    }


def _sides(value: int | tuple[int, int] | None) -> Any:
    """A number is the shortest edge, two are height and width."""
    return list(value) if isinstance(value, tuple) else value


def _square(value: tuple[int, int]) -> Any:
    return value[0] if value[0] == value[1] else list(value)


def as_text(
    cards: Sequence[Card],
    notes: Sequence[str] = (),
    merged: Mapping[str, Sequence[tuple[str, str]]] | None = None,
) -> str:
    """The cards as a table, then what was left out and why, guesses and merges.

    Args:
      cards: of `read_folder`.
      notes: what was passed over.
      merged: class to (source, name) of the outputs that are one class.
    """
    lines = [*_table(cards), ""]
    reasons = left_out(cards)
    if reasons:
        lines += ["Left out:", *(f"  {reason}" for reason in reasons), ""]
    lines += grouped((c, c.message) for c in cards if c.used and c.message)
    guessed = grouped((c, ", ".join(c.guessed)) for c in cards if c.used and c.guessed)
    if guessed:
        lines += ["Guessed, for no file says it (correct it in teachers.yaml):"]
        lines += [f"  {line}" for line in guessed]
    trusted = [card for card in cards if card.consent]
    for card in trusted:
        for file, digest in card.consent.items():
            lines += [f"Code run with consent: {legible(file)} (SHA-256 {digest})"]
    by_id, merges = 0, []
    for name, members in (merged or {}).items():
        if all(said == name and "#" in said for _, said in members):
            by_id += 1  # Ids that files of one folder share: nobody merged them.
            continue
        said = ", ".join(f"{legible(s)}: {legible(n)}" for s, n in members[:6])
        more = f" and {len(members) - 6} more" if len(members) > 6 else ""
        merges += [f"One class: {legible(name)} ({said}{more})"]
    lines += merges[:_MERGES]
    if len(merges) > _MERGES:
        rest = len(merges) - _MERGES
        lines += [f"and {rest} more classes that several models know"]
    if by_id:
        lines += [f"{by_id} classes are known by ids that files of one folder share"]
    lines += [legible(note, 300) for note in notes]
    lines += [counted(cards)]
    return "\n".join(lines)


def _long(message: str) -> str:
    return legible(message, 600)


def _table(cards: Sequence[Card]) -> list[str]:
    """A line a model, columns side by side."""
    rows = [("model", "kind", "network", "classes", "input", "normalisation", "from")]
    rows += [_row(card) for card in cards]
    if any(card.network_difference is not None for card in cards):
        figures = [("network", "reference"), *map(_figures, cards)]
        rows = [(*row, *two) for row, two in zip(rows, figures, strict=True)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _row(card: Card) -> tuple[str, ...]:
    path, network = legible(card.path, 60), card.network
    if network is None or card.preprocessing is None:
        return path, card.kind, "left out", "", "", "", ""
    names = "" if card.class_names else " unnamed"
    seen = card.preprocessing
    h, w = seen.size
    shown = f"{h}x{w} {seen.channels}"
    if seen.resize_to is not None and seen.crop:
        shown += f" of {_sides(seen.resize_to)}"
    return (
        path,
        card.kind,
        legible(card.recognised, 48),
        f"{network.num_classes}{names}",
        shown,
        f"{_few(seen.mean)} / {_few(seen.std)}",
        _where(card),
    )


def _few(values: Sequence[float]) -> str:
    values = values[:1] if len(set(values)) == 1 else values
    return " ".join(f"{value:.4g}" for value in values)


def _where(card: Card) -> str:
    """Where size, normalisation and names were found."""
    fields = ("size", "mean", "class_names")
    found = [card.sources[name] for name in fields if name in card.sources]
    # "guessed" before the rest: it is what a reader has to see.
    files = dict.fromkeys(source.partition(":")[0] for source in found)
    shown = sorted(files, key=lambda source: source != GUESSED)
    return ", ".join(legible(source, 40) for source in shown)


def _figures(card: Card) -> tuple[str, str]:
    values = (card.network_difference, card.reference_difference)
    return tuple("" if v is None else f"{v:.1e}" for v in values)  # type: ignore


def as_table(cards: Sequence[Card]) -> str:
    """A filled ``teachers.yaml``: all that was found and guessed, to be corrected.

    What was guessed is marked; reading it again with the table takes it as said.
    """
    lines = [
        "# What files do not say of these models. mean and std are those of pixels as",
        "# the network takes them: in units of `range` and in the order of `channels`.",
        "# resize_to: a number is the shortest edge, [h, w] the size.",
    ]
    for card in cards:
        lines += _entry(card)
    return "\n".join(lines) + "\n"


def _entry(card: Card) -> list[str]:
    import yaml

    def text(value: Any) -> str:
        dumped = yaml.safe_dump(
            value, default_flow_style=True, width=10**9, allow_unicode=False
        )
        return dumped.removesuffix("\n").removesuffix("\n...")

    key = text(card.path)
    if card.network is None or card.preprocessing is None:
        return ["", f"# left out: {_long(card.message)}", f"{key}: {{}}"]
    seen = card.preprocessing
    mean, std = (
        [float(f"{v * seen.range:.9g}") for v in values]
        for values in (seen.mean, seen.std)
    )
    if seen.channels == "BGR":
        mean, std = mean[::-1], std[::-1]
    settings = {
        "size": _square(seen.size),
        "resize_to": False if seen.resize_to is None else _sides(seen.resize_to),
        "crop": seen.crop,
        "resample": seen.resample,
        "mean": mean,
        "std": std,
        "channels": seen.channels,
        "range": seen.range,
    }
    lines = ["", f"# {legible(card.recognised)} ({card.kind})", f"{key}:"]
    if card.kind in ("torchvision", "lightning") and card.recognised:
        assumed = any(n in card.guessed for n in ("stem", "head", "heads"))
        mark = "  # guessed" if assumed else ""
        family = card.recognised.split(",")[0].split(" ")[0]
        lines.append(f"  family: {text(family)}{mark}")
    for name, value in settings.items():
        mark = "  # guessed" if card.sources.get(name) == GUESSED else ""
        lines.append(f"  {name}: {text(value)}{mark}")
    names = card.class_names
    if names is None or card.class_ids is not None:
        lines.append(f"  # class_names: [..]  # {card.network.num_classes} outputs")
    else:
        lines.append(f"  class_names: {text(list(names))}")
    return lines
