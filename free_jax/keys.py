"""Random numbers by the name of what they are for.

A run has one seed.  Whatever draws from it names its purpose, so that two purposes
never share numbers, a resumed run draws the same ones without storing keys, and a new
purpose changes no other's.
"""

import zlib

import jax
import numpy as np
from jaxtyping import Array, Key


def named(
    key: Key[Array, ""], purpose: str, number: int | jax.Array | None = None
) -> Key[Array, ""]:
    """The key of a named purpose, and of one of many of its kind.

    Args:
      key: a typed key, which nothing else than this function should use.
      purpose: what the numbers are for, such as ``"init"``.
      number: which one, such as the step's; may be traced.

    >>> root = jax.random.key(0)
    >>> bool(named(root, "step", 1) == named(root, "step", 2))
    False
    """
    key = jax.random.fold_in(key, np.uint32(_code(purpose)))
    return key if number is None else jax.random.fold_in(key, number)


def rng(key: Key[Array, ""], purpose: str) -> np.random.Generator:
    """NumPy's generator for a named purpose of a key."""
    words = np.asarray(jax.random.key_data(named(key, purpose)))
    return np.random.default_rng(words.ravel().tolist())


def named_rng(seed: int, purpose: str) -> np.random.Generator:
    """NumPy's generator for a named purpose of a seed (at least 0)."""
    return np.random.default_rng([seed, _code(purpose)])


def _code(purpose: str) -> int:
    return zlib.crc32(purpose.encode())
