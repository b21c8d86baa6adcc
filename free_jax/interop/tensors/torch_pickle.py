"""A file of torch.save, by ``weights_only`` and a list of harmless classes.

Needs PyTorch.  Everything that is refused is recognised first, by the pickle's opcodes,
so that the reason is the true one.
"""

import argparse
import collections
import contextlib
import io
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from free_jax.errors import InputError
from free_jax.interop.tensors.archive import kind_of_archive, open_archive
from free_jax.interop.tensors.opening import refuse_foreign, sniff, unreadable
from free_jax.interop.tensors.pickle_scan import Scan, pickle_of_zip, scan

# Written before the object itself by torch before 1.6: a magic number, the protocol and
# the machine.
_OLD_PICKLES = 3


class AttributeDict(dict):
    """Stands for Lightning's class of this name, a dict."""


_LIGHTNING = (
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
)


def load_torch(path: pathlib.Path) -> Any:
    """The content of a file of torch.save: tensors in plain containers.

    Args:
      path: a plain file that may be read.

    Raises:
      InputError: torch is missing; TorchScript, an exported program, a whole module or
        other code; or the file is damaged.
    """
    recognise(path)
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"{path.name}: reading this file needs PyTorch: "
            'pip install "free_jax[torch]"'
        ) from error
    try:
        with torch.serialization.safe_globals(_harmless()), _silent():
            return torch.load(
                io.BytesIO(path.read_bytes()), weights_only=True, map_location="cpu"
            )
    except Exception as error:  # Damaged pickles raise whatever they run into.
        text = str(error)
        if "GLOBAL" in text or "Unsupported" in text or "WeightsUnpickler" in text:
            raise InputError(_refusal(path.name, _names(path))) from error
        raise unreadable(path.name, error) from error


def recognise(path: pathlib.Path) -> None:
    """Refuses, with the true reason, what is no file of plain tensors.

    Raises:
      InputError: see `load_torch`.
    """
    kind = sniff(path)
    refuse_foreign(kind, path.name)
    if kind == "zip":
        kind = kind_of_archive(path)
        if kind == "torchscript":
            raise InputError(
                f"{path.name}: is TorchScript, a program that only PyTorch runs; save "
                "its state_dict or export it to ONNX, or name it in trust_code"
            )
        if kind == "torch_export":
            raise InputError(f"{path.name}: is a program of torch.export; name it .pt2")
        if kind == "other":
            raise InputError(
                f"{path.name}: is a zip archive without weights of PyTorch; unpack it"
            )
    elif kind == "safetensors":
        raise InputError(f"{path.name}: is a .safetensors file; name it so")
    elif kind == "tar":
        raise InputError(
            f"{path.name}: is a tar archive; unpack it, or load it with the torch that "
            "wrote it and save its state_dict anew"
        )
    elif kind == "unknown":
        raise unreadable(path.name, ValueError("neither a zip archive nor a pickle"))
    whole = whole_object(scan_file(path))
    if whole:
        raise InputError(
            f"{path.name}: holds a whole pickled module ({whole[:80]}), which is code "
            "and never run; save its state_dict (torch.save(model.state_dict(), ..)), "
            "or name it in trust_code"
        )


def whole_object(found: Scan) -> str:
    """The class that a whole pickle is an object of; "" for plain containers."""
    return "" if found.whole in _allowed_names() else found.whole


def scan_file(path: pathlib.Path) -> Scan:
    """What the pickle in a file of torch.save would fetch, without unpickling.

    Raises:
      InputError: it is damaged.
    """
    if sniff(path) == "zip":
        with open_archive(path) as archive:
            return scan(pickle_of_zip(archive, path.name), path.name)
    content = path.read_bytes()
    # The magic number of old torch files stands in its own pickle.
    old = content[:16].find(b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19") >= 0
    return scan(content, path.name, _OLD_PICKLES if old else 0)


def _names(path: pathlib.Path) -> list[str]:
    """Names in a pickle that are not on the list."""
    known = _allowed_names()
    try:
        names = scan_file(path).names
    except InputError:
        return []
    harmless = ("torch._utils.", "collections.", "_codecs.", "torch.serialization.")
    return [
        name
        for name in names
        if name not in known
        and not name.startswith(harmless)
        and not (name.startswith("torch.") and name.endswith(("Storage", "Size")))
    ]


def _refusal(name: str, classes: list[str]) -> str:
    named = ", ".join(c[:80] for c in classes[:3]) or "objects beside tensors"
    return (
        f"{name}: holds code, which is never run ({named}); save a plain state_dict of "
        "tensors, with class ids and names as lists"
    )


def _allowed_names() -> set[str]:
    return {e[1] for e in _harmless() if isinstance(e, tuple)} | {
        "argparse.Namespace",
        "collections.OrderedDict",
        "collections.defaultdict",
        "collections.Counter",
    }


def _harmless() -> list[Any]:
    """Classes of values alone: making one runs nothing else."""
    arrays = np._core.multiarray  # type: ignore[attr-defined]
    kinds = [type(np.dtype(code)) for code in "?bBhHiIlLqQefdSU"]
    found: list[Any] = [
        argparse.Namespace,
        collections.Counter,
        collections.defaultdict,
        dict,
        list,
        np.ndarray,
        np.dtype,
        *dict.fromkeys(kinds),
        (np.ndarray, "numpy.ndarray"),
        (np.dtype, "numpy.dtype"),
    ]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        found.append((arrays.scalar, f"{module}.scalar"))
        found.append((arrays._reconstruct, f"{module}._reconstruct"))
    for module in ("pathlib", "pathlib._local"):
        for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"):
            found.append((pathlib.PurePosixPath, f"{module}.{name}"))
    found += [(AttributeDict, name) for name in _LIGHTNING]
    return found


@contextlib.contextmanager
def _silent():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def to_numpy(tensor: Any, key: str, name: str, largest: int) -> np.ndarray:
    """One tensor as an array, floats as float32.

    Args:
      tensor: of torch.
      key: its name in the state_dict.
      name: of the file.
      largest: bytes that a tensor may have, those of the file.

    Raises:
      InputError: it has no values of its own (meta, sparse, quantised), or claims more
        than the file holds.
    """
    import torch

    tensor = tensor.detach()
    kind = (
        "on the meta device, without values"
        if tensor.device.type == "meta"
        else "sparse"
        if tensor.layout != torch.strided
        else "quantised"
        if tensor.is_quantized
        else "nested"
        if tensor.is_nested
        else ""
    )
    if kind:
        raise InputError(
            f"{name}: {key[:80]!r} is {kind}; save the weights as plain tensors"
        )
    if tensor.numel() * tensor.element_size() > largest:
        raise InputError(
            f"{name}: {key[:80]!r} of shape {list(tensor.shape)[:8]} is larger than "
            "the file; it is damaged, or expanded from a smaller one"
        )
    if tensor.is_complex():
        raise InputError(f"{name}: {key[:80]!r} is complex, which is not read")
    tensor = tensor.float() if tensor.is_floating_point() else tensor
    return tensor.resolve_neg().contiguous().numpy()


def is_tensor(value: Any) -> bool:
    """Whether a value is a tensor, without importing torch."""
    return type(value).__module__.partition(".")[0] == "torch" and hasattr(
        value, "element_size"
    )


def is_state(value: Any) -> bool:
    """Whether a value is a table of tensors, such as a state_dict."""
    if not isinstance(value, Mapping) or not value:
        return False
    tensors = [v for v in value.values() if is_tensor(v) or isinstance(v, np.ndarray)]
    named = all(isinstance(key, str) for key in value)
    return named and 2 * len(tensors) > len(value) and bool(tensors)
