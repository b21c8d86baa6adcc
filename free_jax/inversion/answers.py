"""The form in which an inference service reports a classifier's outputs.

Everything that learns from teachers here reads logits.  A service that gives less is
read as the logits of the distribution it gives: their softmax is the answer, as far as
it is known.
"""

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from free_jax.options import AtLeast

Gives = Literal["logits", "probabilities", "rounded", "top_k", "labels"]
GIVES = ("logits", "probabilities", "rounded", "top_k", "labels")

# Share that an answer of one label alone leaves to all other classes.
_DOUBT = 0.1


def answers(
    gives: Gives = "logits", *, digits: int = 3, top_k: int = 2
) -> Callable[[jax.Array], jax.Array]:
    """A service's answer, read as logits, of a classifier's logits.

    >>> answers("labels")(jnp.asarray([[3.0, 1.0, 2.0]])).argmax()
    Array(0, dtype=int32)

    Args:
      gives: "logits"; "probabilities"; those "rounded" to `digits`; those of the
        `top_k` likeliest classes, the rest spread evenly over the others; or "labels",
        the likeliest class alone.
      digits: after the decimal point.
      top_k: how many classes are reported.

    Returns:
      ``logits [n, way] -> [n, way]``.  All but "logits" are logarithms of
      probabilities, bounded from below where the answer says zero.

    Raises:
      ValueError: `gives` is unknown, or a number is out of range.
    """
    if gives not in GIVES:
        raise ValueError(f"gives={gives!r}: choose one of {', '.join(GIVES)}")
    if digits < 1 or top_k < 1:
        raise ValueError(f"digits={digits} and top_k={top_k} must be at least 1")

    def answer(logits: Float[Array, "n way"]) -> Float[Array, "n way"]:
        way = logits.shape[-1]
        if gives == "logits":
            return logits
        log_p = jax.nn.log_softmax(logits)
        if gives == "probabilities":
            return log_p
        if gives == "rounded":
            # What is rounded to zero lies below half of the last digit.
            step = 10.0**-digits
            return jnp.log(jnp.maximum(jnp.round(jnp.exp(log_p), digits), step / 4))
        named = top_k if gives == "top_k" else 1
        kept, classes = jax.lax.top_k(log_p, min(named, way))
        known = jax.nn.one_hot(classes, way).sum(-2)
        if gives == "labels":
            rest = _DOUBT / (way - 1)
            return jnp.log(jnp.where(known > 0, 1 - _DOUBT, rest))
        rest = (1 - jnp.exp(kept).sum(-1, keepdims=True)) / max(way - named, 1)
        return jnp.where(known > 0, log_p, jnp.log(jnp.maximum(rest, 1e-6)))

    return answer


class BlackBoxOptions(NamedTuple):
    """How teachers that can only be queried answer.

    Attributes:
      gives: see `answers`.
      digits: of "rounded" probabilities.
      top_k: classes reported by "top_k".
    """

    gives: Gives = "logits"
    digits: Annotated[int, AtLeast(1)] = 3
    top_k: Annotated[int, AtLeast(1)] = 2
