"""Opening a file of a stranger: inside its folder, of bounded size, of a known kind."""

import json
import pathlib
from typing import Any

from free_jax.errors import InputError

# Teachers of image classification are far below; a file above is a mistake.
LARGEST_FILE = 16 << 30
LARGEST_JSON = 16 << 20

_KINDS = (
    (b"PK\x03\x04", "zip"),
    (b"\x89HDF", "hdf5"),
    (b"version https://git-lfs", "lfs"),
    (b"\x1f\x8b", "gzip"),
    (b"Rar!", "archive"),
    (b"7z\xbc\xaf", "archive"),
)
_INSTEAD = {
    "hdf5": "is an HDF5 file (Keras, TensorFlow): export it to ONNX (tf2onnx)",
    "lfs": "is a pointer of Git LFS, not the file: run `git lfs pull` in its folder",
    "gzip": "is compressed: unpack it",
    "archive": "is an archive: unpack it",
    "web page": "is a web page, not a model: download the file itself",
    "empty": "is empty: copy it again",
}


def within(path: Any, inside: Any) -> pathlib.Path:
    """The file behind a path, which must lie in a folder.

    Args:
      path: of a file, possibly a symbolic link.
      inside: the folder that must not be left.

    Raises:
      InputError: it is missing, no plain file, or leads out of the folder.
    """
    path, inside = pathlib.Path(path), pathlib.Path(inside)
    try:
        found = path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{path.name}: no such file in {inside.name}") from error
    if not found.is_relative_to(inside.resolve()):
        raise InputError(
            f"{path.name}: leads out of the folder ({found}); copy the file itself "
            "into the folder (cp -L)"
        )
    if not found.is_file():
        raise InputError(f"{path.name}: is no plain file")
    return found


def open_within(path: Any, inside: Any, largest: int = LARGEST_FILE) -> pathlib.Path:
    """`within`, for files of at most `largest` bytes."""
    found = within(path, inside)
    size = found.stat().st_size
    if size > largest:
        raise InputError(
            f"{pathlib.Path(path).name}: has {size / 1e9:.1f} GB, more than the "
            f"{largest / 1e9:.1g} GB that are read of such a file"
        )
    return found


def read_json(path: Any, inside: Any, largest: int = LARGEST_JSON) -> Any:
    """The content of a JSON file inside a folder.

    Raises:
      InputError: see `open_within`; or it is no JSON.
    """
    found = open_within(path, inside, largest)
    try:
        return json.loads(found.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError, OSError) as error:
        reason = str(error).splitlines()[0][:100]
        raise InputError(
            f"{pathlib.Path(path).name}: is no valid JSON ({reason}); correct it or "
            "copy it again"
        ) from error


def sniff(path: pathlib.Path) -> str:
    """What a file is by its first bytes.

    Returns:
      "zip", "safetensors", "pickle", "tar", "unknown", or what `_INSTEAD` names.
    """
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return "empty"
    for magic, kind in _KINDS:
        if head.startswith(magic):
            return kind
    if head.lstrip()[:9].lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "web page"
    if head[:1] == b"\x80" and len(head) > 1 and head[1] <= 5:
        return "pickle"
    if len(head) > 8 and head[8:9] == b"{":
        return "safetensors"
    if head[257:262] == b"ustar":
        return "tar"
    return "unknown"


def refuse_foreign(kind: str, name: str) -> None:
    """Raises InputError for a file that is certainly no weights, saying what to do."""
    if kind in _INSTEAD:
        raise InputError(f"{name}: {_INSTEAD[kind]}")


def unreadable(name: str, error: Exception) -> InputError:
    """The line for a damaged file."""
    reason = (str(error).splitlines() or [""])[0][:120] or type(error).__name__
    return InputError(
        f"{name}: cannot be read ({reason}); it is truncated, damaged or no weight "
        "file - copy it again or remove it"
    )
