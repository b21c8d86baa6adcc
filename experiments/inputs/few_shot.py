"""A user's own few-shot task: a folder a class, and pictures to be classified."""

import concurrent.futures
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from experiments.data import DataError, folder
from experiments.data.listing import (
    SUFFIXES,
    Pictures,
    is_left_behind,
    list_classes,
    list_pictures,
    say_strays,
)
from experiments.harness import pictures as pictures_lib
from free_jax.errors import InputError

_SIDE = 96  # Of small pictures for people, at most.


class Support(NamedTuple):
    """A support set.

    Attributes:
      images: uint8 [n, h, w, 3].
      labels: int32 [n], places in `classes`.
      classes: names of the folders, sorted.
      small: a data URI of each image, for people.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    small: tuple[str, ...]


class Picture(NamedTuple):
    """A picture that was read, or why it was not.

    Attributes:
      name: as listed.
      image: uint8 [h, w, 3] in the model's size; None: it cannot be read.
      small: a data URI for people, if one was asked for.
      problem: why it cannot be read.
    """

    name: str
    image: np.ndarray | None
    small: str = ""
    problem: str = ""


def read_support(path: pathlib.Path, size: tuple[int, int]) -> Support:
    """Reads ``<path>/<class>/<pictures>``.

    Args:
      path: the folder.
      size: height and width of the model's images.

    Raises:
      InputError: fewer than two classes, a class without pictures, or a picture that
        cannot be read.
    """
    layout = "it must hold a folder for each class, with one or a few pictures each"
    if not path.is_dir():
        what = "is a file" if path.exists() else "no such folder"
        raise InputError(f"--support={path}: {what}; {layout}")
    try:
        listing = list_classes(path)
    except OSError as error:
        raise InputError(f"--support={path}: cannot be listed ({error})") from None
    # Beside classes with images, a folder without any is a stray like other files.
    empty = [name for name, files in listing.files.items() if not files]
    empty += [
        name
        for name in listing.strays
        if not is_left_behind(name) and "/" not in name and (path / name).is_dir()
    ]
    if not listing.files:
        raise InputError(f"--support={path}: holds no class folders; {layout}")
    if empty:
        raise InputError(
            f"--support={path}: no picture in the class folder {empty[0]!r}; add "
            f"{', '.join(s[1:] for s in SUFFIXES)} files or remove the folder"
        )
    say_strays(path, listing)
    if len(listing.files) < 2:
        (name,) = listing.files
        raise InputError(
            f"--support={path}: one class only ({name!r}); there is nothing to tell it "
            "from, give a folder for each of at least two classes"
        )
    files = [file for found in listing.files.values() for file in found]
    counts = [len(found) for found in listing.files.values()]
    images, small = [], []
    for file in files:
        image = folder.open_image(file, as_seen=True)
        images.append(folder.resized(image, size))
        small.append(_small(image))
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    return Support(np.stack(images), labels, tuple(listing.files), tuple(small))


def find_pictures(path: pathlib.Path) -> Pictures:
    """Lists the pictures to be classified.

    Raises:
      InputError: there are none.
    """
    try:
        found = list_pictures(path)
    except DataError as error:
        raise InputError(f"--images={error}") from None
    say_strays(path, found)
    if not found.names:
        raise InputError(
            f"--images={path}: no pictures in it "
            f"({', '.join(s[1:] for s in SUFFIXES)}), nor in the folders in it"
        )
    return found


def true_classes(pictures: Pictures, classes: Sequence[str]) -> tuple[int, ...]:
    """The classes of pictures that stand in folders of their names.

    Raises:
      InputError: a picture stands in no folder, or in one that is no class.
    """
    place = {name: number for number, name in enumerate(classes)}
    found = []
    for name in pictures.names:
        head, slash, _ = name.partition("/")
        if not slash:
            raise InputError(
                f"--labelled: {name!r} stands in no folder of {pictures.root}; move it "
                "into that of its class"
            )
        if head not in place:
            raise InputError(
                f"--labelled: folder {head!r} of {pictures.root} is none of the "
                f"support set's classes ({', '.join(classes)}); rename or remove it"
            )
        found.append(place[head])
    return tuple(found)


def read_pictures(
    pictures: Pictures, size: tuple[int, int], *, at_once: int, num_small: int
) -> Iterator[list[Picture]]:
    """Reads pictures in chunks, several of a chunk at a time.

    Args:
      pictures: as listed.
      size: height and width of the model's images.
      at_once: pictures of a chunk.
      num_small: of the first so many, a small picture is made as well.
    """

    def read(number: int) -> Picture:
        name = pictures.names[number]
        try:
            image = folder.open_image(pictures.root / name, as_seen=True)
        except DataError as error:
            return Picture(name, None, problem=str(error))
        small = _small(image) if number < num_small else ""
        return Picture(name, folder.resized(image, size), small)

    total = len(pictures.names)
    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for first in range(0, total, at_once):
            yield list(pool.map(read, range(first, min(first + at_once, total))))


def _small(image: Image.Image) -> str:
    """A small copy as a data URI: a page that holds it needs no other file."""
    small = image.copy()
    small.thumbnail((_SIDE, _SIDE))
    return pictures_lib.image_uri(small, "JPEG", quality=85)
