"""Few-shot heads: classify queries from described support images, nothing to train.

A head is ``(support [n, d], labels [n], queries [q, d]) -> logits [q, way]``.  Heads
other than `soft_kmeans` treat each query alone unless it is centred by the
episode; which one it is decides whether a figure is inductive.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from free_jax.fewshot import labels as labels_lib
from free_jax.fewshot.assignment import Prior, class_offsets
from free_jax.fewshot.descend import descend

Head = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
Center = Literal["support", "episode", "none"]
# Numbers that a description may have to be whitened by a matrix of their square; longer
# ones are by their leading directions.
MOST_WHITENED = 4096
# So many of them: with the share of the largest variance that is added to all, the
# others are as good as equal.
_LEADING = 512


def unit(x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Rows scaled to length one; a row of zeros stays so, with a gradient of zero."""
    squares = jnp.square(x).sum(-1, keepdims=True)
    # The root's own slope at zero is infinite.
    length = jnp.sqrt(jnp.where(squares > 0, squares, 1.0))
    return jnp.where(squares > 0, x / (length + 1e-8), 0.0)


def whitening(
    descriptions: Float[Array, "n d"], strength: float
) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
    """What `whiten` takes: directions that vary anyway mean little and are shrunk.

    Args:
      descriptions: of images of no particular class; they need not be real ones.
      strength: share of the largest variance that is added to all; the smaller, the
        more alike all directions become.

    Returns:
      Mean of the descriptions at unit length, and the matrix that divides each of
      their principal directions by the root of its variance so enlarged.
    """
    rows = unit(descriptions)
    mean = rows.mean(0)
    apart = rows - mean
    values, vectors = jnp.linalg.eigh(apart.T @ apart / apart.shape[0])
    # Rounding may leave eigenvalues just below zero.
    values = jnp.maximum(values, 0) + strength * values[-1]
    # Descriptions that are all the same vary in no direction: none is shrunk.
    return mean, vectors * jax.lax.rsqrt(jnp.where(values > 0, values, 1.0))


def leading_whitening(
    descriptions: Float[Array, "n d"], strength: float, leading: int = _LEADING
) -> tuple[Float[Array, " d"], Float[Array, "d r"], Float[Array, ""]]:
    """`whitening` without a matrix of d x d: by the products of all pairs of images.

    The few directions in which n descriptions vary most are divided by the root of
    their variance, all others by one number.  What comes out is turned against that of
    `whitening`: cosines and distances, which heads work by, are the same.

    Args:
      descriptions: of images of no particular class.
      strength: share of the largest variance that is added to all.
      leading: directions at most; with n of them it is exact.

    Returns:
      Mean of the descriptions at unit length, and what `whiten` takes besides.
    """
    rows = unit(descriptions)
    mean = rows.mean(0)
    apart = (rows - mean) / rows.shape[0] ** 0.5
    values, vectors = jnp.linalg.eigh(apart @ apart.T)
    values = jnp.maximum(values[-leading:], 0)
    added = strength * values[-1]
    # Descriptions that are all the same vary in no direction: none is shrunk.
    outside = jax.lax.rsqrt(jnp.where(added > 0, added, 1.0))
    inside = jax.lax.rsqrt(jnp.where(added > 0, values + added, 1.0))
    length = jnp.where(values > 0, values, 1.0) ** 0.5
    directions = apart.T @ (vectors[:, -leading:] / length)
    # Rounding leaves directions without variance of no particular length.
    kept = jnp.where(values > 1e-6 * values[-1], outside - inside, 0.0)
    return mean, directions * kept**0.5, outside


def fit_whitening(
    descriptions: Float[Array, "n d"], strength: float
) -> dict[str, jax.Array]:
    """What a model keeps to `whiten` by: ``mean``, ``whitening``, maybe ``outside``.

    Args:
      descriptions: of images of no particular class.
      strength: share of the largest variance that is added to all.
    """
    if descriptions.shape[1] <= MOST_WHITENED:
        mean, matrix = whitening(descriptions, strength)
        return {"mean": mean, "whitening": matrix}
    mean, matrix, outside = leading_whitening(descriptions, strength)
    return {"mean": mean, "whitening": matrix, "outside": outside}


def whiten(
    x: Float[Array, "n d"],
    mean: Float[Array, " d"],
    matrix: Float[Array, "d r"],
    outside: Float[Array, ""] | None = None,
) -> Float[Array, "n d"]:
    """Descriptions in the directions and units of `whitening`.

    Args:
      x: descriptions.
      mean: of those that the whitening was fitted to.
      matrix: of `whitening`, or of `leading_whitening`.
      outside: what the latter multiplies the other directions by; None: the former.
    """
    apart = unit(x) - mean
    if outside is None:
        return apart @ matrix
    return outside * apart - (apart @ matrix) @ matrix.T


def centered(head: Head, center: Center) -> Head:
    """The head on unit-length descriptions, moved so that a mean becomes zero.

    Args:
      head: any head.
      center: "support" subtracts the mean of the support set (inductive), "episode"
        that of support and queries together (transductive, as the literature's batch
        norm is), "none" nothing (inductive).

    Returns:
      A head.

    Raises:
      ValueError: `center` is unknown.
    """
    if center not in ("support", "episode", "none"):
        raise ValueError(f"center={center!r}: choose support, episode or none")

    def run(support: jax.Array, labels: jax.Array, queries: jax.Array) -> jax.Array:
        mean = jnp.zeros(support.shape[-1])
        if center == "support":
            mean = support.mean(0)
        elif center == "episode":
            mean = jnp.concatenate([support, queries]).mean(0)
        return head(unit(support - mean), labels, unit(queries - mean))

    return run


def _members(labels: Int[Array, " n"], way: int) -> Float[Array, "n way"]:
    """One row an image, 1 where its class is."""
    return jax.nn.one_hot(labels_lib.checked(labels, way, "a few-shot head"), way)


def nearest_centroid(way: int) -> Head:
    """Cosine to the class means of the support set."""

    def head(
        support: Float[Array, "n d"], labels: Int[Array, " n"], queries: jax.Array
    ) -> Float[Array, "q way"]:
        members = _members(labels, way)
        return unit(queries) @ unit(members.T @ support).T

    return head


def soft_kmeans(
    way: int,
    *,
    num_iterations: int = 5,
    sharpness: float = 10.0,
    prior: Prior = "none",
) -> Head:
    """Class means refined by the queries' own soft assignments.

    Args:
      way: classes.
      num_iterations: of assigning queries and averaging; 0 is `nearest_centroid`.
      sharpness: of the assignments, multiplies cosines.
      prior: what is known of how many queries belong to each class; other than "none"
        it is information about the test set, see `assignment.class_offsets`.

    Reference:
      Ren et al., "Meta-Learning for Semi-Supervised Few-Shot Classification", ICLR
      2018: the unlabelled images are the queries themselves.
    """

    def head(
        support: Float[Array, "n d"], labels: Int[Array, " n"], queries: jax.Array
    ) -> Float[Array, "q way"]:
        members = _members(labels, way)
        start = members.T @ support

        def refine(means: jax.Array, _: None) -> tuple[jax.Array, None]:
            scores = sharpness * unit(queries) @ unit(means).T
            soft = jax.nn.softmax(scores + class_offsets(scores, prior))
            return start + soft.T @ queries, None

        means, _ = jax.lax.scan(refine, start, length=num_iterations)
        cosines = unit(queries) @ unit(means).T
        if prior == "none":
            return cosines
        return cosines + class_offsets(sharpness * cosines, prior) / sharpness

    return head


def transductive_centroids(
    way: int, *, rounds: int = 5, sharpness: float = 10.0
) -> Head:
    """`soft_kmeans` under its former name and keyword."""
    return soft_kmeans(way, num_iterations=rounds, sharpness=sharpness)


def ridge(way: int, *, strength: float = 1.0) -> Head:
    """Ridge regression onto one-hot labels, in closed form over the support set.

    Args:
      way: classes.
      strength: of the penalty, for descriptions of unit length.
    """

    def head(
        support: Float[Array, "n d"], labels: Int[Array, " n"], queries: jax.Array
    ) -> Float[Array, "q way"]:
        targets = _members(labels, way) - 1.0 / way
        kernel = support @ support.T + strength * jnp.eye(support.shape[0])
        return (queries @ support.T) @ jnp.linalg.solve(kernel, targets)

    return head


def logistic(
    way: int,
    *,
    num_steps: int = 50,
    learning_rate: float = 1.0,
    penalty: float = 1e-2,
    scale: float = 10.0,
) -> Head:
    """Multinomial logistic regression by a fixed number of gradient steps from zero.

    Args:
      way: classes.
      num_steps: gradient steps.
      learning_rate: of plain gradient descent.
      penalty: weight of half the squared weights.
      scale: multiplies descriptions of unit length.
    """

    def head(
        support: Float[Array, "n d"], labels: Int[Array, " n"], queries: jax.Array
    ) -> Float[Array, "q way"]:
        targets = _members(labels, way)
        x = scale * support

        def gradient(weights: jax.Array) -> jax.Array:
            error = jax.nn.softmax(x @ weights) - targets
            return x.T @ error / x.shape[0] + penalty * weights

        weights = descend(
            gradient,
            jnp.zeros((support.shape[1], way)),
            num_steps=num_steps,
            learning_rate=learning_rate,
        )
        return scale * queries @ weights

    return head
