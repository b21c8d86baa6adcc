"""What evaluation needs to know of a method; the harness hands it on unread."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from free_jax.fewshot.learners import MetaLearner
from free_jax.types import ImageBank


class Subject(NamedTuple):
    """How the model that a method trains takes part in few-shot episodes.

    Attributes:
      predictors: name in the table to how the model classifies an episode; the first
        one is the headline and what selection looks at.
      learner: how a model is adapted to an episode, for rows beside the method's own,
        which then share its compiled program.
      recovered: ``state -> ImageBank`` of recovered images by class; None where a
        method keeps none.
      holdouts: images whose episodes judge a model without data, because training
        never sees what their classes are; none for most methods.
      pseudo_task: (shots, queries) of episodes of recovered images.
      rows: which of the models it was given it learns from, where it chooses among
        them, in its own order; None: all.
    """

    predictors: dict[str, Callable[..., Any]]
    learner: MetaLearner
    recovered: Callable[[Any], ImageBank] | None = None
    holdouts: tuple[ImageBank, ...] = ()
    pseudo_task: tuple[int, int] = (1, 15)
    rows: np.ndarray | None = None
