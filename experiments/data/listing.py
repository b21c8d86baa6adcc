"""The classes of an image folder, listed once for whoever asks: names or images."""

import os
import pathlib
import sys
from typing import NamedTuple

from experiments.data.base import DataError

# The first frame is read of those with several.
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".webp"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".gif"),
)
# What systems and archives leave beside classes, other than dot entries.
_LEFT_BEHIND = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir"})


class Listing(NamedTuple):
    """What a folder of class folders holds.

    Attributes:
      files: sorted image files of each class; classes are sorted too, and the position
        of a class is its id.  A folder of names alone has classes without files.
      strays: entries that are neither, relative to the folder; they are passed over.
    """

    files: dict[str, tuple[pathlib.Path, ...]]
    strays: tuple[str, ...]


def list_classes(folder: pathlib.Path) -> Listing:
    """Lists ``<folder>/<class>/<images>``.

    Folders without images beside others that have some are no classes; where no folder
    has images, all are.

    Args:
      folder: holds a folder for each class.

    Raises:
      DataError: an image is a link to nothing, or a name is not valid UTF-8.
    """
    files: dict[str, tuple[pathlib.Path, ...]] = {}
    strays = []
    for entry in _entries(folder):
        if is_left_behind(entry.name) or not entry.is_dir():
            strays.append(entry.name)
            continue
        images = []
        for item in _entries(entry.path):
            path = pathlib.Path(item.path)
            named = item.name.lower().endswith(SUFFIXES)
            if named and not is_left_behind(item.name) and path.is_symlink():
                if not path.exists():
                    raise DataError(
                        f"{path}: is a link to nothing; restore its target or remove it"
                    )
            if named and not is_left_behind(item.name) and item.is_file():
                images.append(path)
            else:
                strays.append(f"{entry.name}/{item.name}")
        files[entry.name] = tuple(images)
    if any(files.values()):
        strays += [name for name, images in files.items() if not images]
        files = {name: images for name, images in files.items() if images}
    # Of classes first: they are what ids would shift by.
    return Listing(files, tuple(sorted(strays, key=lambda s: ("/" in s, s))))


class Pictures(NamedTuple):
    """What a folder of pictures holds, folders in it included.

    Attributes:
      root: the folder.
      names: of the pictures, relative to it, with forward slashes; sorted.
      strays: other files, and links that are not followed, likewise.
    """

    root: pathlib.Path
    names: tuple[str, ...]
    strays: tuple[str, ...]


def list_pictures(path: pathlib.Path) -> Pictures:
    """Lists all pictures below a folder, or one picture.

    Links to folders are not followed, nor links to files that lie outside; hidden
    entries and what systems leave behind are no pictures.

    Args:
      path: the folder, or a file, which is then taken for a picture whatever its name.

    Raises:
      DataError: there is no such path, or a name is not valid UTF-8.
    """
    if path.is_file():
        return Pictures(path.parent, (path.name,), ())
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder")
    inside = path.resolve()
    names: list[str] = []
    strays: list[str] = []

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be listed ({error.strerror})")

    for folder, folders, files in os.walk(path, onerror=refuse):
        for name in (*folders, *files):
            _check_name(folder, name)
        here = pathlib.Path(folder).relative_to(path)
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        strays += [(here / name).as_posix() for name in links]
        # What `os.walk` goes into next.
        folders[:] = [name for name in folders if not is_left_behind(name)]
        for name in files:
            file = pathlib.Path(folder, name)
            named = name.lower().endswith(SUFFIXES) and not is_left_behind(name)
            usable = named and file.is_file()
            if usable and file.is_symlink():
                usable = file.resolve().is_relative_to(inside)
            (names if usable else strays).append((here / name).as_posix())
    return Pictures(path, tuple(sorted(names)), tuple(sorted(strays)))


def say_strays(folder: pathlib.Path, listing: Listing | Pictures) -> None:
    """One line about what was passed over, but for macOS's stubs in every folder."""
    told = [s for s in listing.strays if not s.rpartition("/")[2].startswith("._")]
    told = [s for s in told if s.rpartition("/")[2] != ".DS_Store"]
    what = "no classes or no images"
    if isinstance(listing, Pictures):
        what = "no pictures, or links that are not followed"
    if told:
        more = f" and {len(told) - 3} more" if len(told) > 3 else ""
        print(
            f"{folder}: passed over {', '.join(map(repr, told[:3]))}{more}: {what} "
            f"({', '.join(s[1:] for s in SUFFIXES)})",
            file=sys.stderr,
            flush=True,
        )


def is_left_behind(name: str) -> bool:
    """Whether a system or an archive left it; it is nobody's class or image."""
    # macOS leaves "._name.png" stubs beside images.
    return name.startswith(".") or name in _LEFT_BEHIND


def _entries(folder: str | pathlib.Path) -> list[os.DirEntry]:
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        _check_name(folder, entry.name)
    return entries


def _check_name(folder: str | pathlib.Path, name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{folder}: holds a name that is not valid UTF-8 ({os.fsencode(name)!r}); "
            "rename it"
        ) from error
