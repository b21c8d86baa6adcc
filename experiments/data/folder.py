"""Image folders `{train,val,test}/<class>/*`, prepared once and read from a cache."""

import hashlib
import importlib.util
import os
import pathlib
import struct
import sys
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageOps

from experiments.data.base import SPLITS, DataError, Split
from experiments.data.listing import SUFFIXES, list_classes, say_strays

_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".zip")
_MISSING = (
    "reading image folders needs {}; install it with `pip install tensorflow-datasets "
    "array_record`"
)
_LAYOUT = "{train,val,test}/<class>/*.png (or jpg, bmp, webp, tif, ppm, gif)"
# Part of the cache key: raise it when `read_image` or the records change.
_FORMAT = 1

Files = Mapping[str, Sequence[pathlib.Path]]


def load(
    name: str,
    split: str,
    path: str | os.PathLike | None,
    *,
    image_size: int,
    cache_dir: str | os.PathLike | None = None,
) -> Split:
    """Loads one split of an image folder, preparing it on first use.

    The cache entry is keyed by name, resolved path, image size and the names, sizes
    and times of all image files, so a changed folder is prepared anew. Entries of
    earlier states of the folder stay until the cache folder is deleted.

    Args:
      name: name of the data set.
      split: "train", "val" or "test".
      path: folder that holds the split folders.
      image_size: height and width to resize to.
      cache_dir: see `load_split`.

    Returns:
      The split, images uint8 [C, M, image_size, image_size, 3].

    Raises:
      DataError: the folder, an image or the cache cannot be used.
    """
    root = _resolve(name, path)
    files, fingerprint = _scan(root, split)
    key = repr((_FORMAT, name, str(root), split, image_size, fingerprint))
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    cache = pathlib.Path(
        cache_dir or os.environ.get("FREE_JAX_CACHE") or "~/.cache/free_jax"
    ).expanduser()
    builder = _prepared_builder(
        name, split, files, image_size, cache / f"{name}-{split}-{image_size}-{digest}"
    )
    return _read(builder, split, files, image_size)


def list_split(name: str, split: str, path: str | os.PathLike | None) -> Files:
    """The image files of each class of a split, sorted; see `load`."""
    return _scan(_resolve(name, path), split, tell=False)[0]


def check_packages() -> None:
    """Refuses to read where the packages for it are missing.

    Raises:
      DataError: names one.
    """
    for name in ("tensorflow_datasets", "array_record"):
        if importlib.util.find_spec(name) is None:
            raise DataError(_MISSING.format(name))


def read_image(path: pathlib.Path, image_size: int) -> np.ndarray:
    """Decodes one image file to RGB of a given size.

    Args:
      path: the file.
      image_size: height and width.

    Returns:
      uint8 [image_size, image_size, 3].

    Raises:
      DataError: the file is no readable image.
    """
    return resized(open_image(path), (image_size, image_size))


def open_image(path: pathlib.Path, *, as_seen: bool = False) -> Image.Image:
    """Decodes one image file to RGB of its own size.

    Grey is repeated over the channels (16-bit grey keeps its upper byte), palettes
    are resolved, and alpha is dropped as `torchvision.datasets.ImageFolder` does.

    Args:
      path: the file.
      as_seen: as a viewer shows it, and not as data sets of benchmarks are read: turned
        as the camera noted (EXIF), and with white behind what is transparent.

    Raises:
      DataError: the file is no readable image.
    """
    try:
        with Image.open(path) as image:
            image.load()
            if as_seen:
                image = ImageOps.exif_transpose(image)
                if image.mode == "F":
                    raise ValueError("pixels are floats; save it with 8 or 16 bits")
            if image.mode.startswith("I"):
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            elif "transparency" in image.info:
                # A palette with transparency warns unless it goes through RGBA.
                image = image.convert("RGBA")
            if as_seen and image.mode in ("LA", "PA", "La", "RGBA", "RGBa"):
                image = image.convert("RGBA")
                paper = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(paper, image)
            return image.convert("RGB")
    except (
        *(OSError, SyntaxError, ValueError, EOFError, struct.error),
        Image.DecompressionBombError,
    ) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{path}: not a readable image ({reason}); replace or remove the file"
        ) from error


def resized(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """An RGB image in another size, bilinear with antialiasing, whatever its aspect."""
    height, width = size
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image)


def _resolve(name, path) -> pathlib.Path:
    if not path:
        raise DataError(
            f"data set {name!r} needs a path: the folder that holds {_LAYOUT}"
        )
    root = pathlib.Path(path).expanduser()
    if not root.exists():
        raise DataError(f"{root}: no such folder; give the folder that holds {_LAYOUT}")
    if root.is_dir():
        return root.resolve()
    if root.name.lower().endswith(_ARCHIVES):
        command = "unzip" if root.suffix.lower() == ".zip" else "tar -xf"
        raise DataError(
            f"{root}: is an archive; extract it with `{command} {root}` and give the "
            f"folder that then holds {_LAYOUT}"
        )
    raise DataError(f"{root}: is a file; give the folder that holds {_LAYOUT}")


def _scan(root: pathlib.Path, split: str, *, tell: bool = True) -> tuple[Files, str]:
    """Lists the image files of each class, sorted, with a fingerprint of them."""
    folder = root / split
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; {_found(root)}")
    listing = list_classes(folder)
    if tell:
        say_strays(folder, listing)
    if not listing.files:
        raise DataError(
            f"{folder}: no class folders in it; expected {root.name}/{_LAYOUT}"
        )
    stats = hashlib.sha256()
    for name, images in listing.files.items():
        if not images:
            raise DataError(
                f"{folder / name}: class folder without images; add "
                f"{', '.join(s[1:] for s in SUFFIXES)} files or remove the folder"
            )
        for image in images:
            stat = image.stat()
            line = f"{name}/{image.name}:{stat.st_size}:{stat.st_mtime_ns}\n"
            stats.update(line.encode())
    return listing.files, stats.hexdigest()


def _visible(folder):
    with os.scandir(folder) as entries:
        return sorted(
            (e for e in entries if not e.name.startswith(".")), key=lambda e: e.name
        )


def _found(root: pathlib.Path) -> str:
    """Says what a folder without the split holds, and what it should hold."""
    entries = _visible(root)
    for entry in entries:
        if all((pathlib.Path(entry.path) / split).is_dir() for split in SPLITS):
            return f"{entry.path} holds the splits: give that path"
    names = [entry.name for entry in entries]
    listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"found {listed or 'nothing'} in {root}; expected {root.name}/{_LAYOUT}"


def _prepared_builder(name, split, files, image_size, data_dir):
    try:
        from experiments.data.builder import ClassFolder
    except ImportError as error:
        raise DataError(_MISSING.format(error.name)) from error

    def make():
        return ClassFolder(
            name=name,
            split=split,
            files=files,
            image_size=image_size,
            read_image=read_image,
            data_dir=data_dir,
        )

    try:
        builder = make()
        if builder.data_path.exists():
            return builder
        total = sum(len(paths) for paths in files.values())
        if total >= 2000:
            print(
                f"preparing {name}/{split}: {total} images, once, into {data_dir}",
                file=sys.stderr,
                flush=True,
            )
        builder.prepare()
    except OSError as error:
        # Another process may have finished the same preparation meanwhile.
        builder = make()
        if not builder.data_path.exists():
            raise DataError(
                f"{data_dir}: cannot prepare the cache ({error}); free space, or set "
                "FREE_JAX_CACHE or cache_dir to a folder that can be written"
            ) from error
    return builder


def _read(builder, split, files: Files, image_size: int) -> Split:
    counts = np.array([len(paths) for paths in files.values()], np.int32)
    shape = (len(files), int(counts.max()), image_size, image_size, 3)
    images = np.zeros(shape, np.uint8)
    filled = np.zeros_like(counts)
    damaged = f"{builder.data_path}: damaged cache; delete the folder and run again"
    try:
        source = builder.as_data_source(split)
        for i in range(len(source)):
            record = source[i]
            c, first, chunk = record["class_id"], record["first"], record["images"]
            images[c, first : first + len(chunk)] = chunk
            filled[c] += len(chunk)
    except (OSError, RuntimeError, ValueError, KeyError, IndexError) as error:
        raise DataError(f"{damaged} ({' '.join(str(error).split())})") from error
    if not np.array_equal(filled, counts):
        raise DataError(damaged)
    return Split(images, counts, tuple(files))
