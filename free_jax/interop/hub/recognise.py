"""Weights of what is certainly no image classifier, told by their keys."""

from collections.abc import Mapping

import numpy as np

# (a part of keys, what it is), the first that fits.
_OTHERS = (
    ("lora_A", "is an adapter (LoRA) of another model; merge it and save that"),
    ("lora_down", "is an adapter (LoRA) of another model; merge it and save that"),
    ("roi_heads.", "is a detector, no image classifier; leave it out"),
    ("rpn.head.", "is a detector, no image classifier; leave it out"),
    ("class_embed.", "is a detector, no image classifier; leave it out"),
    ("bbox_head.", "is a detector, no image classifier; leave it out"),
    ("anchor_generator", "is a detector, no image classifier; leave it out"),
    ("head.classification_head.", "is a detector, no image classifier; leave it out"),
    ("decode_head.", "is a segmentation model, no image classifier; leave it out"),
    ("aux_classifier.", "is a segmentation model, no image classifier; leave it out"),
    ("segmentation_head.", "is a segmentation model, no image classifier"),
    (
        "backbone.conv1.",
        "has a backbone beside a head of its own: its code is needed; "
        "name it as code in teachers.yaml",
    ),
    ("word_embeddings.", "is a text model, no image classifier; leave it out"),
    ("embed_tokens.", "is a text model, no image classifier; leave it out"),
    ("wte.weight", "is a text model, no image classifier; leave it out"),
    ("token_embedding.", "is a model of images and texts, no classifier; leave it out"),
    ("conv_blocks.", "is a released generator, no classifier; leave it out"),
    ("time_embed", "is a model that makes images, no classifier; leave it out"),
)
_SEGMENTATION = ("classifier.4.weight", "classifier.0.convs.0.0.weight")


def what_it_is(state: Mapping[str, np.ndarray]) -> str:
    """A refusal for weights of other things; "" where they may be a classifier's."""
    for part, what in _OTHERS:
        if any(part in key for key in state):
            return what
    if any(key.startswith("backbone.") for key in state):
        if any(key in state for key in _SEGMENTATION):
            return "is a segmentation model, no image classifier; leave it out"
    if not any(np.ndim(value) >= 2 for value in state.values()):
        return "holds no layer of weights; save the state_dict of a classifier"
    return ""
