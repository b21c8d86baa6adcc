"""A folder that others can use: weights or an ONNX file, a config, a model card."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from free_jax import model_io
from free_jax.errors import InputError
from free_jax.release import card, formula, onnx_file
from free_jax.types import PyTree
from free_jax.zoo.network import Network

ONNX_FILE, CARD_FILE = "model.onnx", "README.md"
_OWN_FILES = (
    *(model_io.WEIGHTS_FILE, ONNX_FILE),
    *(model_io.CONFIG_FILE, CARD_FILE),
)


def export(
    target: Any,
    network: Network,
    variables: PyTree,
    notes: Mapping[str, Any] | None = None,
    *,
    format: str = "safetensors",
    given: str = "uint8",
) -> list[str]:
    """Writes a model for others; `model_io.load_model` reads it where it has weights.

    Both formats of one model may stand in one folder: export twice.

    Args:
      target: folder, local or e.g. ``gs://``; missing, empty, or a former export.
      network: of the model.
      variables: as `model_io.load_model` gives them.
      notes: kept in the config and shown on the card: ``teachers`` (see `made_from`),
        ``measured``, ``algorithm``, ``learner``, ``steps``, ``seed``.
      format: "safetensors" or "onnx", beside config and card.
      given: of "onnx": images are "uint8", or "float" in [0, 1].

    Returns:
      Names of the files that were written.

    Raises:
      InputError: the target holds something else, or the network cannot be written.
    """
    if network.family is not None:
        raise InputError(
            f"a model of {network.name} cannot be exported: its network is made by a "
            "function that no file can name"
        )
    arrays = model_io.flat(variables)
    if format == "safetensors":
        name, content = model_io.WEIGHTS_FILE, _safetensors(arrays)
    elif format == "onnx":
        made = onnx_file.onnx_model(network, variables, given)
        name, content = ONNX_FILE, made.SerializeToString()
    else:
        raise InputError(f"format {format!r}: choose safetensors or onnx")
    digest = _digest(arrays)
    folder, others = _opened(target, digest)
    files = sorted({name, *others})
    onnx_given = given if format == "onnx" else others.get(ONNX_FILE)
    config = config_of(network, variables, notes or {}, digest=digest)
    config["files"] = {
        each: {"images": onnx_given} if each == ONNX_FILE else {} for each in files
    }
    text = json.dumps(config, indent=1, allow_nan=False) + "\n"
    page = card.model_card(folder.name, config)
    # The config last: without it the folder is no model.
    for each, bytes_ in (
        (name, content),
        (CARD_FILE, page.encode()),
        (model_io.CONFIG_FILE, text.encode()),
    ):
        _write(folder / each, bytes_)
    return [name, CARD_FILE, model_io.CONFIG_FILE]


def config_of(
    network: Network, variables: PyTree, notes: Mapping[str, Any], *, digest: str
) -> dict[str, Any]:
    """What ``config.json`` says: all that is not an array.

    Args:
      network: of the model.
      variables: of the model.
      notes: see `export`.
      digest: of the arrays, names both files' common model.
    """
    how = variables.get("descriptions", {})
    if "sketch" in how:
        raise InputError(
            "a model whose descriptions are sketched (distill.sketch) has no formula "
            "for others yet; fit it without (distill.sketch=0), or give its model.npz"
        )
    h, w, c = network.image_shape
    return {
        "format": model_io.FORMAT,
        "version": model_io.VERSION,
        "network": network.as_dict(),
        "input": {
            "height": h,
            "width": w,
            "channels": "RGB" if c == 3 else "grey",
            "range": "integers from 0 to 255, or floats in [0, 1]",
            "layout": "NHWC",
        },
        "output": {
            "kind": onnx_file.output_of(variables),
            "size": onnx_file.width_of(network, variables),
            "whitened": "whitening" in how,
        },
        "heads": _heads(how, network.num_classes, notes.get("teachers") or []),
        "temperature": float(how["temperature"]) if how else None,
        "batch_norm": "running"
        if onnx_file.has_statistics(variables)
        else "of the images given together",
        "formula": formula.formulas(
            described=bool(how),
            whitened="whitening" in how,
            leading="outside" in how,
            running=onnx_file.has_statistics(variables),
            bgr=network.bgr,
        ),
        "digest": digest,
        "notes": dict(notes),
    }


def _heads(how: PyTree, outputs: int, teachers: list[Any]) -> list[dict[str, Any]]:
    """Which outputs are whose, and how far each teacher is trusted."""
    if not how:
        return []
    trust = np.asarray(how["weights"]).tolist()
    number = len(trust)
    equal = outputs // number * np.arange(number + 1)
    columns = np.asarray(how.get("columns", equal)).tolist()
    known = teachers if len(teachers) == number else [{}] * number
    return [
        {
            "columns": [columns[i], columns[i + 1]],
            "trust": trust[i],
            "source": known[i].get("source"),
        }
        for i in range(number)
    ]


def _safetensors(arrays: Mapping[str, np.ndarray]) -> bytes:
    import safetensors.numpy

    # In rows: the library writes bytes in memory order.
    rows = {name: np.array(value, order="C") for name, value in arrays.items()}
    return safetensors.numpy.save(rows, {"format": model_io.FORMAT})


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    total = hashlib.sha256()
    for name, value in sorted(arrays.items()):
        total.update(f"{name} {value.dtype} {value.shape}\n".encode())
        total.update(value.tobytes())
    return total.hexdigest()


def _opened(target: Any, digest: str) -> tuple[Any, dict[str, Any]]:
    """The folder, and which files of the same model are in it already.

    A former export of another model is removed.
    """
    from etils import epath

    folder = epath.Path(target).expanduser()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{target}: is a file; give a folder to write to")
    there = {each.name for each in folder.iterdir()} if folder.exists() else set()
    config = model_io.exported_config(folder) if there else None
    if there and (config is None or there - set(_OWN_FILES)):
        odd = sorted(there - set(_OWN_FILES) or there)[0]
        raise InputError(
            f"{target}: is not empty and no exported model alone (it holds {odd}); "
            "give a new folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    models = there & {model_io.WEIGHTS_FILE, ONNX_FILE}
    if config is None or config.get("digest") == digest:
        stated = (config or {}).get("files", {})
        return folder, {n: stated.get(n, {}).get("images") for n in models}
    for name in there:
        (folder / name).unlink()
    return folder, {}


def _write(file: Any, content: bytes) -> None:
    unfinished = file.with_name(f"{file.name}.unfinished")
    unfinished.write_bytes(content)
    unfinished.replace(file)
