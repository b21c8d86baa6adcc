"""Image size and channel statistics of the known data sets."""

from typing import NamedTuple

from experiments.data.base import DataError

_IMAGENET = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


class Preset(NamedTuple):
    """What has to be known of a data set besides its images.

    Attributes:
      name: name of the data set.
      image_size: height and width of its images.
      mean: channel means of images in [0, 1], for normalisation before a network.
      std: channel standard deviations of images in [0, 1].
    """

    name: str
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


_PRESETS = (
    Preset("procedural", 32, (0.34, 0.34, 0.34), (0.245, 0.245, 0.245)),
    Preset("cifar_fs", 32, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    Preset("mini_imagenet", 84, **_IMAGENET),
    Preset("cub", 84, **_IMAGENET),
    Preset("vgg_flower", 84, **_IMAGENET),
    Preset("image_folder", 84, **_IMAGENET),
)

# The data sets that are read from image folders.
FOLDER_NAMES = tuple(known.name for known in _PRESETS if known.name != "procedural")


def preset(name: str) -> Preset:
    """Returns the preset of a data set.

    Args:
      name: "procedural" (embedded), "cifar_fs", "mini_imagenet", "cub", "vgg_flower",
        or "image_folder" for a folder of anything else.

    Returns:
      Its image size and channel statistics.

    Raises:
      DataError: the name is not known.

    >>> preset("cifar_fs").image_size
    32
    """
    for known in _PRESETS:
        if known.name == name:
            return known
    raise DataError(
        f"unknown data set {name!r}; known: {', '.join(p.name for p in _PRESETS)}"
    )
