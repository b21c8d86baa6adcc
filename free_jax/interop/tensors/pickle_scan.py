"""What a pickle names, found by reading its opcodes; nothing is unpickled.

A pickle is a program for a small machine.  Which classes and functions it would fetch
stands in it in clear, and the first of them tells a whole pickled module from a
dictionary of tensors.
"""

import io
import pickletools
import zipfile
from typing import NamedTuple

from free_jax.errors import InputError

_LARGEST_PICKLE = 256 << 20

# What tensors and dictionaries of tensors are made of.
_TENSORS = ("torch._utils", "collections", "torch.serialization", "_codecs")


class Scan(NamedTuple):
    """What a pickle would fetch.

    Attributes:
      names: "module.Class", in order, distinct.
      whole: the class of the object that the whole pickle is; "" for a dict, a list.
    """

    names: tuple[str, ...]
    whole: str


def scan(content: bytes, source: str, first: int = 0) -> Scan:
    """Reads the opcodes of one pickle.

    Args:
      content: the bytes.
      source: named in errors.
      first: pickles to pass over before (old torch files have three).

    Raises:
      InputError: the bytes are no pickle.
    """
    stream = io.BytesIO(content)
    try:
        for _ in range(first):
            for _ in pickletools.genops(stream):
                pass
        return _scan(stream)
    except Exception as error:  # pickletools raises many kinds on damaged bytes.
        raise InputError(
            f"{source}: its pickle is damaged ({str(error)[:80]}); copy it again"
        ) from error


def _scan(stream: io.BytesIO) -> Scan:
    names: list[str] = []
    texts: list[str] = []
    whole, begun = "", False
    for opcode, argument, _ in pickletools.genops(stream):
        kind = opcode.name
        if kind in ("PROTO", "FRAME", "MARK") or "PUT" in kind or kind == "MEMOIZE":
            continue
        if kind in ("GLOBAL", "INST"):
            names.append(str(argument).replace(" ", "."))
        elif kind == "STACK_GLOBAL":
            names.append(".".join(texts[-2:]))
        elif "UNICODE" in kind or "STRING" in kind:
            texts.append(str(argument))
            if kind != "GLOBAL" and not begun:
                continue  # The two texts that a STACK_GLOBAL takes.
        if not begun:
            begun = True
            if names and not names[0].startswith(_TENSORS):
                whole = names[0]
    return Scan(tuple(dict.fromkeys(names)), whole)


def pickle_of_zip(archive: zipfile.ZipFile, source: str) -> bytes:
    """The ``data.pkl`` of a torch file.

    Raises:
      InputError: there is none, or it is too large.
    """
    inside = [i for i in archive.infolist() if i.filename.endswith("data.pkl")]
    if not inside:
        raise InputError(
            f"{source}: is a zip archive without weights of PyTorch; unpack it, or "
            "save a state_dict with torch.save"
        )
    if inside[0].file_size > _LARGEST_PICKLE:
        raise InputError(f"{source}: its data.pkl has {inside[0].file_size} bytes")
    try:
        return archive.read(inside[0])
    except Exception as error:  # zipfile and zlib have errors of their own.
        raise InputError(f"{source}: its data.pkl is damaged; copy it again") from error
