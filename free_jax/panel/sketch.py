"""Descriptions of a bounded length: a random sketch of what all heads say.

A count sketch (Charikar et al. 2002; Weinberger et al. 2009) adds each number of a
description, with a random sign, to one of k.  Inner products, which is all that heads
of episodes look at, stay the same on average, with a variance of 2 / k; nothing is
stored but a place and a sign a number.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


class Sketch(NamedTuple):
    """Which numbers of a description are added to which of k.

    Attributes:
      outputs: [k, p] int32, each of the d numbers once; the rest repeat one.
      signs: [k, p] float32, 1 or -1; 0 for what is repeated.
    """

    outputs: Int[Array, "k p"]
    signs: Float[Array, "k p"]


def draw(key: Key[Array, ""], num_outputs: int, length: int) -> Sketch:
    """A sketch of `num_outputs` numbers to `length`, which get about equally many.

    >>> sketch = draw(jax.random.key(0), 5, 3)
    >>> sketch.outputs.shape, int(abs(sketch.signs).sum())
    ((3, 2), 5)

    Raises:
      ValueError: `length` is not between 1 and `num_outputs`.
    """
    if not 1 <= length <= num_outputs:
        raise ValueError(f"sketch={length} must be between 1 and {num_outputs}")
    key_order, key_signs = jax.random.split(key)
    room = -num_outputs % length
    order = jnp.pad(jax.random.permutation(key_order, num_outputs), (0, room))
    signs = jax.random.rademacher(key_signs, (num_outputs,), jnp.float32)
    signs = jnp.pad(signs, (0, room))
    # The rest is spread over the places, not all in the last.
    return Sketch(order.reshape(-1, length).T, signs.reshape(-1, length).T)


def apply(sketch: Sketch, rows: Float[Array, "n d"]) -> Float[Array, "n k"]:
    """Rows of d numbers as rows of k."""
    return (rows[:, sketch.outputs] * sketch.signs).sum(-1)
