"""What is known of a model's images, where it was found, and what is guessed.

A fact is a value and its source.  Files and the table say facts in their own words;
`settle` makes one `Preprocessing` of them.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from free_jax.errors import InputError
from free_jax.interop.hub.options import GUESS_BY
from free_jax.interop.hub.preprocessing import RESAMPLE, Preprocessing

GUESSED, DEFAULT = "guessed", "default"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# A fine-tune for larger images than these would be no teacher here.
_LARGEST_SIDE = 2048
# Of torchvision's references: 224 of 256.
_PUBLISHED_SIZE, _PUBLISHED_RESIZE = 224, 256


class Fact(NamedTuple):
    """A value and where it was found: "file:key", the table, "guessed", "default"."""

    value: Any
    source: str


# Fields of `Preprocessing`.  Here `mean` and `std` are those of pixels as the network
# takes them: in units of `range` and in the order of `channels`.
Facts = Mapping[str, Fact]


def settle(
    facts: Facts,
    channels: int,
    *,
    guess: bool,
    guess_by: str = GUESS_BY,
    guessed_size: int | None = None,
) -> tuple[Preprocessing, dict[str, str]]:
    """One description of a model's images.

    Args:
      facts: what files and table say.
      channels: that the network takes.
      guess: whether what is missing may be guessed: ImageNet's statistics and the
        size.
      guess_by: what the user would write to allow it.
      guessed_size: usual for the family; None: 224.

    Returns:
      The description, and the source of each of its fields.

    Raises:
      InputError: something is missing, or facts contradict each other.
    """
    found = dict(facts)
    missing = [name for name in ("size", "mean", "std") if name not in found]
    if missing and not guess:
        raise InputError(
            f"no file says its {' and '.join(missing)}: write "
            f"{'it' if len(missing) == 1 else 'them'} into teachers.yaml "
            f"(inspect_zoo.py --write_table makes one), or allow guesses by {guess_by}"
        )
    _fill(found, channels, guessed_size)
    value = {name: fact.value for name, fact in found.items()}
    order = value["channels"]
    if (1 if order == "L" else 3) != channels:
        raise InputError(
            f"takes images of {channels} channels, but {found['channels'].source} says "
            f"channels {order}"
        )
    largest = value["range"]
    mean = _per_channel(found["mean"], channels, largest)
    std = _per_channel(found["std"], channels, largest)
    if min(std) <= 0:
        raise InputError(f"{found['std'].source}: std {list(std)} must be positive")
    if order == "BGR":
        mean, std = mean[::-1], std[::-1]
    settled = Preprocessing(
        size=value["size"],
        resize_to=value["resize_to"],
        crop=value["crop"],
        crop_rounds=value["crop_rounds"],
        resample=value["resample"],
        channels=order,
        range=largest,
        mean=mean,
        std=std,
    )
    named = ("size", "resize_to", "crop", "resample", "channels", "range", "mean")
    return settled, {name: found[name].source for name in (*named, "std")}


def _fill(found: dict[str, Fact], channels: int, guessed_size: int | None) -> None:
    """Adds what is missing."""
    if channels not in (1, 3):
        raise InputError(
            f"takes images of {channels} channels; only RGB (3) and grey (1) are used"
        )
    if "size" not in found:
        size = guessed_size or _PUBLISHED_SIZE
        found["size"] = Fact((size, size), GUESSED)
        if size == _PUBLISHED_SIZE and "resize_to" not in found:
            found["resize_to"] = Fact(_PUBLISHED_RESIZE, GUESSED)
            found["crop"] = Fact(True, GUESSED)
            found["crop_rounds"] = Fact("even", GUESSED)
    size = found["size"].value
    if not all(1 <= side <= _LARGEST_SIDE for side in size):
        raise InputError(
            f"{found['size'].source}: images of {size[0]}x{size[1]} pixels; sides of 1 "
            f"to {_LARGEST_SIDE} are used - write the size into teachers.yaml"
        )
    grey = channels == 1
    found.setdefault("mean", Fact((0.5,) if grey else IMAGENET_MEAN, GUESSED))
    found.setdefault("std", Fact((0.25,) if grey else IMAGENET_STD, GUESSED))
    found.setdefault("resize_to", Fact(size, DEFAULT))
    found.setdefault("crop", Fact(False, DEFAULT))
    found.setdefault("crop_rounds", Fact("even", DEFAULT))
    found.setdefault("resample", Fact("bilinear", DEFAULT))
    found.setdefault("channels", Fact("L" if grey else "RGB", DEFAULT))
    found.setdefault("range", Fact(1, DEFAULT))


def _per_channel(fact: Fact, channels: int, largest: int) -> tuple[float, ...]:
    """One number a channel, for pixels in [0, 1]."""
    numbers = fact.value
    if len(numbers) == 1:
        numbers = tuple(numbers) * channels
    if len(numbers) != channels:
        raise InputError(
            f"{fact.source}: {len(numbers)} numbers for images of {channels} channels; "
            "give one a channel"
        )
    return tuple(float(number) / largest for number in numbers)


def numbers(value: Any, source: str) -> tuple[float, ...]:
    """A mean or std as a tuple.

    Raises:
      InputError: it is no list of finite numbers.
    """
    values = value if isinstance(value, list | tuple) else [value]
    good = all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)
        for v in values
    )
    if not good or not 1 <= len(values) <= 4:
        raise InputError(f"{source}: {value!r:.80} must be a number a channel")
    return tuple(map(float, values))


def side(value: Any, source: str) -> int:
    """A whole number of pixels.

    Raises:
      InputError: it is none.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{source}: {value!r:.80} is no number of pixels")
    return value


def size(value: Any, source: str) -> tuple[int, int]:
    """(h, w) from a number, [h, w] or {height, width}.

    Raises:
      InputError: it is none of these.
    """
    if isinstance(value, Mapping) and {"height", "width"} <= set(value):
        value = [value["height"], value["width"]]
    if isinstance(value, list | tuple):
        if len(value) != 2:
            raise InputError(
                f"{source}: {value!r:.80} must be a side or [height, width]"
            )
        return side(value[0], source), side(value[1], source)
    both = side(value, source)
    return both, both


def resample(value: Any, source: str) -> str:
    """A filter by its name or Pillow's number.

    Raises:
      InputError: it is none.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        if 0 <= value < len(RESAMPLE):
            return RESAMPLE[value]
    name = str(value).rpartition(".")[2].lower()
    name = {"linear": "bilinear", "cubic": "bicubic", "random": "bilinear"}.get(
        name, name
    )
    if name not in RESAMPLE:
        raise InputError(
            f"{source}: {value!r:.80} is no filter; choose among {', '.join(RESAMPLE)}"
        )
    return name
