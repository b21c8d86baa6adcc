"""What a checkpoint says beside its weights: images, accuracy, names of networks.

Training scripts keep arguments under many names; only usual ones are looked for, in the
checkpoint itself and in its tables of arguments.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from free_jax.errors import InputError
from free_jax.interop.hub import facts as reading
from free_jax.interop.hub.facts import Fact, Facts

_TABLES = (
    "hyper_parameters",
    "hparams",
    "args",
    "config",
    "cfg",
    "meta",
    "metadata",
    "data_config",
    "opt",
    "preprocessing",
)
_SIZE = ("image_size", "img_size", "input_size", "imgsz", "resolution", "crop_size")
_MEAN = ("mean", "image_mean", "norm_mean", "img_mean", "pixel_mean")
_STD = ("std", "image_std", "norm_std", "img_std", "pixel_std")
_RESAMPLE = ("interpolation", "resample")
_NETWORK = ("arch", "architecture", "model_name", "model", "backbone", "net", "network")
# Of the held-out images, as the usual training scripts call it.
_ACCURACY = (
    "best_acc1",
    "best_acc",
    "best_prec1",
    "acc1",
    "val_acc",
    "accuracy",
    "acc",
)


def tables(extra: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(prefix, table): of the checkpoint itself, then of its arguments."""
    yield "", extra
    for name in _TABLES:
        if isinstance(extra.get(name), Mapping):
            yield f"{name}.", extra[name]


def _first(extra: Mapping[str, Any], keys: tuple[str, ...]) -> tuple[str, Any] | None:
    for prefix, table in tables(extra):
        for key in keys:
            if table.get(key) is not None:
                return f"{prefix}{key}", table[key]
    return None


def extra_facts(extra: Mapping[str, Any], name: str) -> Facts:
    """Facts of the images; values that are none are passed over."""
    found: dict[str, Fact] = {}
    stated = _first(extra, _SIZE)
    if stated is not None:
        source, value = f"{name}:{stated[0]}", stated[1]
        if isinstance(value, list) and len(value) == 3:
            value = value[1:]
        _put(found, "size", lambda: reading.size(value, source), source)
    for key, names in (("mean", _MEAN), ("std", _STD)):
        stated = _first(extra, names)
        if stated is not None:
            source, value = f"{name}:{stated[0]}", stated[1]
            _put(found, key, lambda v=value, s=source: reading.numbers(v, s), source)
    stated = _first(extra, _RESAMPLE)
    if stated is not None:
        source, value = f"{name}:{stated[0]}", stated[1]
        _put(found, "resample", lambda: reading.resample(value, source), source)
    pair = [found[key] for key in ("mean", "std") if key in found]
    if len(pair) == 2 and max(max(fact.value) for fact in pair) > 2:
        # Statistics of pixels that count to 255.
        found["range"] = Fact(255, pair[0].source)
    return found


def _put(found: dict[str, Fact], key: str, read: Any, source: str) -> None:
    """Reads one fact; what is written for another purpose is no error."""
    try:
        found[key] = Fact(read(), source)
    except InputError:
        pass


def network_name(extra: Mapping[str, Any]) -> tuple[str, str] | None:
    """What the checkpoint calls its network, "resnet18", and the key that says so."""
    for _, table in tables(extra):
        for key in _NETWORK:
            name = table.get(key)
            if isinstance(name, str) and re.fullmatch(r"[\w.\-/]{3,100}", name):
                return name, key
    return None


def accuracy(extra: Mapping[str, Any]) -> float:
    """Held-out accuracy in [0, 1]; nan where it is not said."""
    stated = _first(extra, _ACCURACY)
    value = math.nan if stated is None else as_number(stated[1])
    if value > 1:
        value /= 100
    return value if 0 <= value <= 1 else math.nan


def as_number(value: Any) -> float:
    """A number from a number, a list of one or text; nan where it is none.

    >>> as_number([81.25]), as_number("81.25 %")
    (81.25, 81.25)
    """
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        try:
            return float(value.strip().removesuffix("%"))
        except ValueError:
            return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return float(value)


def class_ids(extra: Mapping[str, Any], name: str) -> tuple[int, ...] | None:
    """Absolute class ids of the released layouts; None where there are none.

    Raises:
      InputError: they are no whole numbers.
    """
    value, source = extra.get("specific"), f"{name}:specific"
    metadata = extra.get("metadata")
    if value is None and isinstance(metadata, Mapping):
        value, source = metadata.get("class_ids"), f"{name}:class_ids"
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = json.loads(value if value.lstrip()[:1] == "[" else f"[{value}]")
        except (ValueError, RecursionError):
            value = [value]
    return whole_numbers(value, source)


def whole_numbers(value: Any, source: str) -> tuple[int, ...]:
    """A list of class ids.

    Raises:
      InputError: it is none.
    """
    value = value if isinstance(value, list | tuple) else [value]
    numbers = [as_number(item) for item in value]
    if not numbers or any(not n.is_integer() or n < 0 for n in numbers):
        raise InputError(
            f"{source}: class ids {value!r:.80} are not a list of whole numbers; save "
            "one class index for each output"
        )
    return tuple(map(int, numbers))
