"""How far a converted network is from what published it, in two figures."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from free_jax.errors import InputError
from free_jax.interop.hub.preprocessing import Preprocessing, prepare
from free_jax.types import PyTree
from free_jax.zoo.network import Network

# Relative: float32 in another order of summation stays far below, a wrong operator or
# a wrong reading of a weight far above.
LARGEST_NETWORK_DIFFERENCE = 1e-3
# Absolute, of logits from raw images: Pillow's rounding, and a resize in floats.
USUAL_REFERENCE_DIFFERENCE, LARGEST_REFERENCE_DIFFERENCE = 0.05, 0.2


class Reference(NamedTuple):
    """What the original framework answered, from a ``reference.npz`` beside a model.

    Attributes:
      images: [n, h, w, 3] uint8 RGB.
      logits: [n, C].
      input_of_first: [c, h, w], the first image as the network takes it; None where the
        file has none.
    """

    images: np.ndarray
    logits: np.ndarray
    input_of_first: np.ndarray | None


def read_reference(path: Any) -> Reference:
    """Reads a ``reference.npz``; its images never reach a run.

    Raises:
      InputError: it is damaged or lacks an array.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            first = file["input_of_first"] if "input_of_first" in file else None
            reference = Reference(file["images"], file["logits"], first)
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError) as error:
        raise InputError(f"{path}: cannot be read ({str(error)[:120]})") from error
    except Exception as error:  # zipfile and zlib have errors of their own.
        raise InputError(f"{path}: is damaged ({type(error).__name__})") from error
    images, logits, first = reference
    if first is not None and first.ndim == 4 and len(first) == 1:
        first = first[0]
        reference = reference._replace(input_of_first=first)
    fits = (
        images.ndim == 4
        and images.dtype == np.uint8
        and images.shape[3] == 3
        and logits.ndim == 2
        and len(logits) == len(images) > 0
        and (first is None or first.ndim == 3)
    )
    if not fits:
        raise InputError(
            f"{path}: needs images [n, h, w, 3] of 8 bits, logits [n, classes] and "
            "input_of_first [c, h, w]"
        )
    return reference


def relative_difference(
    ours: Float[np.ndarray, "n c"], theirs: Float[np.ndarray, "n d"]
) -> float:
    """Largest difference of logits by the largest logit, up to a constant a row.

    A softmax that is cut from a graph leaves logits up to a constant a row, so both are
    centred first.

    >>> relative_difference(np.asarray([[1.0, 3.0]]), np.asarray([[0.0, 2.0]]))
    0.0
    """
    if ours.shape != theirs.shape:
        return float("inf")
    ours, theirs = _centred(ours), _centred(theirs)
    largest = max(float(np.abs(theirs).max()), 1e-12)
    difference = np.abs(ours - theirs).max() / largest
    return float(difference) if np.isfinite(difference) else float("inf")


def network_difference(
    network: Network, variables: PyTree, reference: Reference
) -> float | None:
    """`relative_difference` on the first image as the network takes it.

    Args:
      network: whose normalisation is passed by.
      variables: of one teacher.
      reference: None is returned where it holds no preprocessed image.

    Returns:
      The figure, infinite where shapes differ.
    """
    if reference.input_of_first is None:
        return None
    seen = np.asarray(reference.input_of_first, np.float32).transpose(1, 2, 0)[None]
    # A network whose pixels count to 255 normalises by itself.
    if seen.shape[1:] != network.image_shape:
        return float("inf")
    # The input is normalised and in the network's order of channels already.
    logits = answers(network, variables, seen)
    return relative_difference(logits, reference.logits[:1])


def answers(
    network: Network, variables: PyTree, seen: Float[np.ndarray, "n h w c"]
) -> Float[np.ndarray, "n classes"]:
    """Logits of images as the network takes them, compiled as a whole."""

    def apply(variables, images):
        return network.module.apply(variables, images, norm="running")

    logits: Any = jax.jit(apply)(variables, jnp.asarray(seen))
    return np.asarray(logits)


def reference_difference(
    network: Network,
    variables: PyTree,
    preprocessing: Preprocessing,
    reference: Reference,
) -> float:
    """Largest absolute difference of logits from raw images with our preprocessing.

    Args:
      network: a teacher's.
      variables: of it.
      preprocessing: as read from its files.
      reference: the original's logits.

    Returns:
      The figure after centring each row; infinite where shapes differ.
    """
    images = jnp.asarray(prepare(reference.images, preprocessing))
    ours = np.asarray(jax.jit(network.apply)(variables, images))
    if ours.shape != reference.logits.shape:
        return float("inf")
    return float(np.abs(_centred(ours) - _centred(reference.logits)).max())


def _centred(logits: np.ndarray) -> np.ndarray:
    logits = np.asarray(logits, np.float64)
    return logits - logits.mean(1, keepdims=True)
