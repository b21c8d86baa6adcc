"""Folders of PyTorch teachers, converted once and cached."""

import hashlib
import json
import os
import pathlib
import sys
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from experiments.data.listing import list_classes, say_strays
from free_jax import nouns
from free_jax.errors import InputError
from free_jax.interop import convert_folder, detect, hub, read_checkpoint
from free_jax.interop.hub import HubOptions, report
from free_jax.interop.hub.table import NAMES as TABLES
from free_jax.interop.torch_folder import teacher_files
from free_jax.zoo import Zoo, load_zoo, save_zoo

# Raise it when the conversion changes, so that older caches are not used.
_CONVERSION = 1
# The same of folders of models: 2 since what was guessed is kept of each.
_OF_MODELS = 2
# Beside a conversion: how many of the models it does not hold, and how many of these
# only for want of a guess.
LEFT_OUT_FILE = "left_out.txt"


def class_names_of(data_path: str | pathlib.Path) -> tuple[str, ...]:
    """The sorted folder names of ``<data_path>/train``: what class ids index.

    Raises:
      InputError: there is no such folder, or it holds no class folders.
    """
    train = pathlib.Path(data_path).expanduser() / "train"
    if not train.is_dir():
        raise InputError(
            f"{train}: no such folder; data_path must hold train/<class>/<images>"
        )
    # The very listing that images are read by, so that ids mean the same classes.
    listing = list_classes(train)
    say_strays(train, listing)
    names = tuple(listing.files)
    if not names:
        raise InputError(f"{train}: holds no class folders; expected <class>/<images>")
    return names


def _fingerprint(source: Any, **settings) -> str:
    files = teacher_files(source)
    extras = [files[0].parent / name for name in ("log.tsv", "class_ids.json")]
    stats = [(f.name, f.stat()) for f in [*files, *extras] if f.exists()]
    described = {
        "conversion": _CONVERSION,
        "source": str(files[0].parent.resolve()),
        "files": [[name, stat.length, float(stat.mtime)] for name, stat in stats],
        **settings,
    }
    text = json.dumps(described, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def cached_zoo(
    source: str | pathlib.Path,
    cache_dir: str | os.PathLike,
    class_names: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    image_size: int | None = None,
    domain: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Zoo:
    """Loads a zoo, converting a folder of PyTorch teachers the first time.

    Args:
      source: a converted zoo (then only `class_names` is compared), or a folder of
        teachers.
      cache_dir: where conversions are kept, one folder for each source, its files'
        sizes and times, and the further arguments.
      class_names: compared with those of a converted zoo.
      mean: this and the rest as in `free_jax.interop.convert_folder`.
      std: channel standard deviations.
      image_size: side of the images.
      domain: name of the data.
      progress: called while converting.

    Returns:
      The zoo; PyTorch is imported only where something was converted.

    Raises:
      InputError: as `convert_folder`; or a converted zoo of other classes.
    """
    from etils import epath

    folder = epath.Path(source).expanduser()
    if (folder / "zoo.json").exists():
        zoo = load_zoo(folder)
        if zoo.class_names != tuple(class_names):
            raise InputError(
                f"{folder}: was converted with {zoo.num_classes} classes "
                f"{zoo.class_names[:3]}..., but the data has {len(class_names)} "
                f"{tuple(class_names[:3])}...; point to the data of this zoo"
            )
        return zoo
    settings: dict[str, Any] = dict(
        class_names=tuple(class_names),
        mean=tuple(map(float, mean)),
        std=tuple(map(float, std)),
        image_size=image_size,
        domain=domain,
    )
    target = epath.Path(cache_dir).expanduser()
    target /= f"{folder.name}-{_fingerprint(folder, **settings)}"

    def convert(where: Any) -> None:
        save_zoo(convert_folder(folder, progress=progress, **settings), where)

    _made_once(target, convert)
    return load_zoo(target)


def _made_once(target: Any, make: Callable[[Any], None]) -> bool:
    """Makes the folder of a conversion where there is none, and says whether it did.

    Runs that start together convert into a folder each, and the first that is whole
    becomes the conversion: none writes where another does or reads half of one.
    """
    if (target / "zoo.json").exists():
        return False
    if "://" in str(target):  # Object stores have no folders to rename.
        make(target)
        return True
    own = target.parent / f"{target.name}.{uuid.uuid4().hex[:8]}"
    try:
        make(own)
        if target.exists() and not (target / "zoo.json").exists():
            target.rmtree()  # What an interrupted conversion left here formerly.
        try:
            own.rename(target)
        except OSError:
            if not (target / "zoo.json").exists():
                raise
    finally:
        if own.exists():
            own.rmtree()
    return True


def is_released(source: str | pathlib.Path) -> bool:
    """Whether a folder holds teachers in the research codes' own layouts, no table."""
    folder = pathlib.Path(source).expanduser()
    if any((folder / name).is_file() for name in TABLES):
        return False
    try:
        first = teacher_files(folder)[0]
        detect(read_checkpoint(first)[0], str(first))
    except InputError:
        return False
    return True


def cached_models(
    source: str | pathlib.Path, cache_dir: str | os.PathLike, options: HubOptions
) -> Zoo:
    """The zoo of a folder of models, converted the first time.

    Args:
      source: the folder.
      cache_dir: where conversions are kept, one folder for each state of the source.
      options: how models are read.

    Raises:
      InputError: no model can be used, and why.
    """
    from etils import epath

    folder = pathlib.Path(source).expanduser()
    if options.table and not pathlib.Path(options.table).expanduser().is_file():
        raise InputError(f"{options.table}: no such table; correct zoo.table")
    state = hub.fingerprint(folder, options)[:12]
    target = epath.Path(cache_dir).expanduser() / f"{folder.name}-{state}-{_OF_MODELS}"

    def convert(where: Any) -> None:
        found = hub.survey(folder, options)
        print(report.as_text(found.cards, found.notes), file=sys.stderr, flush=True)
        save_zoo(hub.zoo_of(found).zoo, where)
        without = [card.message for card in found.cards if not card.used]
        unsaid = sum(options.guess_by in message for message in without)
        (where / LEFT_OUT_FILE).write_text(f"{len(without)} {unsaid}")

    if _made_once(target, convert):
        return load_zoo(target)
    zoo, note = load_zoo(target), target / LEFT_OUT_FILE
    # Earlier versions noted the first number alone, and a write that was interrupted
    # leaves none: what is missing is 0.
    noted = map(int, note.read_text().split()) if note.exists() else ()
    left_out, unsaid = [*noted, 0, 0][:2]
    if left_out:
        by = options.guess_by
        told = _told_again(str(source), zoo.num_teachers, left_out, unsaid, by)
        print(told, flush=True)
    return zoo


def _told_again(source: str, used: int, left_out: int, unsaid: int, by: str) -> str:
    """A line on models that a conversion does not hold, made before."""
    told = f"{source}: {nouns.count(used, 'model')} used, {left_out} left out or read "
    told += "twice: inspect_zoo.py says why"
    if unsaid:
        # What it reads with guesses.
        told += (
            f"; {unsaid} of them for want of what no file says: {by} allows guesses, "
            "teachers.yaml beside the models says it"
        )
    return told
