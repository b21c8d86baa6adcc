"""Further folders of real images that a finished model is measured on, each a row."""

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from experiments.data import Preset, folder
from experiments.data.base import DataError
from experiments.data.listing import list_classes, say_strays
from experiments.harness.contents import Content
from experiments.inputs.contents import of_split
from experiments.inputs.images import recoloured
from free_jax.errors import InputError
from free_jax.fewshot import banks
from free_jax.types import ImageBank

KEY = "eval.also"
# Images of a class that are read at most, drawn by a fixed seed; and bytes of all.
MOST = 600
ROOM = 2 << 30

Files = Mapping[str, tuple[pathlib.Path, ...]]


class Further(NamedTuple):
    """Classes of a folder that are large enough for episodes.

    Attributes:
      name: in the rows of the table.
      path: that holds the class folders.
      files: image files of each class.
      queries: of a class in an episode.
      needed: images of a class that an episode takes.
      told: that there are fewer of them, or classes with too few images; or "".
    """

    name: str
    path: pathlib.Path
    files: Files
    queries: int
    needed: int
    told: str = ""

    def about(self) -> dict[str, str | int]:
        """What a reader of its rows wants to know."""
        number = len(self.files)
        return {"classes": number, "images": sum(map(len, self.files.values()))} | {
            key: str(value) if key == "path" else value
            for key, value in self._asdict().items()
            if key != "files"
        }


def parse(text: str, split: str) -> dict[str, pathlib.Path]:
    """The folders of class folders that ``eval.also`` names.

    >>> parse("birds:., leaves:.", "test")
    {'birds': PosixPath('.'), 'leaves': PosixPath('.')}

    Args:
      text: ``NAME:PATH,...``; a PATH holds class folders, or a folder of them named as
        the split.
      split: "test" or "val".

    Raises:
      InputError: it says something else, a name twice, or there is no such folder.
    """
    found: dict[str, pathlib.Path] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, colon, place = (part.strip() for part in item.partition(":"))
        if not (name and colon and place):
            raise InputError(f"config.{KEY}={item!r}: write NAME:PATH,NAME:PATH,...")
        if name in found:
            raise InputError(f"config.{KEY}: {name!r} names two folders; rename one")
        path = pathlib.Path(place).expanduser()
        if not path.is_dir():
            raise InputError(f"config.{KEY}: {name}: {path} is no folder")
        found[name] = path / split if (path / split).is_dir() else path
    return found


def listed(
    text: str, split: str, *, way: int, shots: int, queries: int
) -> tuple[Further, ...]:
    """What episodes can be drawn from; no image is read.

    Where classes are small, there are fewer queries: as many as at least half of the
    classes, and enough for an episode, hold beside the support images.  Smaller classes
    are left out, in a line that says so.

    Args:
      text: see `parse`.
      split: likewise.
      way: classes of an episode.
      shots: support images a class, of the largest episode.
      queries: query images a class, at most.

    Raises:
      InputError: a folder has too few classes of so many images.
    """
    places = parse(text, split)
    return tuple(
        _listed(name, path, way=way, shots=shots, queries=queries)
        for name, path in places.items()
    )


def _listed(
    name: str, path: pathlib.Path, *, way: int, shots: int, queries: int
) -> Further:
    try:
        listing = list_classes(path)
    except (DataError, OSError) as error:
        raise InputError(f"config.{KEY}: {name}: {error}") from None
    counts = sorted(min(len(found), MOST) for found in listing.files.values())
    counts = np.asarray(counts[::-1])
    needed = max(way, -(-len(counts) // 2))
    if len(counts) < way or counts[way - 1] <= shots:
        raise InputError(
            f"config.{KEY}: {name}: an episode needs {way} classes of at least "
            f"{shots + 1} images ({shots} shots and a query); {path} has "
            f"{int((counts > shots).sum())} of {len(counts)} classes; it must hold a "
            "folder a class. Lower config.eval.shots, or let classify.py --labelled "
            "measure one task of these classes"
        )
    enough = counts[needed - 1] - shots
    held = int(min(queries, enough if enough > 0 else counts[way - 1] - shots))
    files = {
        label: found
        for label, found in listing.files.items()
        if len(found) >= shots + held
    }
    told = f"{held} queries a class in place of {queries}" if held < queries else ""
    if small := len(counts) - len(files):
        told += f"{'; ' if told else ''}{small} of {len(counts)} classes are left out: "
        told += f"fewer than {shots + held} images"
    return Further(name, path, files, held, shots + held, told)


def load(further: Further, chosen: Preset) -> ImageBank:
    """Reads the images, as a viewer shows them, in the meta-model's size and colours.

    Args:
      further: from `listed`.
      chosen: what the meta-model's images are.

    Raises:
      DataError: an image cannot be read.
    """
    say_strays(further.path, list_classes(further.path))
    if further.told:
        print(f"{further.name}: {further.told}", flush=True)
    rng = np.random.default_rng(0)
    size = (chosen.image_size, chosen.image_size)
    held = ROOM // (len(further.files) * 3 * chosen.image_size**2)
    most = min(MOST, max(held, further.needed), max(map(len, further.files.values())))
    images = np.zeros((len(further.files), most, *size, 3), np.uint8)
    counts = np.zeros(len(further.files), np.int32)
    for row, files in enumerate(further.files.values()):
        drawn = sorted(rng.permutation(len(files))[:most])
        counts[row] = len(drawn)
        for column, number in enumerate(drawn):
            image = folder.open_image(files[number], as_seen=True)
            images[row, column] = folder.resized(image, size)
    return banks.from_arrays(recoloured(images, chosen), counts)


def contents(text: str, split: str) -> dict[str, Content]:
    """What the folders hold, which measures a model and makes none."""
    places = parse(text, split)
    if not places:
        return {}
    # One signature of all: a table of other folders is another table.
    signed = json.dumps([(name, of_split(path)) for name, path in places.items()])
    digest = hashlib.sha256(signed.encode()).hexdigest()[:12]
    return {"further folders": Content((KEY,), {"images": digest})}
