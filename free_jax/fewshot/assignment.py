"""How queries are shared out among the classes of an episode, all at once.

What is known of an episode besides its images, such as that all classes have equally
many queries, is information about the test set: a head that uses it says so in its
name, and stands beside those that do not.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# "none": each query alone.  "balanced": all classes have equally many.  "estimated":
# as many as the queries themselves suggest, half way towards equally many.
Prior = Literal["none", "balanced", "estimated"]
PRIORS = ("none", "balanced", "estimated")


def class_offsets(
    scores: Float[Array, "q way"], prior: Prior, *, num_iterations: int = 20
) -> Float[Array, " way"]:
    """What is added to each class's scores so that the assignments fit a prior.

    ``softmax(scores + offsets)`` is the plan of the entropic optimal transport of
    queries to classes: the rows add up to one, the columns to the share of each class.

    Args:
      scores: of each query for each class; how sharp they are decides how soft the
        plan is.
      prior: how many queries belong to each class, see `Prior`.
      num_iterations: of Sinkhorn's algorithm.

    Returns:
      Offsets; zeros for "none".

    Raises:
      ValueError: `prior` is unknown.

    Reference:
      Cuturi, "Sinkhorn Distances: Lightspeed Computation of Optimal Transport", NeurIPS
      2013; Hu et al., "Leveraging the Feature Distribution in Transfer-Based Few-Shot
      Learning", ICANN 2021 (few-shot heads by balanced transport).

    >>> scores = jnp.asarray([[2.0, 0.0], [1.0, 0.0]])
    >>> plan = jax.nn.softmax(scores + class_offsets(scores, "balanced"))
    >>> plan.sum(0).round(3)
    Array([1., 1.], dtype=float32)
    """
    if prior not in PRIORS:
        raise ValueError(f"prior={prior!r}: choose one of {', '.join(PRIORS)}")
    way = scores.shape[-1]
    zeros = jnp.zeros(way)
    if prior == "none":
        return zeros

    def sinkhorn(offsets: jax.Array, _: None) -> tuple[jax.Array, None]:
        logs = jax.nn.log_softmax(scores + offsets)
        shares = jax.nn.logsumexp(logs, axis=0) - jnp.log(scores.shape[0])
        wanted = -jnp.log(way)
        if prior == "estimated":
            own = jax.nn.softmax(scores).mean(0)
            wanted = jnp.log((own + 1.0 / way) / 2)
        return offsets + wanted - shares, None

    return jax.lax.scan(sinkhorn, zeros, length=num_iterations)[0]
