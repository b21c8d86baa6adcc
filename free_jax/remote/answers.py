"""What an endpoint declares about itself, and whether its answers are that."""

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
        the likeliest classes; "label", the number of the likeliest class.
      digits: decimals that probabilities are rounded to; 0: they are not.
    """

    name: str
    num_classes: int
    image_shape: tuple[int, int, int]
    output: Output = "logits"
    digits: int = 0


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
      answer: numbers of any shape that holds [images, way], or [images] labels.
      images: how many were sent.

    Returns:
      [images, way] float32.

    Raises:
      ValueError: the answer is not what was declared; says how, without the name.
    """
    way = spec.num_classes
    if spec.output == "label":
        labels = _shaped(answer, (images,), f"one label for each of {images} images")
        if ((labels < 0) | (labels >= way) | (labels != np.round(labels))).any():
            raise ValueError(f"labels that are none of the {way} classes")
        values = np.full((images, way), 0.1 / (way - 1))
        values[np.arange(images), labels.astype(int)] = 0.9
        return np.log(values).astype(np.float32)
    wanted = f"{way} classes for each of {images} images"
    values = _shaped(answer, (images, way), wanted)
    if not np.isfinite(values).all():
        raise ValueError("values that are not finite")
    if spec.output == "logits":
        return values.astype(np.float32)
    step = 10.0**-spec.digits if spec.digits else 1e-6
    slack = 1e-3 + way * step
    total = values.sum(-1)
    low = 0.0 if spec.output == "top_k" else 1 - slack
    if (values < -1e-6).any() or (total > 1 + slack).any() or (total < low).any():
        raise ValueError(
            f"values that are no distribution (sum {total.min():.4g} to "
            f"{total.max():.4g}, least {values.min():.4g}); is its output logits?"
        )
    if spec.output == "top_k":
        absent = values <= 0
        left = (1 - total) / np.maximum(absent.sum(-1), 1)
        last = np.where(absent, np.inf, values).min(-1)
        values = np.where(absent, np.minimum(left, last)[:, None], values)
    return np.log(np.maximum(values, step / 4)).astype(np.float32)


def _shaped(answer: np.ndarray, shape: tuple[int, ...], wanted: str) -> np.ndarray:
    answer = np.asarray(answer)
    if answer.dtype.kind not in "fiub" or answer.size != np.prod(shape):
        raise ValueError(f"values of shape {answer.shape} where {wanted} were expected")
    if answer.ndim > 1 and answer.shape[0] != shape[0]:
        raise ValueError(f"values of shape {answer.shape} where {wanted} were expected")
    return answer.reshape(shape).astype(np.float64)
