"""Which kind of zip archive of PyTorch a file is, by the names inside."""

import pathlib
import zipfile

from free_jax.errors import InputError
from free_jax.interop.tensors.opening import unreadable

_MOST_MEMBERS, _MOST_TIMES = 200_000, 8


def open_archive(path: pathlib.Path) -> zipfile.ZipFile:
    """A zip archive that does not unpack to far more than it is.

    Raises:
      InputError: it is damaged, has too many members, or unpacks to too much.
    """
    try:
        archive = zipfile.ZipFile(path)
        members = archive.infolist()
    except Exception as error:  # zipfile raises struct.error and others, too.
        raise unreadable(path.name, error) from error
    unpacked, size = sum(m.file_size for m in members), path.stat().st_size
    if len(members) > _MOST_MEMBERS or unpacked > _MOST_TIMES * size + (1 << 20):
        archive.close()
        raise InputError(
            f"{path.name}: unpacks to {unpacked} bytes in {len(members)} members from "
            f"a file of {size}; it is not read"
        )
    return archive


def kind_of_archive(path: pathlib.Path) -> str:
    """The kind of a zip file.

    Returns:
      "torchscript", "torch_export", "pickle" (torch.save) or "other".

    Raises:
      InputError: as `open_archive`.
    """
    with open_archive(path) as archive:
        names = archive.namelist()
    inner = {name.partition("/")[2] or name for name in names}
    if "constants.pkl" in inner or any(n.startswith("code/") for n in inner):
        return "torchscript"
    exported = ("archive_format", "serialized_exported_program.json")
    if any(name in inner for name in exported) or any(
        n.startswith("models/") and n.endswith(".json") for n in inner
    ):
        return "torch_export"
    return "pickle" if any(n.endswith("data.pkl") for n in names) else "other"
