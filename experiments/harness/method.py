"""What the harness needs of a method, and what it gives back; it knows no science."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from free_jax.algorithm import Algorithm


class Meters(NamedTuple):
    """What a method's steps are counted and shown by.

    Attributes:
      status: metrics of a step that the status line shows, and their short names there.
      images_per_step: images made in a step.
      images_before: images made before the first step, or kept and improved in every
        step.
      seconds_before: what was spent before the first step, counted as training's.
      making_images: seconds of it that went into images; None where they are made
        within the steps, or none are.
      queries_of: ``state -> [T]`` images that each of T was asked about so far; None
        where nothing counts them.
      updates_of: from the metrics of a step, how often it updated the model.
      gradients: of single images through the networks that they are made from, before
        the first step.
      gradients_per_step: the same, in each step.
      answers: forward passes of single images through those networks, before the first
        step.
    """

    status: dict[str, str]
    images_per_step: int = 0
    images_before: int = 0
    seconds_before: float = 0.0
    making_images: float | None = None
    queries_of: Callable[[Any], np.ndarray] | None = None
    updates_of: Callable[[dict[str, float]], float] = lambda metrics: 1
    gradients: int = 0
    gradients_per_step: int = 0
    answers: int = 0


class Method(NamedTuple):
    """A method with everything it learns from, ready to be trained.

    Attributes:
      title: what is trained from what, such as "free: 100 networks".
      algorithm: ``init``, ``step`` and the model that a state holds.
      data: third argument of ``step``, such as a bank of images.
      network: the network that is trained and saved.
      meters: what its steps are counted and shown by.
      subject: what whoever measures the model needs of the method, such as how it
        classifies an episode; handed on as it is.
      told: ``state -> entries of result.json`` of the method's own, ready for JSON.
      remedy: what to do where a step does not fit a device.
    """

    title: str
    algorithm: Algorithm
    data: Any
    network: Any
    meters: Meters
    subject: Any = None
    told: Callable[[Any], dict[str, Any]] = lambda state: {}
    remedy: str = ""


class Service(Protocol):
    """Something outside that steps ask, and that may fail or charge."""

    def answered(self, result: Any) -> bool:
        """Whether every query since the last call found an answer.

        Args:
          result: of the program that asked; waited for, so that it has ended.

        Raises:
          Exception: the service is broken, and no later step would find answers.
        """
        ...

    def exhausted(self) -> str:
        """Why nothing more can be asked, such as a spent budget; "" while it can."""
        ...

    def bill(self) -> dict[str, Any]:
        """What was spent so far, ready for JSON.

        ``queries`` is the total, which the curve shows; the rest is the service's own.
        """
        ...


class Schedule(NamedTuple):
    """How long a method is trained, and how often it is looked at.

    Attributes:
      num_steps: steps in all, those of earlier calls included; 0 for a method that is
        not trained, which is taken as it is initialised.
      max_seconds: of training and of `seconds_before`; 0 is no limit.
      log_every_steps: of rows in the metrics file.
      judge_every_steps: of scores; the last step is always judged.
      checkpoint_every_steps: 0 is never; the last step is always saved.
      checkpoint_every_secs: 0 is never.
      tensorboard: whether metrics are written for TensorBoard as well.
      seconds_before: what was spent before the first step, such as on recovery.
    """

    num_steps: int
    max_seconds: float = 0.0
    log_every_steps: int = 1
    judge_every_steps: int = 1
    checkpoint_every_steps: int = 0
    checkpoint_every_secs: float = 60.0
    tensorboard: bool = False
    seconds_before: float = 0.0


class Judge(NamedTuple):
    """How a run looks at itself.

    Attributes:
      scores: ``(model, state) -> {metric: value}``.
      rule: the metric whose maximum selects the model; None selects the last.
    """

    scores: Callable[[Any, Any], dict[str, float]] = lambda model, state: {}
    rule: str | None = None


class Outcome(NamedTuple):
    """What a finished training leaves.

    Attributes:
      model: the selected one.
      state: of the algorithm after the last step.
      steps: that were made.
      meta_updates: of the meta-model; exact where every step was logged.
      seconds: of training over all interruptions, and `Schedule.seconds_before`.
      curve: a row for each judged step: ``step``, ``seconds``, metrics and scores.
      best: the score that selected; None where no rule does.
      undone: numbers of the keys of steps that found no answers and do not count; None
        where an earlier version did not note them.
    """

    model: Any
    state: Any
    steps: int
    meta_updates: int
    seconds: float
    curve: list[dict[str, Any]]
    best: float | None
    undone: tuple[int, ...] | None = ()

    @property
    def key_numbers(self) -> np.ndarray | None:
        """Of the steps that count, in order; None where they are not known."""
        if self.undone is None:
            return None
        numbers = np.arange(self.steps + len(self.undone))
        return numbers[~np.isin(numbers, self.undone)]
