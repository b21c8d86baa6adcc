"""The images of a config: splits of a data set, checked."""

from typing import Any

from experiments.data import Preset, Split, require
from experiments.data import load_split as _load_split
from experiments.data import preset as _preset
from experiments.harness import hosts
from free_jax.fewshot import banks
from free_jax.types import ImageBank


def preset(config: Any) -> Preset:
    """The data set's image size and normalisation."""
    chosen = _preset(config.data.name)
    size = config.data.image_size
    return chosen._replace(image_size=size) if size else chosen


def load_split(config: Any, split: str) -> Split:
    """One split of the configured data set."""
    return hosts.in_turn(
        lambda: _load_split(
            config.data.name,
            split,
            path=config.data.path or None,
            image_size=preset(config).image_size,
            cache_dir=config.data.cache_dir or None,
        )
    )


def evaluation_bank(config: Any, split: str) -> ImageBank:
    """A split checked to be large enough for the configured episodes."""
    images = load_split(config, split)
    most = max(config.eval.shots) + config.eval.queries
    what = f"the {split} split in {config.data.path or config.data.name}"
    require(images, way=config.way, images_per_class=most, what=what)
    return banks.from_arrays(images.images, images.counts)
