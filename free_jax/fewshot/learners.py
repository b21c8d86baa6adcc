"""Meta-learners: how a model adapts to one episode and what that costs it.

A meta-learner is a NamedTuple of pure functions over parameters; everything is
written for one episode.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from free_jax import objectives
from free_jax.fewshot import labels as labels_lib
from free_jax.fewshot.descend import descend
from free_jax.models.normalization import Norm
from free_jax.types import Episode, PyTree
from free_jax.zoo.network import Network


class Adapted(NamedTuple):
    """A model adapted to one episode's support set.

    Attributes:
      params: its parameters.
      stats: moments entering each batch norm on the support set, structured like
        ``batch_stats``; used when queries must not be normalised together.
      prototypes: [W, f] class means of support features (ProtoNet), else None.
    """

    params: PyTree
    stats: PyTree
    prototypes: jax.Array | None = None


class EpisodeInfo(NamedTuple):
    """Query loss and accuracy (in [0, 1]) after adaptation."""

    loss: jax.Array
    accuracy: jax.Array


class MetaLearner(NamedTuple):
    """Pure functions of one few-shot learner.

    Attributes:
      init: ``key -> params``.
      adapt: ``(params, support images [W*S, h, w, c], labels [W*S]) -> Adapted``.
      predict: ``(adapted, images [n, h, w, c], norm=...) -> logits [n, W]``; norm
        "batch" normalises the queries together (transductive, as all published
        numbers are), "running" by the support set's moments (inductive).
      loss: ``(params, episode) -> (query loss, EpisodeInfo)``, differentiable.
      sees_batches: whether its answer about a query may depend on the others: a
        network without batch norm treats each alone, and has no transductive figure.
    """

    init: Callable[..., PyTree]
    adapt: Callable[..., Adapted]
    predict: Callable[..., jax.Array]
    loss: Callable[..., tuple[jax.Array, EpisodeInfo]]
    sees_batches: bool = True


def batch_apply(
    student: Network, params: PyTree, images: Float[Array, "n h w c"]
) -> Float[Array, "n way"]:
    """Logits of a stateless model: batch norm by the batch's own moments."""
    return student.apply({"params": params}, images, norm="batch")


def _init(student: Network) -> Callable[..., PyTree]:
    def init(key: jax.Array) -> PyTree:
        return student.init(key)["params"]

    return init


def _episode_loss(adapt, predict):
    def loss(params: PyTree, episode: Episode) -> tuple[jax.Array, EpisodeInfo]:
        adapted = adapt(params, episode.support_images, episode.support_labels)
        logits = predict(adapted, episode.query_images)
        value = objectives.cross_entropy(logits, episode.query_labels)
        accuracy = objectives.accuracy(logits, episode.query_labels)
        return value, EpisodeInfo(value, accuracy)

    return loss


def maml(
    student: Network,
    *,
    inner_lr: float = 0.01,
    num_steps: int = 5,
    first_order: bool = False,
    head_only: bool = False,
    remat: bool = False,
) -> MetaLearner:
    """Adapts by plain gradient descent on the support cross-entropy.

    Args:
      student: the meta-model; its batch norm has no state.
      inner_lr: step size; no momentum, no decay.
      num_steps: inner steps, 5 in training and 10 in testing in the released codes.
      first_order: do not differentiate through the inner gradients (FOMAML).
      head_only: move only the layer named "head" (ANIL).
      remat: recompute inner activations in the backward pass to save memory.

    Returns:
      A `MetaLearner`.

    Raises:
      ValueError: a rate that is not positive, or a negative step count.

    Reference:
      Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning", ICML 2017.
    """
    if inner_lr <= 0 or num_steps < 0:
        raise ValueError(
            f"inner_lr={inner_lr} must be positive and num_steps={num_steps} at least 0"
        )

    def adapt(
        params: PyTree,
        images: Float[Array, "n h w c"],
        labels: Int[Array, " n"],
    ) -> Adapted:
        labels = labels_lib.checked(labels, student.num_classes, "adapt")

        def loss(fast: PyTree) -> jax.Array:
            return objectives.cross_entropy(batch_apply(student, fast, images), labels)

        def gradient(fast: PyTree) -> PyTree:
            grads = jax.grad(loss)(fast)
            return jax.lax.stop_gradient(grads) if first_order else grads

        fast = descend(
            gradient,
            params,
            num_steps=num_steps,
            learning_rate=inner_lr,
            only="head" if head_only else None,
            remat=remat,
        )
        _, stats = student.apply_with_moments({"params": fast}, images, norm="batch")
        return Adapted(fast, stats)

    def predict(
        adapted: Adapted, images: Float[Array, "n h w c"], *, norm: Norm = "batch"
    ) -> Float[Array, "n way"]:
        variables = {"params": adapted.params, "batch_stats": adapted.stats}
        return student.apply(variables, images, norm=norm)

    return MetaLearner(
        _init(student),
        adapt,
        predict,
        _episode_loss(adapt, predict),
        "moments" in student.gives,
    )


def protonet(student: Network, *, way: int | None = None) -> MetaLearner:
    """Classifies by squared distance to the class means of support features.

    Args:
      student: the meta-model; its head is not used.
      way: classes of an episode; None: as many as the head has outputs.

    Returns:
      A `MetaLearner`.

    Reference:
      Snell, Swersky, Zemel, "Prototypical Networks", NeurIPS 2017.
    """
    way = way or student.num_classes

    def adapt(
        params: PyTree,
        images: Float[Array, "n h w c"],
        labels: Int[Array, " n"],
    ) -> Adapted:
        labels = labels_lib.checked(labels, way, "adapt")
        variables = {"params": params}
        features = student.apply(variables, images, norm="batch", features=True)
        _, stats = student.apply_with_moments(variables, images, norm="batch")
        members = jax.nn.one_hot(labels, way)  # [n, W]
        prototypes = members.T @ features / members.sum(0)[:, None]
        return Adapted(params, stats, prototypes)

    def predict(
        adapted: Adapted, images: Float[Array, "n h w c"], *, norm: Norm = "batch"
    ) -> Float[Array, "n way"]:
        variables = {"params": adapted.params, "batch_stats": adapted.stats}
        features = student.apply(variables, images, norm=norm, features=True)
        assert adapted.prototypes is not None  # made by this learner's `adapt`
        gaps = features[:, None, :] - adapted.prototypes[None]  # [n, W, f]
        return -jnp.square(gaps).sum(-1)

    return MetaLearner(
        _init(student),
        adapt,
        predict,
        _episode_loss(adapt, predict),
        "moments" in student.gives,
    )


class LearnerOptions(NamedTuple):
    """How the meta-model is adapted to an episode, in training and when it is tested.

    Attributes:
      kind: MAML adapts all parameters, ANIL the head alone, ProtoNet none.
      init_from: a saved model (model.npz of an earlier run) to start from; empty
        starts at random.
      first_order: leave out second derivatives of MAML and ANIL.
      inner_lr: rate of their gradient steps.
      train_steps: those steps in training.
      test_steps: those steps in a test.
      test_lr: their rate in a test; 0 is `inner_lr`.
    """

    kind: Literal["maml", "anil", "protonet"] = "maml"
    init_from: str = ""
    first_order: bool = False
    inner_lr: float = 0.01
    train_steps: int = 5
    test_steps: int = 10
    test_lr: float = 0.0

    @property
    def adapts(self) -> bool:
        """Whether an episode is learned by gradient steps."""
        return self.kind in ("maml", "anil")
