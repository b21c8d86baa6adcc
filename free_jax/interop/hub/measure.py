"""Two figures for a card: how far its network and its images are from the original."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from free_jax.errors import InputError
from free_jax.interop.hub.card import Card
from free_jax.interop.hub.check import (
    LARGEST_NETWORK_DIFFERENCE,
    LARGEST_REFERENCE_DIFFERENCE,
    Reference,
    answers,
    network_difference,
    read_reference,
    reference_difference,
    relative_difference,
)
from free_jax.interop.hub.reading import Setting
from free_jax.interop.tensors.opening import open_within

_IMAGES = 4


def measured(card: Card, setting: Setting) -> Card:
    """A card with its differences, refused where the network is another one.

    Compared with the framework where it made the module, else with what
    ``reference.npz`` beside the model says.
    """
    network, preprocessing = card.network, card.preprocessing
    if network is None or preprocessing is None:
        return card
    try:
        reference = _reference(setting)
    except InputError as error:
        reference = None
        card = _remarked(card, f"not compared: {error}")
    # As arrays of the device: each is used twice.
    variables = jax.tree.map(jnp.asarray, card.variables)
    if card.framework is not None:
        differs = _from_framework(card, variables, reference)
    elif reference is not None:
        differs = network_difference(network, variables, reference)
    else:
        differs = None
    card = card._replace(network_difference=differs)
    if differs is not None and not differs <= LARGEST_NETWORK_DIFFERENCE:
        return card._replace(
            network=None,
            variables=None,
            message=f"its logits differ from the original's by {differs:.1e} of the "
            f"largest, more than {LARGEST_NETWORK_DIFFERENCE:.0e}; the converted "
            "network is another one - give family, code or an ONNX file",
        )
    if reference is None:
        return card
    images = reference_difference(network, variables, preprocessing, reference)
    card = card._replace(reference_difference=images)
    if not images <= LARGEST_REFERENCE_DIFFERENCE:
        warning = (
            f"logits from raw images differ by {images:.2g} from reference.npz: its "
            "preprocessing is another one; correct teachers.yaml"
        )
        card = _remarked(card, warning)
    return card


def _remarked(card: Card, remark: str) -> Card:
    return card._replace(message="; ".join(filter(None, (card.message, remark))))


def _reference(setting: Setting) -> Reference | None:
    """``reference.npz`` beside a model that is the only one of its folder."""
    candidate = setting.candidate
    file = candidate.folder / "reference.npz"
    if not file.exists() or candidate.path == candidate.files[0]:
        return None
    return read_reference(open_within(file, setting.root))


def _from_framework(card: Card, variables: Any, reference: Reference | None) -> float:
    """Difference from the module that the network was made from."""
    import torch

    assert card.network is not None
    h, w, c = card.network.image_shape
    seen = None if reference is None else reference.input_of_first
    if seen is None or seen.shape != (c, h, w):
        images = np.random.default_rng(0).normal(size=(_IMAGES, c, h, w))
        if card.preprocessing is not None and card.preprocessing.range == 255:
            images = 127.5 + 40 * images
    else:
        images = np.asarray(seen)[None]
    images = images.astype(np.float32)
    with torch.no_grad():
        theirs = _logits(card.framework(torch.tensor(images)))
    ours = answers(card.network, variables, images.transpose(0, 2, 3, 1))
    return relative_difference(ours, theirs)


def _logits(answer: Any) -> np.ndarray:
    """The first matrix in what a module returns."""
    while not hasattr(answer, "numpy"):
        answer = (
            answer.logits
            if hasattr(answer, "logits")
            else (
                next(iter(answer.values())) if isinstance(answer, dict) else answer[0]
            )
        )
    return answer.detach().float().numpy()
