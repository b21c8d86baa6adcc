"""DRO fusion: a hyper-network from task embeddings to weights, fitted robustly.

Every teacher has a learned embedding e_i; a linear network predicts its weights from
it.  The fit is first-order bi-level over held-out teachers and distributionally robust:
each embedding is first moved to where the prediction is worst, at a price for the
distance,

    max_phi  E_i  inf_e'  log P(theta_i | f(e')) + gamma |e_i - e'|^2,
    log P(theta | f(e)) = -|f(e) - theta|^2 / sigma^2.

The prediction at the mean embedding is the initialisation of new tasks.  It is a
reconstruction from the paper's text: the split into training and held-out teachers is
drawn anew in each step here, the embeddings are learned in the same steps, and sigma^2
is the mean squared distance of the teachers from their mean, so that every teacher
predicted by that mean has log P of -1 on average.

With a bias, a prediction that fits every teacher predicts at the mean embedding exactly
the mean of their weights: what this adds to the plain average comes from the shift of
the embeddings and from a fit that is not finished.

Reference:
  Wang et al., "Meta-Learning without Data via Wasserstein Distributionally-Robust Model
  Fusion", UAI 2022 (PMLR 180:2045-2055).
"""

import functools
from typing import NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from free_jax import keys
from free_jax.algorithm import Algorithm
from free_jax.baselines import setting as setting_lib
from free_jax.baselines.average import stacked
from free_jax.baselines.setting import NotApplicable, Scores, Setting
from free_jax.fewshot.descend import descend
from free_jax.types import PyTree
from free_jax.zoo.network import Network
from free_jax.zoo.pool import Zoo


def scores(setting: Setting) -> Scores:
    """The meta-model with the weights of `robust_params`, adapted to each episode."""
    zoo = setting_lib.teachers_at_once(setting)
    key = keys.named(setting.key, "robust hyper-network")
    params = setting.programs.once(
        "hypernetwork", lambda: robust_params(key, setting.student, zoo)
    )
    return setting_lib.adapted(setting, params)


def robust_params(
    key: Key[Array, ""], student: Network | None, zoo: Zoo, num_steps: int = 300
) -> PyTree:
    """The initialisation that a fitted hyper-network predicts.

    Args:
      key: draws embeddings and held-out teachers.
      student: the network that every teacher has to be.
      zoo: the teachers.
      num_steps: of the fit.

    Raises:
      NotApplicable: a teacher is another network than `student`, or there is only one.
    """
    if zoo.num_teachers < 2:
        raise NotApplicable("one teacher, of which none can be held out")
    rows, unravel = flatten(stacked(student, zoo, "predicted by one network"))
    algorithm = robust_hypernetwork()

    @jax.jit
    def fit(rows: jax.Array) -> jax.Array:
        key_init, key_steps = jax.random.split(key)
        state, _ = jax.lax.scan(
            lambda state, k: algorithm.step(k, state, rows),
            algorithm.init(key_init, rows),
            jax.random.split(key_steps, num_steps),
        )
        return algorithm.model(state)["params"]

    return unravel(fit(rows))


class FusionState(NamedTuple):
    """Step count, the linear network and the look-up table of embeddings.

    Attributes:
      step: [] int32.
      weight: [d, D] and `bias` [D], for weights divided by sigma.
      bias: see `weight`.
      embeddings: [T, d].
      scale: [] sigma.
    """

    step: jax.Array
    weight: jax.Array
    bias: jax.Array
    embeddings: jax.Array
    scale: jax.Array


class FusionInfo(NamedTuple):
    """Scalars of one step.

    Attributes:
      loss: -log P of the step's held-out teachers.
      is_finite: whether it is finite.
    """

    loss: jax.Array
    is_finite: jax.Array


def flatten(stack: PyTree) -> tuple[Float[Array, "t d"], PyTree]:
    """Weights of stacked networks as rows, and the function that undoes it for one.

    Args:
      stack: leaves [T, ...].

    Returns:
      ``(rows [T, D], row [D] -> one network's tree)``.
    """
    one = jax.tree.map(lambda x: jnp.asarray(x)[0], stack)
    _, unravel = jax.flatten_util.ravel_pytree(one)
    leaves = [jnp.asarray(x) for x in jax.tree.leaves(stack)]
    return jnp.concatenate([x.reshape(x.shape[0], -1) for x in leaves], 1), unravel


def predict(state: FusionState, embeddings: Float[Array, "*b e"]) -> jax.Array:
    """Weights [..., D], in the teachers' units."""
    return state.scale * (embeddings @ state.weight + state.bias)


def perturbed(
    weight: Float[Array, "e d"],
    bias: Float[Array, " d"],
    embedding: Float[Array, " e"],
    target: Float[Array, " d"],
    *,
    gamma: float,
    num_steps: int,
    learning_rate: float,
) -> Float[Array, " e"]:
    """The embedding after some descent steps on ``log P + gamma |e - e'|^2``.

    Args:
      weight: of the linear network.
      bias: of the linear network.
      embedding: e; where the descent starts.
      target: weights to predict, in units of sigma.
      gamma: price of the distance.
      num_steps: K.
      learning_rate: of each step.
    """

    def value(moved: jax.Array) -> jax.Array:
        gap = moved @ weight + bias - target
        distance = jnp.square(moved - embedding).sum()
        return -jnp.square(gap).sum() + gamma * distance

    return descend(
        jax.grad(value), embedding, num_steps=num_steps, learning_rate=learning_rate
    )


class Parts(NamedTuple):
    """What the fit is composed of; arguments of `robust_hypernetwork`."""

    embedding_dim: int
    gamma: float
    robust_steps: int
    learning_rate: float
    held_out: float


def init(parts: Parts, key: Key[Array, ""], data: Float[Array, "t d"]) -> FusionState:
    """A network that predicts zero, and embeddings drawn at random."""
    teachers, size = data.shape
    spread = jnp.square(data - data.mean(0)).sum(1).mean()
    return FusionState(
        step=jnp.int32(0),
        weight=jnp.zeros((parts.embedding_dim, size)),
        bias=jnp.zeros((size,)),
        embeddings=jax.random.normal(key, (teachers, parts.embedding_dim)),
        scale=jnp.sqrt(jnp.where(spread > 0, spread, 1.0)),
    )


def loss_fn(
    parts: Parts,
    free: tuple[jax.Array, jax.Array, jax.Array],
    rows: Float[Array, " t"],
    targets: Float[Array, "t d"],
) -> Float[Array, ""]:
    """Mean of -log P over the teachers that `rows` counts.

    Args:
      parts: see `Parts`.
      free: weight, bias and embeddings.
      rows: 1 where a teacher counts, else 0.
      targets: the teachers' weights in units of sigma.
    """
    weight, bias, embeddings = free

    def one(embedding, target):
        moved = perturbed(
            weight,
            bias,
            embedding,
            target,
            gamma=parts.gamma,
            num_steps=parts.robust_steps,
            learning_rate=parts.learning_rate,
        )
        # Where it was moved to is no function of anything: the worst case is given,
        # and at the exact infimum both derivatives agree.
        return embedding + jax.lax.stop_gradient(moved - embedding)

    moved = jax.vmap(one)(embeddings, targets)
    gaps = jnp.square(moved @ weight + bias - targets).sum(1)
    return (rows * gaps).sum() / rows.sum()


def _moved(parts: Parts, free: PyTree, grads: PyTree, rows: jax.Array) -> PyTree:
    """`free` after a step of the learning rate, or less where that would diverge.

    Along the weights that a teacher's embedding picks, the loss bends by twice that
    embedding's squared length over the number of teachers; steps of more than two over
    that grow without bound.
    """
    bend = 2 * (jnp.square(free[2]).sum(1).max() + 1) / rows.sum()
    rate = jnp.minimum(parts.learning_rate, 1 / bend)
    return jax.tree.map(lambda x, g: x - rate * g, free, grads)


def step(
    parts: Parts, key: Key[Array, ""], state: FusionState, data: Float[Array, "t d"]
) -> tuple[FusionState, FusionInfo]:
    """First-order MAML: the gradient behind one step, applied before it."""
    teachers = data.shape[0]
    judges = max(round(parts.held_out * teachers), 1)
    order = jax.random.permutation(key, teachers)
    judging = (order < judges).astype(data.dtype)
    fitting = 1 - judging
    targets = data / state.scale
    free = (state.weight, state.bias, state.embeddings)
    gradient = jax.value_and_grad(functools.partial(loss_fn, parts))
    adapted = _moved(parts, free, gradient(free, fitting, targets)[1], fitting)
    loss, grads = gradient(adapted, judging, targets)
    weight, bias, embeddings = _moved(parts, free, grads, judging)
    new = FusionState(state.step + 1, weight, bias, embeddings, state.scale)
    return new, FusionInfo(loss, jnp.isfinite(loss))


def robust_hypernetwork(
    *,
    embedding_dim: int = 50,
    gamma: float = 2.0,
    robust_steps: int = 1,
    learning_rate: float = 0.03,
    held_out: float = 0.2,
) -> Algorithm:
    """Builds the fit; its data are the teachers' weights [T, D], see `flatten`.

    Args:
      embedding_dim: of a task's embedding.
      gamma: price of moving an embedding.
      robust_steps: K descent steps to the worst embedding; 0 leaves robustness out.
      learning_rate: of all three levels; lower where few teachers are fitted.
      held_out: share of the teachers that a step is judged on.

    Returns:
      An `Algorithm`; ``init`` takes the data as a second argument; the model's
      ``params`` are the initialisation [D] of a new task.

    Raises:
      ValueError: an option out of its range.
    """
    if not 0 < held_out < 1:
        raise ValueError(f"held_out={held_out} must be between 0 and 1")
    if gamma < 0 or robust_steps < 0 or learning_rate <= 0:
        raise ValueError(
            f"gamma={gamma} and robust_steps={robust_steps} must not be negative, "
            f"learning_rate={learning_rate} must be positive"
        )

    parts = Parts(embedding_dim, gamma, robust_steps, learning_rate, held_out)

    def model(state: FusionState) -> dict[str, jax.Array]:
        return {"params": predict(state, state.embeddings.mean(0))}

    return Algorithm(
        init=functools.partial(init, parts),
        step=functools.partial(step, parts),
        model=model,
    )
