"""From a config to images and teachers."""

from experiments.inputs.images import (
    check_evaluation,
    evaluation_bank,
    has_images,
    list_split,
    load_split,
    preset,
)
from experiments.inputs.teachers import (
    HOW_TO_GIVE_TEACHERS,
    attacked,
    computing_in,
    load_zoo,
    place_zoo,
    select,
)

__all__ = [
    "HOW_TO_GIVE_TEACHERS",
    "attacked",
    "check_evaluation",
    "computing_in",
    "evaluation_bank",
    "has_images",
    "list_split",
    "load_split",
    "load_zoo",
    "place_zoo",
    "preset",
    "select",
]
