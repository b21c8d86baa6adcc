"""The released layouts: Conv4 and ResNets with class ids that files of a folder share.

``class_ids.json`` (file name to ids) and ``log.tsv`` (columns ``id``, ``class_ids``,
``held_out_accuracy``) may complete the files.
"""

import functools
import math
from typing import Any

from free_jax.errors import InputError
from free_jax.interop.hub import extras
from free_jax.interop.hub.consent import digest_of
from free_jax.interop.hub.labels import names_beside, names_in_extra
from free_jax.interop.hub.reading import Converted, Reading, Setting
from free_jax.interop.sidecars import file_number, log_entry, read_log, read_sidecar
from free_jax.interop.tensors import Checkpoint
from free_jax.interop.tensors.opening import open_within
from free_jax.interop.torch_weights import detect, from_state_dict
from free_jax.zoo.network import make_network

_LARGEST_SIDECAR = 16 << 20
# What a table calls them as a family, where keys do not tell.
STATED = ("conv4",)


def is_released(state: Any) -> bool:
    """Whether the keys are those of the released networks."""
    return (
        "trunk.0.C.weight" in state
        or (
            "trunk.0.weight" in state
            and any(key.endswith(".C1.weight") for key in state)
        )
        or "trunk.0.trunk.0.weight" in state
    )


def read_released(setting: Setting, checkpoint: Checkpoint) -> Reading:
    """Reads a released classifier.

    Raises:
      InputError: weights that do not fit, or class ids that contradict the outputs.
    """
    name = setting.name
    state = checkpoint.state
    found = detect(state, name)
    ids = extras.class_ids(checkpoint.extra, name)
    accuracy = _accuracy(checkpoint, name)
    ids, accuracy, said = _completed(setting, ids, accuracy)
    if ids is not None and (len(ids) != found["way"] or len(set(ids)) != len(ids)):
        raise InputError(
            f"{name}: class ids {list(ids)[:20]} must be {found['way']} distinct ids, "
            "one for each output"
        )
    sources = {"network": f"{name}:keys", "weights": checkpoint.wrapper or name}
    if ids is not None:
        sources["class_ids"] = said or f"{name}:specific"
    return Reading(
        "released",
        f"{found['name']} (released)",
        found["channels"],
        extras.extra_facts(checkpoint.extra, name),
        [
            names_in_extra(checkpoint.extra, name),
            names_beside(setting.candidate.folder, setting.name, setting.root),
        ],
        functools.partial(_convert, state, found, name),
        guessed_size=found["image_size"] or 32,
        class_ids=ids,
        accuracy=accuracy,
        digest=digest_of(state),
        sources=sources,
    )


def _accuracy(checkpoint: Checkpoint, name: str) -> float:
    """``acc`` of a .pth is in per cent, ``accuracy`` of a .safetensors a fraction."""
    metadata = checkpoint.extra.get("metadata")
    if isinstance(metadata, dict) and "accuracy" in metadata:
        value = extras.as_number(metadata["accuracy"])
    elif "specific" in checkpoint.extra or checkpoint.wrapper == "teacher":
        value = extras.as_number(checkpoint.extra.get("acc")) / 100
    else:
        return extras.accuracy(checkpoint.extra)
    if not math.isnan(value) and not 0 <= value <= 1:
        raise InputError(
            f"{name}: accuracy {value} is not in [0, 1]; `acc` of a .pth is in per "
            "cent, `accuracy` of a .safetensors a fraction"
        )
    return value


def _completed(
    setting: Setting, ids: tuple[int, ...] | None, accuracy: float
) -> tuple[tuple[int, ...] | None, float, str]:
    """Class ids and accuracy by the files beside the model, and the ids' source."""
    folder, name = setting.candidate.folder, setting.name
    for beside in ("class_ids.json", "log.tsv"):
        if (folder / beside).exists():
            open_within(folder / beside, setting.root, _LARGEST_SIDECAR)
    said = ""
    sidecar = read_sidecar(folder)
    if ids is None and name in sidecar:
        said = "class_ids.json"
        ids = extras.whole_numbers(sidecar[name], f"class_ids.json: {name}")
    row = read_log(folder).get(file_number(name))
    if row is not None:
        before = None if ids is None else list(ids)
        logged, value = log_entry(row, before, name)
        if ids is None and logged is not None:
            ids, said = tuple(logged), "log.tsv"
        if math.isnan(accuracy) and value is not None:
            accuracy = value
    return ids, accuracy, said


def _convert(state, found, name, image_shape_chw) -> Converted:
    """The released network for images of this size."""
    channels, h, w = image_shape_chw
    if found["grid"] and (h // 16 != found["grid"] or w // 16 != found["grid"]):
        raise InputError(
            f"{name}: its head fits images of about {found['image_size']} pixels, not "
            f"{h}x{w}; write the size into teachers.yaml"
        )
    try:
        network = make_network(
            found["name"],
            num_classes=found["way"],
            image_shape=(h, w, channels),
            mean=(0.5,) * channels,
            std=(0.5,) * channels,
            **found["kwargs"],
        )
    except ValueError as error:
        raise InputError(f"{name}: {error}") from error
    variables = from_state_dict(state, network, name)
    return Converted(
        found["name"], found["way"], variables, found["kwargs"], network.gives
    )
