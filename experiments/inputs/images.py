"""The images of a run: splits of a data set, checked."""

from experiments.data import Preset, Split, require
from experiments.data import load_split as _load_split
from experiments.data import preset as _preset
from experiments.harness import hosts
from experiments.inputs.options import DataOptions
from free_jax.fewshot import banks
from free_jax.types import ImageBank


def preset(data: DataOptions) -> Preset:
    """The data set's image size and normalisation."""
    chosen = _preset(data.name)
    return chosen._replace(image_size=data.image_size) if data.image_size else chosen


def load_split(data: DataOptions, split: str) -> Split:
    """One split of a data set."""
    return hosts.in_turn(
        lambda: _load_split(
            data.name,
            split,
            path=data.path or None,
            image_size=preset(data).image_size,
            cache_dir=data.cache_dir or None,
        )
    )


def evaluation_bank(
    data: DataOptions, split: str, *, way: int, images_per_class: int
) -> ImageBank:
    """A split checked to be large enough for episodes.

    Args:
      data: where the images are.
      split: its classes.
      way: classes of an episode.
      images_per_class: shots and queries of the largest episode.

    Raises:
      InputError: the split holds fewer.
    """
    images = load_split(data, split)
    what = f"the {split} split in {data.path or data.name}"
    require(images, way=way, images_per_class=images_per_class, what=what)
    return banks.from_arrays(images.images, images.counts)
