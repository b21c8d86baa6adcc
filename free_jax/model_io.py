"""A trained meta-model as one file: weights, architecture and how it was made."""

import io
import json
from typing import Any
from zipfile import BadZipFile, is_zipfile

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from free_jax.errors import InputError
from free_jax.types import PyTree
from free_jax.zoo.network import Network, make_network


def save_model(path: Any, arch: Network, variables: PyTree, **notes: Any) -> None:
    """Writes ``{architecture, variables, notes}`` to one ``.npz`` file.

    Args:
      path: file name, local or e.g. ``gs://``.
      arch: the meta-model's architecture.
      variables: Linen variables ``{"params": ..., ...}``, or the parameters alone.
      **notes: JSON values to keep with it, such as shots or accuracy.
    """
    flat = traverse_util.flatten_dict(_variables(variables), sep="/")
    header = json.dumps({"architecture": arch.as_dict(), "notes": notes})
    arrays = {f"params/{name}": np.asarray(value) for name, value in flat.items()}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, header=np.asarray(header), **arrays)
    target = _file(path)
    # Renamed when whole: a reader never meets half a model.
    unfinished = target.with_name(f"{target.name}.unfinished")
    unfinished.write_bytes(buffer.getvalue())
    unfinished.replace(target)


def _variables(tree: PyTree) -> PyTree:
    """Linen variables; parameters alone, as earlier versions stored them, are named."""
    return tree if "params" in tree else {"params": tree}


def _file(path: Any) -> Any:
    from etils import epath

    return epath.Path(path).expanduser()


def load_model(path: Any) -> tuple[Network, PyTree, dict[str, Any]]:
    """Reads what `save_model` wrote.

    Returns:
      Network, Linen variables ``{"params": ..., ...}``, notes.

    Raises:
      InputError: no such file, or it is not a saved model.
    """
    try:
        stored = io.BytesIO(_file(path).read_bytes())
        # numpy takes any other file for a pickle and advises to trust it.
        if not is_zipfile(stored):
            raise ValueError("no .npz file")
        stored.seek(0)
        with np.load(stored, allow_pickle=False) as file:
            header = json.loads(str(file["header"]))
            flat = {
                name.removeprefix("params/"): jnp.asarray(file[name])
                for name in file.files
                if name != "header"
            }
        arch = make_network(**header["architecture"])
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise InputError(
            f"{path}: not a model saved by free_jax ({error}); give the model.npz of "
            "a finished run"
        ) from None
    variables = _variables(traverse_util.unflatten_dict(flat, sep="/"))
    return arch, variables, header["notes"]
