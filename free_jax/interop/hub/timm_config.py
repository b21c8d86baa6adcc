"""What timm's ``config.json``, and the arguments of its train.py, say of images."""

from collections.abc import Mapping
from typing import Any

from free_jax.errors import InputError
from free_jax.interop.hub import facts as reading
from free_jax.interop.hub.facts import Fact, Facts

_CROP = 0.875  # timm's default


def config_facts(config: Mapping[str, Any], name: str) -> Facts:
    """Facts of a ``config.json``: its ``pretrained_cfg``, or the config itself.

    Raises:
      InputError: a value that is none.
    """
    inner = config.get("pretrained_cfg")
    at, prefix = (
        (config, "")
        if not isinstance(inner, Mapping)
        else (
            inner,
            "pretrained_cfg.",
        )
    )
    where = f"{name}:{prefix}"
    found: dict[str, Fact] = {}
    if at.get("input_size") is not None:
        stated = at["input_size"]
        source = f"{where}input_size"
        if not isinstance(stated, list | tuple) or len(stated) != 3:
            raise InputError(f"{source}: {stated!r:.60} must be [channels, h, w]")
        found["size"] = Fact(reading.size(stated[1:], source), source)
    found.update(_statistics(at, where))
    found.update(_crop(at, where, found.get("size")))
    return found


def _statistics(at: Mapping[str, Any], where: str) -> dict[str, Fact]:
    return {
        key: Fact(reading.numbers(at[key], f"{where}{key}"), f"{where}{key}")
        for key in ("mean", "std")
        if at.get(key) is not None
    }


def _crop(at: Mapping[str, Any], where: str, size: Fact | None) -> dict[str, Fact]:
    """Timm resizes to size / crop_pct, rounded down, and cuts out the centre."""
    found = {}
    if at.get("interpolation") is not None:
        source = f"{where}interpolation"
        kind = reading.resample(at["interpolation"], source)
        found["resample"] = Fact(kind, source)
    if size is None:
        return found
    stated = at.get("crop_pct")
    source = f"{where}crop_pct" if stated is not None else f"{where}default"
    percent = _CROP if stated is None else stated
    if not isinstance(percent, int | float) or not 0.1 <= percent <= 2:
        raise InputError(f"{source}: {percent!r:.40} must be from 0.1 to 1")
    h, w = (int(side / percent) for side in size.value)
    squashed = at.get("crop_mode") == "squash" or h != w
    found["resize_to"] = Fact((h, w) if squashed else h, source)
    found["crop"] = Fact(True, source)
    found["crop_rounds"] = Fact("even", source)
    return found


def train_facts(args: Mapping[str, Any], name: str) -> Facts:
    """Facts of the arguments of timm's train.py, saved beside the weights.

    Raises:
      InputError: a value that is none.
    """
    where = f"{name}:args."
    found: dict[str, Fact] = {}
    if args.get("input_size") is not None:
        found.update(config_facts({"input_size": args["input_size"]}, f"{name}:args"))
        found = {"size": Fact(found["size"].value, f"{where}input_size")}
    elif args.get("img_size") is not None:
        source = f"{where}img_size"
        found["size"] = Fact(reading.size(args["img_size"], source), source)
    found.update(_statistics(args, where))
    found.update(_crop(args, where, found.get("size")))
    return found
