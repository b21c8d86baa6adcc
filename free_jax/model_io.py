"""A trained meta-model on disk: weights, network and how it was made.

One ``model.npz`` as runs write it, or a folder for others (`release` writes it): the
same arrays in ``model.safetensors`` and everything else in ``config.json``.
"""

import io
import json
from collections.abc import Mapping
from typing import Any
from zipfile import BadZipFile, is_zipfile

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from free_jax.errors import InputError
from free_jax.types import PyTree
from free_jax.zoo.network import Network, make_network

FORMAT, VERSION = "free_jax model", 1
MODEL_FILE, WEIGHTS_FILE, CONFIG_FILE = "model.npz", "model.safetensors", "config.json"
_DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile)


def save_model(path: Any, network: Network, variables: PyTree, **notes: Any) -> None:
    """Writes ``{architecture, variables, notes}`` to one ``.npz`` file.

    Args:
      path: file name, local or e.g. ``gs://``.
      network: the meta-model.
      variables: Linen variables ``{"params": ..., ...}``, or the parameters alone.
      **notes: JSON values to keep with it, such as shots or accuracy.
    """
    header = json.dumps(
        {"version": VERSION, "architecture": network.as_dict(), "notes": notes}
    )
    arrays = {f"params/{name}": value for name, value in flat(variables).items()}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, header=np.asarray(header), **arrays)
    target = _file(path)
    # Renamed when whole: a reader never meets half a model.
    unfinished = target.with_name(f"{target.name}.unfinished")
    unfinished.write_bytes(buffer.getvalue())
    unfinished.replace(target)


def flat(variables: PyTree) -> dict[str, np.ndarray]:
    """All arrays of a model by their names, ``params/conv0/kernel``."""
    named = traverse_util.flatten_dict(_variables(variables), sep="/")
    return {name: np.asarray(value) for name, value in named.items()}


def _variables(tree: PyTree) -> PyTree:
    """Linen variables; parameters alone, as earlier versions stored them, are named."""
    return tree if "params" in tree else {"params": tree}


def _file(path: Any) -> Any:
    from etils import epath

    return epath.Path(path).expanduser()


def load_model(path: Any) -> tuple[Network, PyTree, dict[str, Any]]:
    """Reads a model that a run saved or that was exported.

    Args:
      path: the working directory of a finished run, its ``model.npz``, or a folder
        that `experiments/export_model.py` wrote (local or e.g. ``gs://``).

    Returns:
      Network, Linen variables ``{"params": ..., ...}``, notes.

    Raises:
      InputError: it is none of these, damaged, or of a later version.
    """
    file = _file(path)
    try:
        if not file.is_dir():
            return _read_npz(file)
        if (file / MODEL_FILE).exists():
            return _read_npz(file / MODEL_FILE)
        return _read_folder(file)
    except InputError:
        raise
    except _DAMAGED as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"{path}: not a model saved by free_jax ({reason}); give the working "
            "directory of a finished run, its model.npz, or an exported folder"
        ) from None


def _read_npz(file: Any) -> tuple[Network, PyTree, dict[str, Any]]:
    stored = io.BytesIO(file.read_bytes())
    # numpy takes any other file for a pickle and advises to trust it.
    if not is_zipfile(stored):
        raise ValueError("no .npz file")
    stored.seek(0)
    with np.load(stored, allow_pickle=False) as content:
        header = json.loads(str(content["header"]))
        _check_version(header.get("version", 1), file)
        named = {
            name.removeprefix("params/"): content[name]
            for name in content.files
            if name != "header"
        }
    network = _network(header["architecture"])
    return network, _variables(_tree(named)), header["notes"]


def _read_folder(folder: Any) -> tuple[Network, PyTree, dict[str, Any]]:
    """The model of an exported folder, its arrays compared with its network's."""
    import safetensors
    import safetensors.numpy

    config = exported_config(folder)
    if config is None:
        raise ValueError(f"holds no {MODEL_FILE} and is no exported model")
    file = folder / WEIGHTS_FILE
    if not file.exists():
        raise InputError(
            f"{folder}: {WEIGHTS_FILE} is missing; copy the folder again, or export "
            "the model with --format=safetensors"
        )
    network = _network(config["network"])
    try:
        named = safetensors.numpy.load(file.read_bytes())
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise InputError(
            f"{file}: is damaged ({error}); copy it again or export the model anew"
        ) from None
    _check_arrays(network, named, file)
    _check_stated(config, named, folder)
    return network, _tree(named), config["notes"]


def _check_stated(
    config: Mapping[str, Any], named: Mapping[str, np.ndarray], folder: Any
) -> None:
    """InputError where numbers of ``config.json`` are not those of the arrays.

    Both are read, by this library and by others: edited in one place only, the same
    folder would be two models.
    """
    stated = {
        "temperature": [config.get("temperature")],
        "weights": [head.get("trust") for head in config.get("heads", ())],
    }
    for name, values in stated.items():
        array = named.get(f"descriptions/{name}")
        found = [] if array is None else np.atleast_1d(array).tolist()
        if found and not np.array_equal(np.asarray(values, float), found):
            raise InputError(
                f"{folder}: {CONFIG_FILE} and {WEIGHTS_FILE} differ in the "
                f"{'trust of teachers' if name == 'weights' else name}; one of them "
                "was edited - change both, or export the model anew"
            )


def exported_config(folder: Any) -> dict[str, Any] | None:
    """The ``config.json`` of an exported model; None where a folder holds none.

    Raises:
      InputError: it is of a later version.
    """
    file = _file(folder) / CONFIG_FILE
    if not file.exists():
        return None
    try:
        config = json.loads(file.read_text())
    except ValueError as error:
        if (_file(folder) / WEIGHTS_FILE).exists():
            raise InputError(
                f"{file}: is no valid JSON ({error}); copy the folder again"
            ) from None
        return None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        return None
    _check_version(config.get("version"), file)
    return config


def _check_version(found: Any, file: Any) -> None:
    if not isinstance(found, int) or found > VERSION:
        raise InputError(
            f"{file}: has format version {found}, this free_jax reads {VERSION}; "
            "update free_jax"
        )


def _network(description: Mapping[str, Any]) -> Network:
    # JSON turned the tuples into lists, which do not hash.
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in description.items()
    }
    return make_network(**fields)


def _tree(named: Mapping[str, np.ndarray]) -> PyTree:
    arrays = {name: jnp.asarray(value) for name, value in named.items()}
    return traverse_util.unflatten_dict(arrays, sep="/")


def _check_arrays(network: Network, named: Mapping[str, np.ndarray], file: Any) -> None:
    """InputError where arrays are not those of the network and its descriptions."""
    leaves: Any = traverse_util.flatten_dict(network.shapes, sep="/")
    wanted = {name: leaf.shape for name, leaf in leaves.items()}
    if not any(name.startswith("batch_stats/") for name in named):
        # Meta-learned models normalise by the moments of the images at hand.
        wanted = {n: s for n, s in wanted.items() if not n.startswith("batch_stats/")}
    wanted |= _descriptions(network, named)
    if odd := sorted(wanted.keys() ^ named.keys()):
        what = "is missing" if odd[0] in wanted else "is not of this network"
        raise InputError(
            f"{file}: {odd[0]} {what}; {CONFIG_FILE} and {file.name} are of two "
            "models - copy the folder again"
        )
    for name, shape in wanted.items():
        if named[name].shape != shape:
            raise InputError(
                f"{file}: {name} has shape {named[name].shape}, expected {shape}; "
                f"{CONFIG_FILE} and {file.name} are of two models - copy the folder "
                "again"
            )


def _descriptions(
    network: Network, named: Mapping[str, np.ndarray]
) -> dict[str, tuple[int, ...]]:
    """Shapes that the arrays of the collection ``descriptions`` must have."""
    prefix, outputs = "descriptions/", network.num_classes
    if not any(name.startswith(prefix) for name in named):
        return {}
    number = len(np.atleast_1d(named.get(f"{prefix}weights", np.zeros(1))))
    shapes: dict[str, tuple[int, ...]] = {"weights": (number,), "temperature": ()}
    if f"{prefix}columns" in named:
        shapes["columns"] = (number + 1,)
    if f"{prefix}mean" in named or f"{prefix}whitening" in named:
        shapes |= {"mean": (outputs,), "whitening": (outputs, outputs)}
    if f"{prefix}outside" in named:
        leading = named.get(f"{prefix}whitening", np.zeros((1, 1))).shape[-1]
        shapes |= {"outside": (), "whitening": (outputs, leading)}
    return {prefix + name: shape for name, shape in shapes.items()}
