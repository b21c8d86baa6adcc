"""What an endpoint declares about itself, and whether its answers are that."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from free_jax.errors import InputError

Output = Literal["logits", "probabilities", "top_k", "label"]


class EndpointSpec(NamedTuple):
    """What is known of a remote classifier.

    Attributes:
      name: in messages, counts and the ledger; unique within a hub.
      num_classes: number of classes.
      image_shape: (h, w, c) of the images it takes.
      output: "logits"; "probabilities"; "top_k", probabilities with zeros for all but
        the likeliest classes; "label", the number or the name of the likeliest class.
      digits: decimals that probabilities are rounded to; 0: they are not.
      class_names: in the order of the outputs, for labels that are names.
    """

    name: str
    num_classes: int
    image_shape: tuple[int, int, int]
    output: Output = "logits"
    digits: int = 0
    class_names: tuple[str, ...] = ()


class DeclarationError(ValueError):
    """An answer that is sound, but not of the kind that was declared."""


Card = EndpointSpec  # The former name.


def check(spec: EndpointSpec) -> EndpointSpec:
    """Returns `spec` if it is valid.

    Raises:
      InputError: an output that does not exist, or a number out of range.
    """
    if spec.output not in get_args(Output):
        known = ", ".join(get_args(Output))
        raise InputError(
            f"endpoint {spec.name}: output={spec.output!r}; choose {known}"
        )
    if spec.num_classes < 2 or not 0 <= spec.digits <= 12:
        raise InputError(
            f"endpoint {spec.name}: {spec.num_classes} classes must be at least "
            f"2 and digits={spec.digits} between 0 and 12"
        )
    return spec


def to_logits(spec: EndpointSpec, answer: np.ndarray, images: int) -> np.ndarray:
    """Logits whose softmax is the answer of an endpoint.

    A probability that was rounded to zero becomes a quarter of the last digit; classes
    that top-k leaves out share the rest, at most as likely as the last one named; a
    label is one certain to 90 %.

    Args:
      spec: what the endpoint declared.
      answer: numbers of any shape that holds [images, way]; or [images] labels, by
        number or by name.
      images: how many were sent.

    Returns:
      [images, way] float32; an image whose values are not finite or all zero, whose
      label is below zero or, unlike others, no class, has no answer: its row is NaN.

    Raises:
      ValueError: the answer is not what was declared; says how, without the name.
    """
    way = spec.num_classes
    if spec.output == "label":
        return _of_labels(spec, answer, images)
    wanted = f"{way} classes for each of {images} images"
    values = _shaped(answer, (images, way), wanted)
    silent = ~np.isfinite(values).all(-1)
    if spec.output == "probabilities":
        silent |= (values == 0).all(-1)
    logits = np.full((images, way), np.nan)
    if not silent.all():
        kept = values[~silent]
        if spec.output == "logits":
            _check_logits(kept)
        else:
            kept = _of_probabilities(spec, kept)
        logits[~silent] = kept
    with np.errstate(over="ignore"):
        return logits.astype(np.float32)


def _of_labels(spec: EndpointSpec, answer: np.ndarray, images: int) -> np.ndarray:
    way, answer = spec.num_classes, np.asarray(answer)
    if answer.dtype.kind == "U":
        texts = answer.ravel().tolist()
        numbers = [_number(spec.class_names, text) for text in texts]
        unknown = [x for x, n in zip(texts, numbers, strict=True) if n is None]
        if unknown and len(unknown) == len(texts):
            raise ValueError(
                f"the label {unknown[0][:40]!r}, which is none of the class names "
                f"{', '.join(spec.class_names)[:200]}; correct class_names"
            )
        answer = np.asarray([np.nan if n is None else n for n in numbers], np.float64)
    labels = _shaped(answer, (images,), f"one label for each of {images} images")
    silent = ~np.isfinite(labels) | (labels < 0)
    said = labels[~silent]
    if ((said >= way) | (said != np.round(said))).any():
        raise ValueError(f"labels that are none of the {way} classes")
    logits = np.full((images, way), np.nan)
    values = np.full((len(said), way), 0.1 / (way - 1))
    values[np.arange(len(said)), said.astype(int)] = 0.9
    logits[~silent] = np.log(values)
    return logits.astype(np.float32)


def _number(names: Sequence[str], text: str) -> float | int | None:
    """The number of a class that is named; NaN for no text; None for another one."""
    text = text.strip(" \t\r\n\0")
    if text in names:
        return names.index(text)
    if text.lower() in ("", "nan", "none", "null"):
        return np.nan
    folded = [name.casefold() for name in names]
    if folded.count(text.casefold()) == 1:
        return folded.index(text.casefold())
    # Triton's classification: score, number and, where it knows one, name.
    parts = text.split(":", 2)
    if len(parts) == 3 and parts[2] in names:
        return names.index(parts[2])
    digits = parts[1] if len(parts) > 1 else text
    if digits.isascii() and digits.isdecimal() and len(digits) < 10:
        return int(digits)
    return None


def _check_logits(values: np.ndarray) -> None:
    """Refuses what is a distribution to the last digit, which logits never are.

    Raises:
      DeclarationError: it is one.
    """
    if sums_to_one(values):
        raise DeclarationError(
            "values that sum to one for every image; they are no logits: add output: "
            "probabilities"
        )


def sums_to_one(values: np.ndarray) -> bool:
    """Whether answers [images, way] are a distribution, which logits never are."""
    slack = 3e-6 if len(values) == 1 else 1e-3
    off = np.abs(np.asarray(values, np.float64).sum(-1) - 1).max(initial=0)
    return bool(
        off < slack and (values >= 0).all() and not np.isin(values, (0, 1)).all()
    )


def _of_probabilities(spec: EndpointSpec, values: np.ndarray) -> np.ndarray:
    way = spec.num_classes
    step = 10.0**-spec.digits if spec.digits else 1e-6
    total = values.sum(-1)
    # Positive is too much, or, where nothing may be left out, too little.
    off = total - 1 if spec.output == "top_k" else np.abs(total - 1)
    if (values < -step).any() or (off > _slack(way, step)).any():
        raise DeclarationError(
            f"values that are no distribution (sum {total.min():.4g} to "
            f"{total.max():.4g}, least {values.min():.4g}); "
            + _remedy(spec, values, off.max())
        )
    if spec.output == "top_k":
        absent = values <= 0
        left = (1 - total) / np.maximum(absent.sum(-1), 1)
        last = np.where(absent, np.inf, values).min(-1)
        values = np.where(absent, np.minimum(left, last)[:, None], values)
    return np.log(np.maximum(values, step / 4))


def _slack(way: int, step: float) -> float:
    """How far rounded probabilities may sum from one."""
    return 1e-3 + way * step


def _remedy(spec: EndpointSpec, values: np.ndarray, off: float) -> str:
    if values.max() <= 1.01:
        for digits in range(_decimals(values), 0, -1):
            step = 10.0**-digits
            enough = off <= _slack(spec.num_classes, step) and values.min() >= -step
            if enough and (not spec.digits or digits < spec.digits):
                return f"where they are rounded or quantised, add digits: {digits}"
    return "is its output logits?"


def _decimals(values: np.ndarray) -> int:
    """The decimals that values are rounded to, as far as they show it."""
    for digits in range(1, 7):
        scaled = values * 10**digits
        if np.abs(scaled - np.round(scaled)).max() < 1e-3:
            return digits
    for parts in (255, 256, 127, 128):  # Eight bits, signed or not.
        scaled = values * parts
        if np.abs(scaled - np.round(scaled)).max() < 1e-3:
            return 2
    return 3  # About what bfloat16 keeps.


def _shaped(answer: np.ndarray, shape: tuple[int, ...], wanted: str) -> np.ndarray:
    answer = np.asarray(answer)
    if answer.dtype.kind == "U":
        raise ValueError(f"text where {wanted} were expected")
    if answer.dtype.kind not in "fiub" or answer.size != np.prod(shape):
        raise ValueError(f"values of shape {answer.shape} where {wanted} were expected")
    if answer.ndim > 1 and answer.shape[0] != shape[0]:
        raise ValueError(f"values of shape {answer.shape} where {wanted} were expected")
    return answer.reshape(shape).astype(np.float64)
