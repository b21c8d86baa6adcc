"""Groups of teachers by what their recovered tasks ask of one probe network.

A task's *embedding* is the diagonal Fisher information of a probe on its images: how
much the loss depends on each parameter.  Two tasks are similar where it depends on the
same ones.  TGR puts dissimilar teachers into one group, whose gradients a step then
reconciles.

Example::

    fisher = embedding(probe, variables, options)(key, task)  # a tree like the params
    groups = assign(similarity(stacked), options)  # [T] in [0, num_groups)

Reference:
  Wei et al., "Task Groupings Regularization: Data-Free Meta-Learning with
  Heterogeneous Pre-trained Models", ICML 2024, and its released code.
"""

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from free_jax import keys, objectives, parallel
from free_jax.algorithms.recovered_tasks import RecoveredTasks, Task, draw_task
from free_jax.errors import InputError
from free_jax.images import fit_to
from free_jax.jobs import Job
from free_jax.options import AtLeast
from free_jax.types import PyTree
from free_jax.zoo.network import Network


class GroupOptions(NamedTuple):
    """How teachers are grouped, once, before the first step.

    Attributes:
      num_groups: 1 is no grouping.
      by: "dissimilar" teachers share a group (TGR), "similar" ones, or "random" ones.
      probe: a saved model whose parameters embed tasks (the released code: a ResNet-34
        of ImageNet, which is outside data); empty: the meta-model, untrained.
      fisher: squared gradient of a "batch", averaged over batches (released code), or
        of each "sample" (the Fisher information itself).
      batch_size: images of a batch.
      epsilon: added where shares of two embeddings are taken; 1e-6 in the released
        code, beside which small embeddings vanish and shares become the embeddings
        themselves.
    """

    num_groups: Annotated[int, AtLeast(1)] = 5
    by: Literal["dissimilar", "similar", "random"] = "dissimilar"
    probe: str = ""
    fisher: Literal["batch", "sample"] = "sample"
    batch_size: Annotated[int, AtLeast(1)] = 50
    epsilon: Annotated[float, AtLeast(0)] = 1e-20


def embedding(
    probe: Network, variables: PyTree, options: GroupOptions
) -> Callable[[Key[Array, ""], Task], PyTree]:
    """``(key, task) -> mean squared gradients``, a tree like the probe's parameters.

    Labels are those that images were recovered for: the first outputs of the probe,
    whatever these stand for.

    Args:
      probe: at least as many outputs as a task has classes.
      variables: of the probe; never updated.
      options: `fisher` and `batch_size` are read.
    """
    params = variables["params"]

    def loss(
        params: PyTree,
        images: jax.Array,
        labels: jax.Array,
        norm: Literal["batch", "running"],
    ) -> jax.Array:
        views = fit_to(images, probe.image_shape)
        logits = probe.apply({**variables, "params": params}, views, norm=norm)
        return objectives.cross_entropy(logits, labels)

    def embed(key: Key[Array, ""], task: Task) -> PyTree:
        images, _, labels = task.rows
        order = jax.random.permutation(key, len(images))
        # Alone an image has no statistics: the probe's running ones stand in.
        alone = options.fisher == "sample"
        size = 1 if alone else min(options.batch_size, len(images))
        count = len(images) // size

        def one(rows: jax.Array) -> PyTree:
            norm = "running" if alone else "batch"
            grads = jax.grad(loss)(params, images[rows], labels[rows], norm)
            return jax.tree.map(jnp.square, grads)

        start = jax.tree.map(jnp.zeros_like, params)
        total, _ = jax.lax.scan(
            lambda sums, rows: (jax.tree.map(jnp.add, sums, one(rows)), None),
            start,
            order[: count * size].reshape(count, size),
        )
        return jax.tree.map(lambda x: x / count, total)

    return embed


def pair_similarity(a: PyTree, b: PyTree, epsilon: float = 1e-6) -> Float[Array, ""]:
    """How much two embeddings name the same parameters, in [0, 1].

    Each parameter's information is taken as the share of one task in that of both; the
    cosine of the two tasks' shares is averaged over parameter arrays.  Equal embeddings
    give 1, those of disjoint parameters 0.
    """

    def cosine(x: jax.Array, y: jax.Array) -> jax.Array:
        both = x + y + epsilon
        x, y = (jnp.where(both > 0, z / both, 0.0).ravel() for z in (x, y))
        lengths = jnp.sqrt(jnp.square(x).sum() * jnp.square(y).sum())
        return jnp.where(lengths > 0, (x * y).sum() / jnp.maximum(lengths, 1e-30), 0.0)

    found = jax.tree.map(cosine, a, b)
    return jnp.stack(jax.tree.leaves(found)).mean()


def similarity(embeddings: PyTree, epsilon: float = 1e-6) -> Float[np.ndarray, "t t"]:
    """`pair_similarity` of all pairs, symmetric, one on the diagonal.

    Args:
      embeddings: leaves [T, ...].
      epsilon: see `GroupOptions`.
    """
    count = len(jax.tree.leaves(embeddings)[0])

    @jax.jit
    def of_row(all_of: PyTree, row: jax.Array) -> jax.Array:
        mine = jax.tree.map(lambda x: x[row], all_of)
        return jax.lax.map(lambda other: pair_similarity(mine, other, epsilon), all_of)

    rows = np.stack([np.asarray(of_row(embeddings, t)) for t in range(count)])
    np.fill_diagonal(rows, 1.0)
    return rows


def assign(
    similarity: Float[np.ndarray, "t t"], options: GroupOptions, seed: int = 42
) -> Int[np.ndarray, " t"]:
    """The group of each teacher, numbered without gaps.

    Spectral clustering (normalised Laplacian, k-means) whose affinity is the
    DISsimilarity, so that dissimilar teachers land in one group.

    Args:
      similarity: of all pairs.
      options: `num_groups` and `by` are read.
      seed: of k-means, or of random groups.

    Raises:
      InputError: fewer teachers than groups, or scikit-learn is missing.
    """
    count = len(similarity)
    if options.num_groups == 1:
        return np.zeros(count, np.int32)
    if count < options.num_groups:
        raise InputError(
            f"config.groups.num_groups={options.num_groups}: only {count} teachers "
            "take part; ask for fewer groups, or 1 for none"
        )
    if options.by == "random":
        order = np.random.default_rng(seed).permutation(count)
        return (order % options.num_groups).astype(np.int32)
    check_packages(options)
    from sklearn.cluster import SpectralClustering

    affinity = 1.0 - similarity if options.by == "dissimilar" else similarity
    # Cosines of equals may exceed one by rounding.
    affinity = np.clip((affinity + affinity.T) / 2, 0, None).astype(np.float64)
    clusters = SpectralClustering(
        options.num_groups, affinity="precomputed", n_init=30, random_state=seed
    ).fit_predict(affinity)
    return np.unique(clusters, return_inverse=True)[1].astype(np.int32)


def check_packages(options: GroupOptions) -> None:
    """Refuses, at the start, groups that need a package that is not there.

    Raises:
      InputError: names it.
    """
    if options.num_groups == 1 or options.by == "random":
        return
    try:
        import sklearn.cluster  # noqa: F401
    except ImportError:
        raise InputError(
            f"config.groups.by={options.by!r} clusters by scikit-learn: install "
            '"free_jax[experiments]", or use by="random" or num_groups=1'
        ) from None


def grouping_jobs(
    key: Key[Array, ""],
    tasks: RecoveredTasks,
    probe: Network,
    variables: PyTree,
    options: GroupOptions,
    *,
    way: int,
    map_tasks: Callable = parallel.map_tasks,
) -> list[Job]:
    """One job that embeds all teachers and groups them.

    Embeddings are as large as the probe, one a teacher, and are not kept.

    Args:
      key: of the grouping.
      tasks: of the teachers.
      probe: embeds them; a teacher of more classes by those of one draw.
      variables: of the probe.
      options: see `GroupOptions`.
      way: classes of a task.
      map_tasks: how teachers are spread, see `parallel.map_tasks`.

    Returns:
      A job whose result holds ``similarity`` [T, T] and ``groups`` [T].

    Raises:
      InputError: the probe has fewer outputs than a task has classes.
    """
    if probe.num_classes < way:
        raise InputError(
            f"config.groups.probe: {probe.name} has {probe.num_classes} outputs, a "
            f"task {way} classes; give a probe of as many at least"
        )
    embed = embedding(probe, variables, options)
    kept = tasks.images.shape[3]

    def one(tasks: RecoveredTasks, at: tuple[jax.Array, jax.Array]) -> PyTree:
        key, row = at
        key_task, key_order = jax.random.split(key)
        return embed(key_order, draw_task(key_task, tasks, row, way=way, count=kept))

    def run() -> dict[str, np.ndarray]:
        count = tasks.images.shape[0]
        if options.by == "random" or options.num_groups == 1:
            found = np.eye(count, dtype=np.float32)
        else:
            each = jax.random.split(keys.named(key, "embedding"), count)
            embeddings = jax.jit(map_tasks(one))(tasks, (each, jnp.arange(count)))
            found = similarity(embeddings, options.epsilon)
        return {"similarity": found, "groups": assign(found, options)}

    # One job of all images, which are more to send than it is to compute.
    return [Job("similarity", run, here=True)]
