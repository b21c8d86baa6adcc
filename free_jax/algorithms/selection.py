"""A policy that selects teachers by reward (REINFORCE): whom a method learns from.

One weight a teacher; some are drawn without replacement by the softmax of the weights;
what the model then is worth moves the weights of those that were drawn, up where it is
more than usual.

Example::

    policy = init(options, num_teachers=100, count=4)
    policy = choose(options, key, policy, count=4)
    policy = update(options, policy, reward, renews, steps_made)

Reference:
  ROSY, of the released code of Trustworthy-DFML
  (R2, R10, docs/reference/released_codes.md).
"""

import functools
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from free_jax.options import AtLeast, Positive
from free_jax.types import PyTree

# Steps between two updates by the mean reward, in the released code.
_INTERVAL, _WITHIN = 20, 4


class SelectionOptions(NamedTuple):
    """How teachers are selected.

    Attributes:
      by: "reward" learns whom to choose; "chance" chooses uniformly.
      rate: of Adam, which moves the weights.
      candidates: teachers, drawn anew, that are chosen among; 0: all.
      log_prob: of the teachers chosen: as if they were drawn "independent" of one
        another (released code), or "ordered", as they are drawn: without replacement.
      when: weights and baseline are moved in each "step", once in an "interval" of 20
        steps by the mean reward, or by "generation": the weights every 4 steps and when
        teachers are chosen anew, the baseline then only.
      baseline: what reward is usual before the first is known, in percent.
      episodes: whose accuracy is the reward.
    """

    by: Literal["reward", "chance"] = "reward"
    rate: Annotated[float, Positive()] = 0.1
    candidates: Annotated[int, AtLeast(0)] = 0
    log_prob: Literal["independent", "ordered"] = "ordered"
    when: Literal["step", "interval", "generation"] = "generation"
    baseline: float = 40.0
    episodes: Annotated[int, AtLeast(1)] = 4


class Policy(NamedTuple):
    """Everything that selection carries.

    Attributes:
      weights: [T] whose softmax chooses.
      opt: state of their optimiser.
      chosen: [B] int32 the teachers chosen last, in order.
      candidates: [T] bool, whom they were chosen among.
      baseline: [] usual reward.
      baselines: [] int32 how often it was moved.
      total, count: rewards since the weights were moved, and how many.
      long_total, long_count: the same since the baseline was.
    """

    weights: jax.Array
    opt: PyTree
    chosen: jax.Array
    candidates: jax.Array
    baseline: jax.Array
    baselines: jax.Array
    total: jax.Array
    count: jax.Array
    long_total: jax.Array
    long_count: jax.Array


def init(options: SelectionOptions, num_teachers: int, count: int) -> Policy:
    """A uniform policy that has chosen nobody yet."""
    weights = jnp.ones(num_teachers)
    zero = jnp.float32(0.0)
    return Policy(
        weights=weights,
        opt=optax.adam(options.rate).init(weights),
        chosen=jnp.arange(count, dtype=jnp.int32) % num_teachers,
        candidates=jnp.ones(num_teachers, bool),
        baseline=jnp.float32(options.baseline),
        baselines=jnp.int32(0),
        total=zero,
        count=zero,
        long_total=zero,
        long_count=zero,
    )


def choose(
    options: SelectionOptions, key: Key[Array, ""], policy: Policy, count: int
) -> Policy:
    """Draws `count` teachers without replacement by the softmax of the weights."""
    key_candidates, key_chosen = jax.random.split(key)
    size = policy.weights.shape[0]
    candidates = jnp.ones(size, bool)
    if 0 < options.candidates < size:
        order = jax.random.permutation(key_candidates, size)
        candidates = candidates.at[order[options.candidates :]].set(False)
    weights = policy.weights if options.by == "reward" else jnp.zeros(size)
    # The largest perturbed weights are draws without replacement (Gumbel top-k).
    scores = jnp.where(
        candidates, weights + jax.random.gumbel(key_chosen, (size,)), -jnp.inf
    )
    chosen = jax.lax.top_k(scores, count)[1].astype(jnp.int32)
    return policy._replace(chosen=chosen, candidates=candidates)


def log_prob(
    options: SelectionOptions,
    weights: Float[Array, " t"],
    chosen: Int[Array, " b"],
    candidates: Bool[Array, " t"],
) -> Float[Array, ""]:
    """Log-probability of teachers that were chosen, in this order.

    Args:
      options: `log_prob` is read.
      weights: of all teachers.
      chosen: distinct rows.
      candidates: whom they were chosen among.
    """
    weights = jnp.where(candidates, weights, -jnp.inf)
    if options.log_prob == "independent":
        return jax.nn.log_softmax(weights)[chosen].sum()
    # Whoever was chosen before is no longer there (Plackett-Luce).
    before = jnp.tril(jnp.ones((len(chosen),) * 2, bool), -1)
    gone = (before[:, :, None] & (chosen[:, None] == jnp.arange(len(weights)))).any(1)
    left = jnp.where(gone, -jnp.inf, weights)
    return (weights[chosen] - jax.nn.logsumexp(left, axis=1)).sum()


def gradient(
    options: SelectionOptions, policy: Policy, reward: float | Float[Array, ""]
) -> Float[Array, " t"]:
    """Of the loss, -(reward - baseline) times the log-probability of the choice."""
    slope = jax.grad(functools.partial(log_prob, options))(
        policy.weights, policy.chosen, policy.candidates
    )
    return -(reward - policy.baseline) * slope


def update(
    options: SelectionOptions,
    policy: Policy,
    reward: float | Float[Array, ""],
    renews: bool | Bool[Array, ""],
    steps: int | Int[Array, ""],
) -> Policy:
    """Moves weights and baseline where it is time to; the weights first.

    Args:
      options: see `SelectionOptions`.
      policy: that chose.
      reward: of this step, in percent.
      renews: whether teachers are chosen anew in the next step.
      steps: made, this one included.
    """
    if options.by == "chance":
        return policy
    policy = policy._replace(
        total=policy.total + reward,
        count=policy.count + 1,
        long_total=policy.long_total + reward,
        long_count=policy.long_count + 1,
    )
    always = jnp.asarray(True)
    if options.when == "step":
        now, usual = always, always
    elif options.when == "interval":
        now = usual = jnp.asarray(steps % _INTERVAL == 0)
    else:
        now, usual = renews | (policy.long_count % _WITHIN == 0), renews
    moved = _moved(options, policy)
    policy = jax.tree.map(lambda new, old: jnp.where(now, new, old), moved, policy)
    told = _told(policy)
    return jax.tree.map(lambda new, old: jnp.where(usual, new, old), told, policy)


def _moved(options: SelectionOptions, policy: Policy) -> Policy:
    """Weights after the mean reward since they were moved last."""
    mean = policy.total / jnp.maximum(policy.count, 1)
    grads = gradient(options, policy, mean)
    updates, opt = optax.adam(options.rate).update(grads, policy.opt, policy.weights)
    weights = optax.apply_updates(policy.weights, updates)
    zero = jnp.zeros_like(policy.total)
    return policy._replace(weights=weights, opt=opt, total=zero, count=zero)


def _told(policy: Policy) -> Policy:
    """A running mean of rewards, which the first replaces."""
    mean = policy.long_total / jnp.maximum(policy.long_count, 1)
    step = (mean - policy.baseline) / (policy.baselines + 1)
    zero = jnp.zeros_like(policy.long_total)
    return policy._replace(
        baseline=policy.baseline + step,
        baselines=policy.baselines + 1,
        long_total=zero,
        long_count=zero,
    )


def check(options: SelectionOptions, num_teachers: int, count: int) -> None:
    """Refuses to choose more teachers than there are to choose among.

    Raises:
      ValueError: says how many there are.
    """
    among = min(options.candidates or num_teachers, num_teachers)
    if among < count:
        raise ValueError(
            f"teachers_per_step={count} are chosen among {among}; choose fewer, or "
            "among more (select.candidates)"
        )
