"""Reads what a server tells about a model, which may be little or wrong."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from free_jax.errors import InputError
from free_jax.remote.answers import EndpointSpec
from free_jax.remote.tensors import SENT

# What outputs of each kind tend to be called.
_WORDS = {
    "logits": ("logit",),
    "probabilities": ("prob", "softmax", "confidence", "score"),
    "label": ("label", "class"),
}


class TensorInfo(NamedTuple):
    """One input or output.

    Attributes:
      name: "" where none is told.
      datatype: such as FP32; "" where none is told.
      shape: None for a size that is free or not told; () where no shape is told.
    """

    name: str
    datatype: str
    shape: tuple[int | None, ...]


class ModelInfo(NamedTuple):
    """What is known of a model before it is asked.

    Attributes:
      versions: that are served.
      input: name of the images.
      datatype: of the images.
      layout: nhwc or nchw.
      batched: whether the shape of the images has an axis for them.
      batch: images that each request has to hold; 0: any number.
      outputs: all of them.
      output: number of the one that is the answer; None: to be seen from the answer.
      most: images a request; 0 where no limit is told.
    """

    versions: tuple[str, ...]
    input: str
    datatype: str
    layout: str
    batched: bool
    batch: int
    outputs: tuple[TensorInfo, ...]
    output: int | None
    most: int


def read(
    found: dict[str, Any],
    spec: EndpointSpec,
    *,
    model: str,
    layout: str = "auto",
    output_name: str = "",
) -> ModelInfo:
    """Reads the metadata of a model and compares it with what it is declared to be.

    Args:
      found: JSON of ``GET v2/models/NAME``.
      spec: what the model is declared to be.
      model: its name.
      layout: of the images, or "auto".
      output_name: of the answer; "" chooses by width, then by what names mean.

    Raises:
      InputError: it is another model, or does not tell enough.
    """
    where = f"endpoint {spec.name}"
    name = found.get("name") or model
    if name != model:
        raise InputError(
            f"{where}: the server answers as model {name!r}, not {model!r}; correct "
            "url or model"
        )
    where += f": model {model}"
    images, layout = _images(where, _tensors(where, found, "inputs"), spec, layout)
    outputs = _tensors(where, found, "outputs")
    output = None
    if outputs:
        try:
            output = chosen(outputs, spec, output_name)
        except ValueError as error:
            raise InputError(f"{where} {error}") from None
        classes = width(outputs[output].shape)
        if spec.output != "label" and classes not in (None, spec.num_classes):
            raise InputError(
                f"{where} has {classes} outputs but {spec.num_classes} class names "
                "are given"
            )
    batched = len(images.shape) != 3
    return ModelInfo(
        versions=_versions(found.get("versions")),
        input=images.name or "input",
        datatype=images.datatype or "FP32",
        layout=layout,
        batched=batched,
        batch=(images.shape[0] or 0) if batched and images.shape else 0,
        outputs=outputs,
        output=output,
        most=limit(found) or 0,
    )


def latest(versions: Sequence[str]) -> str:
    """The version with the highest number, which servers give by default.

    >>> latest(["10", "9", "2"])
    '10'
    >>> latest(["v1", "v2"])
    'v2'
    """
    numbered = [
        ([int(digits) for digits in re.findall(r"\d{1,18}", version)], i)
        for i, version in enumerate(versions)
    ]
    return versions[max(numbered)[1]] if numbered else ""


def limit(found: dict[str, Any]) -> int | None:
    """The most images a request that a server tells; None where it does not."""
    parameters = found.get("parameters")
    for place in (found, parameters if isinstance(parameters, dict) else {}):
        size = _size(place.get("max_batch_size"))
        if size is not None or place.get("max_batch_size") == 0:
            return size or 0
    return None


def chosen(outputs: Sequence[TensorInfo], spec: EndpointSpec, output_name: str) -> int:
    """Which of several outputs is the answer.

    Servers give them in any order: by name, else by width, else by what names mean.

    Raises:
      ValueError: none can be told from the others.
    """
    names = [output.name for output in outputs]
    listed = ", ".join(name or "one without a name" for name in names)
    if output_name:
        if output_name not in names:
            raise ValueError(
                f"has no output {output_name!r} but {listed}; correct output_name"
            )
        return names.index(output_name)
    if len(outputs) == 1:
        return 0
    fitting = [i for i, output in enumerate(outputs) if _fits(output, spec)]
    kind = "probabilities" if spec.output == "top_k" else spec.output
    others = [word for key, words in _WORDS.items() if key != kind for word in words]
    for among in (
        fitting,
        [i for i in fitting if _called(names[i], _WORDS[kind])],
        [i for i in fitting if not _called(names[i], others)],
    ):
        if len(among) == 1:
            return among[0]
    what = f"{spec.num_classes} {spec.output}"
    if spec.output == "label":
        what = "labels"
    raise ValueError(
        f"has the outputs {listed}, and {len(fitting)} of them may be the {what}; "
        "add output_name"
    )


def width(shape: Sequence[int | None]) -> int | None:
    """Values for each image, of a shape whose first axis may be the images."""
    sizes = list(shape[1:] if len(shape) > 1 else shape)
    known = [size for size in sizes if size is not None]
    return int(np.prod(known)) if sizes and len(known) == len(sizes) else None


def _fits(output: TensorInfo, spec: EndpointSpec) -> bool:
    classes = width(output.shape)
    if spec.output != "label":
        return output.datatype != "BYTES" and classes in (None, spec.num_classes)
    whole = output.datatype == "BYTES" or "INT" in output.datatype
    return whole or classes == 1


def _called(name: str, words: Sequence[str]) -> bool:
    return any(word in name.lower() for word in words)


def _images(
    where: str, inputs: Sequence[TensorInfo], spec: EndpointSpec, layout: str
) -> tuple[TensorInfo, str]:
    """The input that takes the images, and their layout."""
    h, w, c = spec.image_shape
    if not inputs or not any(tensor.shape for tensor in inputs):
        if layout == "auto":
            raise InputError(
                f"{where}: the server does not report the shape of its images; add "
                "layout: nhwc or nchw"
            )
        return (inputs[0] if inputs else TensorInfo("", "", ())), layout
    layouts = {"nhwc": (h, w, c), "nchw": (c, h, w)}
    for tensor in inputs:
        fitting = [
            name
            for name, sizes in layouts.items()
            if len(tensor.shape) in (3, 4)
            and all(
                have in (None, want)
                for have, want in zip(tensor.shape[-3:], sizes, strict=True)
            )
        ]
        if not fitting or layout not in ("auto", *fitting):
            continue
        if tensor.datatype not in ("", *SENT):
            raise InputError(
                f"{where} takes {tensor.datatype}, but images are sent as "
                f"{', '.join(SENT)}; serve it with such an input"
            )
        if layout == "auto" and len(fitting) > 1:
            raise InputError(
                f"{where} takes images of {_shown(tensor.shape)}, which does not tell "
                "the axis of the channels; add layout: nhwc or nchw"
            )
        return tensor, fitting[0] if layout == "auto" else layout
    first = inputs[0]
    raise InputError(
        f"{where} takes {first.datatype or 'values'} {_shown(first.shape)}, not images "
        f"of {h}x{w}x{c}; correct image_size, channels or layout"
    )


def _tensors(where: str, found: dict[str, Any], key: str) -> tuple[TensorInfo, ...]:
    listed = found.get(key) or []
    if not isinstance(listed, list) or not all(isinstance(x, dict) for x in listed):
        raise InputError(
            f"{where}: the server's metadata has no list of {key}; correct it there"
        )
    return tuple(
        TensorInfo(
            name=str(tensor.get("name") or ""),
            datatype=str(tensor.get("datatype") or "").upper().removeprefix("TYPE_"),
            shape=_sizes(tensor.get("shape")),
        )
        for tensor in listed
    )


def _sizes(shape: Any) -> tuple[int | None, ...]:
    return tuple(_size(size) for size in shape) if isinstance(shape, list) else ()


def _size(size: Any) -> int | None:
    """A size that is a positive number; None if it is free or anything else."""
    try:
        number = int(size)
    except (TypeError, ValueError, OverflowError):
        return None
    whole = not isinstance(size, bool) and (isinstance(size, str) or number == size)
    return number if whole and 0 < number < 2**31 else None


def _versions(versions: Any) -> tuple[str, ...]:
    if not isinstance(versions, list):
        versions = [] if versions is None else [versions]
    return tuple(
        str(version)
        for version in versions
        if isinstance(version, (str, int, float)) and str(version)
    )


def _shown(shape: Sequence[int | None]) -> str:
    return str([-1 if size is None else size for size in shape])
