"""One student of a whole panel: trained on a transfer set, its statistics fitted.

student = make_network("conv4", num_classes=5, image_shape=(32, 32, 3))
made = panel.distil(jax.random.key(1), found.described, student, num_steps=8000)
save_model("model.npz", made.network, made.variables)
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, Key, UInt8

from free_jax import keys, parallel
from free_jax.ahead import Feed
from free_jax.algorithm import Algorithm
from free_jax.optimizers import optimizer
from free_jax.panel import model as model_lib
from free_jax.panel.described import Described
from free_jax.panel.distill_options import DistillOptions
from free_jax.panel.distillation import DistillInfo, panel_distillation
from free_jax.panel.split_heads import split_heads
from free_jax.split import Split
from free_jax.types import PyTree
from free_jax.zoo.network import Network


class Distilled(NamedTuple):
    """A model distilled from a panel.

    Attributes:
      network: one trunk, with all teachers' outputs side by side.
      variables: ``{"params", "batch_stats", "descriptions"}``, see `panel.model`.
      info: of each step, leaves [num_steps].
    """

    network: Network
    variables: PyTree
    info: DistillInfo


def distil(
    key: Key[Array, ""],
    described: Described,
    student: Network,
    options: DistillOptions = DistillOptions(),
    num_steps: int = 8000,
    *,
    map_tasks: Callable = parallel.map_tasks,
    split: Split | None = None,
) -> Distilled:
    """Trains one network on all teachers' answers, and fits its statistics.

    Args:
      key: of the whole training.
      described: see `describe_zoo`.
      student: its trunk; its head gets all teachers' outputs.
      options: see `DistillOptions`.
      num_steps: of training, at least 1.
      map_tasks: see `parallel.map_tasks`.
      split: of the heads, see `distillation`.

    Returns:
      A `Distilled`; `panel.classifiers.methods` classify episodes with it.

    Raises:
      ValueError: an option is out of range or unknown.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps} must be at least 1")
    columns = np.asarray(described.columns)
    network = dataclasses.replace(student, num_classes=int(columns[-1]))
    algorithm = distillation(
        network,
        columns,
        options,
        num_steps,
        class_ids=described.class_ids,
        some=described.teachers is not None,
        map_tasks=map_tasks,
        split=split,
    )

    train = _train if fits(described, options, split) else _train_fed
    state, info = train(algorithm, key, described, num_steps)
    rng = keys.rng(key, "calibration images")
    images = fit_images(rng, described, options.fit_images)
    fit = jax.jit(statistics_fitter(network, columns, options))
    variables = fit(algorithm.model(state), images, described.weights)
    return Distilled(network, variables, info)


def _train(
    algorithm: Algorithm, key: jax.Array, described: Described, num_steps: int
) -> tuple[Any, DistillInfo]:
    """All steps as one program."""

    @jax.jit
    def train(key: jax.Array, data: Described) -> tuple[Any, DistillInfo]:
        state = algorithm.init(keys.named(key, "init"))

        def step(state, number):
            return algorithm.step(keys.named(key, "step", number), state, data)

        return jax.lax.scan(step, state, jnp.arange(num_steps))

    return train(key, on_device(described))


def _train_fed(
    algorithm: Algorithm, key: jax.Array, described: Described, num_steps: int
) -> tuple[Any, DistillInfo]:
    """One step after the other, each with the batch that was sent ahead for it."""
    assert algorithm.feed is not None
    state = jax.jit(algorithm.init)(keys.named(key, "init"))
    step, infos = algorithm.compiled(donate=True), []
    feed, key_of = algorithm.feed, functools.partial(keys.named, key, "step")
    ahead = Feed(lambda n: jax.device_put(feed(key_of(n), n, described)))
    with contextlib.closing(ahead) as batches:
        for number in range(num_steps):
            state, info = step(key_of(number), state, batches(number))
            infos.append(info)
    return state, jax.tree.map(lambda *x: jnp.stack(x), *infos)


def fits(
    described: Described, options: DistillOptions, split: Split | None = None
) -> bool:
    """Whether images and answers are kept on the device, see `DistillOptions`.

    Where heads are split no device is to hold all answers.
    """
    if split is not None:
        return False
    held = (described.images, described.logits)
    return sum(x.nbytes for x in held) <= options.device_mb * 1e6


def on_device(described: Described) -> Described:
    """With images that are in memory, whatever file they are in."""
    return described._replace(images=jnp.asarray(described.images))


def distillation(
    network: Network,
    columns: Int[np.ndarray, " t_plus_1"],
    options: DistillOptions,
    num_steps: int,
    *,
    class_ids: Int[np.ndarray, " c"] | Int[Array, " c"] | None = None,
    some: bool = False,
    map_tasks: Callable = parallel.map_tasks,
    split: Split | None = None,
) -> Algorithm:
    """`panel_distillation` as `DistillOptions` say.

    Args:
      network: with all teachers' outputs side by side.
      columns: [T + 1] whose outputs are whose.
      options: see `DistillOptions`.
      num_steps: over which the steps decay.
      class_ids: [C] absolute classes of the outputs, which "class" heads share.
      some: some teachers were asked about each image, not all.
      map_tasks: see `parallel.map_tasks`.
      split: of the heads over an axis of its mesh, see `split_heads`; None: every
        device holds all of them.

    Raises:
      ValueError: an option is out of range or unknown.
    """
    if options.sketch > network.num_classes:
        raise ValueError(
            f"sketch={options.sketch} is more than the {network.num_classes} numbers "
            "of a description; use 0"
        )
    if options.heads == "class" and class_ids is None:
        raise ValueError(
            'heads="class" needs the absolute class of each output; give class_ids, or '
            'use "teacher"'
        )
    tx = optimizer(options.optimizer)
    if options.cosine:
        decay = optax.cosine_decay_schedule(1.0, num_steps)
        tx = optax.chain(tx, optax.scale_by_schedule(decay))
    return panel_distillation(
        network,
        columns=columns,
        optimizer=tx,
        batch_size=options.batch_size,
        ghost_batches=options.ghost_batches,
        temperature=options.temperature,
        crop_padding=options.crop_padding,
        edges=options.edges,
        flip=options.flip,
        mix=options.mix,
        similarity=options.similarity,
        class_ids=np.asarray(class_ids) if options.heads == "class" else None,
        some=some,
        map_tasks=map_tasks,
        build=None if split is None else functools.partial(split_heads, split=split),
    )


def fit_images(
    rng: np.random.Generator, described: Described, count: int
) -> UInt8[np.ndarray, "n h w c"] | None:
    """The images to fit statistics to: those most like real ones, if any are.

    Inversions that started from dead leaves, or dead leaves where teachers are only
    asked.  Inversions from noise are unlike anything real: fitted to them, a model
    loses.

    Args:
      rng: draws them.
      described: with what is known of how each image was made.
      count: at most so many.

    Returns:
      The images, or None where there is none.
    """
    rows = np.flatnonzero(described.recovered)
    if rows.size < 2:
        rows = np.arange(len(described.images))
    rows = rows[np.asarray(described.natural)[rows]]
    drawn = np.sort(rng.permutation(rows)[:count])
    return np.asarray(described.images[drawn]) if drawn.size else None


def statistics_fitter(
    network: Network, columns: Int[np.ndarray, " t_plus_1"], options: DistillOptions
) -> Callable:
    """``(variables, images or None, weights [T]) -> variables`` with descriptions.

    See `panel.model.fit_statistics`.  Compile it once with `jax.jit`.
    """

    def fit(variables: PyTree, images: jax.Array | None, weights: jax.Array) -> PyTree:
        return model_lib.fit_statistics(
            network,
            variables,
            images,
            weights=weights,
            temperature=options.temperature,
            columns=columns,
            whitening=options.whitening,
            sketch=options.sketch,
        )

    return fit
