"""One entry point for every data set: `load_split`."""

import numpy as np

from experiments.data import folder, procedural
from experiments.data.base import SPLITS, DataError, Split
from experiments.data.presets import preset


def needs_no_path(name: str) -> bool:
    """Whether a data set is made, not read."""
    return name == "procedural"


def list_split(name: str, split: str, *, path: str | None = None) -> Split:
    """The classes of a split and how many images they hold, none of them read.

    Args:
      name: a name `preset` knows.
      split: "train", "val" or "test".
      path: see `load_split`.

    Returns:
      A `Split` whose images are empty.

    Raises:
      DataError: as `load_split`, but for what only reading tells.
    """
    preset(name)
    if needs_no_path(name):
        return load_split(name, split, path=path, image_size=8)
    folder.check_packages()
    files = folder.list_split(name, split, path)
    counts = np.asarray([len(images) for images in files.values()], np.int32)
    return Split(np.zeros((len(files), 0, 0, 0, 3), np.uint8), counts, tuple(files))


def load_split(
    name: str,
    split: str,
    *,
    path: str | None = None,
    image_size: int | None = None,
    cache_dir: str | None = None,
) -> Split:
    """Loads one split of a data set into host memory.

    A folder is decoded once and kept as raw records in the cache; later loads read
    those. Only the requested split is prepared.

    Args:
      name: a name `preset` knows.
      split: "train", "val" or "test".
      path: folder holding `{train,val,test}/<class>/*`; none for "procedural".
      image_size: height and width of the returned images; default from the preset.
      cache_dir: folder for prepared records; default `$FREE_JAX_CACHE`, or
        `~/.cache/free_jax`. Not used by "procedural".

    Returns:
      The split, images uint8 [C, M, h, w, 3].

    Raises:
      DataError: unknown name or split, or a problem with the folder.

    >>> load_split("procedural", "test", image_size=8).images.shape
    (8, 120, 8, 8, 3)
    """
    known = preset(name)
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    size = known.image_size if image_size is None else image_size
    if size < 1:
        raise DataError(f"image_size={size} must be at least 1")
    if not needs_no_path(name):
        return folder.load(name, split, path, image_size=size, cache_dir=cache_dir)
    if path:
        raise DataError(
            f"data set 'procedural' is generated and takes no path (got {path!r}); "
            "remove it, or name the data set of that folder, such as 'image_folder'"
        )
    return procedural.make_split(split, image_size=size)
