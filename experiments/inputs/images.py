"""The images of a run: their size and normalisation, and real ones that measure it."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import Preset, Split, needs_no_path, require
from experiments.data import list_split as _list_split
from experiments.data import load_split as _load_split
from experiments.data import preset as _preset
from experiments.harness import hosts
from experiments.inputs.options import DataOptions
from free_jax import images as images_lib
from free_jax import panel
from free_jax.errors import InputError
from free_jax.fewshot import banks
from free_jax.types import ImageBank
from free_jax.zoo import Zoo

# Larger images take a CPU hours.
_LARGEST_ON_CPU = 64
# What a folder of any images is read as.
_FOLDER = "image_folder"


def preset(data: DataOptions, zoo: Zoo | None = None) -> Preset:
    """What the meta-model's images are: the data set's; without one, the teachers'.

    Args:
      data: may name a data set, and a size in its place.
      zoo: the teachers; None where there are none.

    Raises:
      InputError: there is neither.
    """
    if data.name:
        chosen = _preset(data.name)
    elif zoo is not None:
        chosen = of_teachers(zoo)
    else:
        raise InputError(
            "config.data.name is empty and there are no teachers to say what images "
            "look like; name a data set, or image_folder for a folder of anything"
        )
    return chosen._replace(image_size=data.image_size) if data.image_size else chosen


def of_teachers(zoo: Zoo) -> Preset:
    """The size and the normalisation of most teachers of a zoo.

    Square; in colours where any teacher sees them; at most 64 pixels on a CPU.
    """
    h, w, channels = panel.common_shape(zoo)
    size = max(h, w)
    if jax.default_backend() == "cpu":
        size = min(size, _LARGEST_ON_CPU)
    counts: Counter[tuple[tuple[float, ...], tuple[float, ...]]] = Counter()
    for group in zoo.groups:
        network = group.network
        if network.image_shape[2] == channels:
            counts[network.mean, network.std] += group.num_teachers
    mean, std = max(counts, key=lambda found: (counts[found], found))
    return Preset("", size, mean, std)


def has_images(data: DataOptions) -> bool:
    """Whether there are real images to measure a model on."""
    return bool(data.path) or needs_no_path(data.name)


def list_split(data: DataOptions, split: str) -> Split:
    """The classes of a split and how many images they hold; none is read."""
    return _list_split(data.name or _FOLDER, split, path=data.path or None)


def load_split(data: DataOptions, split: str) -> Split:
    """One split of a data set."""
    return _load(data, split, preset(data).image_size)


def _load(data: DataOptions, split: str, image_size: int) -> Split:
    return hosts.in_turn(
        lambda: _load_split(
            data.name or _FOLDER,
            split,
            path=data.path or None,
            image_size=image_size,
            cache_dir=data.cache_dir or None,
        )
    )


def check_evaluation(
    data: DataOptions, split: str, *, way: int, images_per_class: int
) -> None:
    """Refuses a split that is too small for episodes, before anything is computed.

    Args:
      data: where the images are; none are read.
      split: its classes.
      way: classes of an episode.
      images_per_class: shots and queries of the largest episode.

    Raises:
      InputError: the split holds fewer, or is not there.
    """
    what = f"the {split} split in {data.path or data.name}"
    found = list_split(data, split)
    require(found, way=way, images_per_class=images_per_class, what=what)


def evaluation_bank(
    data: DataOptions,
    split: str,
    *,
    way: int,
    images_per_class: int,
    zoo: Zoo | None = None,
) -> ImageBank:
    """A split checked to be large enough for episodes.

    Args:
      data: where the images are.
      split: its classes.
      way: classes of an episode.
      images_per_class: shots and queries of the largest episode.
      zoo: whose images these should be like, where `data` names no data set.

    Raises:
      InputError: the split holds fewer.
    """
    chosen = preset(data, zoo)
    images = _load(data, split, chosen.image_size)
    what = f"the {split} split in {data.path or data.name}"
    require(images, way=way, images_per_class=images_per_class, what=what)
    return banks.from_arrays(recoloured(images.images, chosen), images.counts)


def recoloured(images: np.ndarray, chosen: Preset) -> np.ndarray:
    """Images [C, M, h, w, 3] in as many channels as the meta-model sees."""
    channels = len(chosen.mean)
    if channels == images.shape[-1]:
        return images
    shape = (*images.shape[2:4], channels)
    grey = [
        images_lib.fit_to(images_lib.to_float(jnp.asarray(row)), shape)
        for row in images
    ]
    return np.stack([np.asarray(images_lib.to_bytes(row)) for row in grey])
