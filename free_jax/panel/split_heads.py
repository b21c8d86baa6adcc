"""Panel distillation whose heads are split over an axis of a mesh.

Each device of that axis holds the heads of some teachers, the state of their optimiser
and those teachers' answers, and nothing of the others'.  A teacher is never cut: its
softmax is one device's.  All devices of the axis see the same images and the same
trunk; each takes the gradient of its own teachers' share of the loss, and the sum of
these is the trunk's.

Where teachers share an output a class, these are few, and the head is everywhere as the
trunk is; teachers and their answers are in parts all the same.

What is trained is what `distillation` trains, up to rounding.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from free_jax import augment
from free_jax.algorithm import Algorithm, bind
from free_jax.panel import distillation, ragged
from free_jax.panel.described import Batch, Described, batch_of
from free_jax.panel.distillation import (
    NEVER,
    DistillInfo,
    DistillState,
    Parts,
    divergences,
    moved,
    rows_of_step,
)
from free_jax.split import Split
from free_jax.types import PyTree
from free_jax.zoo.supervised import batch_gradient, gradient_step


class Layout(NamedTuple):
    """Which heads are in which part: N parts of at most t teachers and p outputs.

    Attributes:
      teachers: [N, t] rows of the panel; -1: nobody.
      outputs: [N, p] which of all outputs is at each place; -1: none.
      places: [N, t, W] where each teacher's outputs are in its part.
      mask: [N, t, W] where a teacher has an output.
      home: [C] where each output is, counted over the places of all parts.
    """

    teachers: Int[np.ndarray, "n t"]
    outputs: Int[np.ndarray, "n p"]
    places: Int[np.ndarray, "n t w"]
    mask: Bool[np.ndarray, "n t w"]
    home: Int[np.ndarray, " c"]


def layout(columns: Int[np.ndarray, " t_plus_1"], count: int) -> Layout:
    """Teachers in parts of about equally many outputs, the largest shared out first.

    >>> layout(np.asarray([0, 2, 9, 12, 15, 20]), 2).teachers.tolist()
    [[1, 3, -1], [0, 2, 4]]

    Args:
      columns: of the teachers' outputs.
      count: of parts, at most that of teachers.
    """
    columns = np.asarray(columns)
    widths = np.diff(columns)
    load, shares = np.zeros(count, int), [[] for _ in range(count)]
    for teacher in np.argsort(-widths, kind="stable"):
        lightest = int(load.argmin())
        shares[lightest].append(int(teacher))
        load[lightest] += widths[teacher]
    most, widest = max(map(len, shares)), int(widths.max())
    # Teachers of one width stand side by side without a table, padding included.
    room = most * widest if ragged.widths_are_equal(columns) else int(load.max())
    teachers = np.full((count, most), -1, np.int32)
    outputs = np.full((count, room), -1, np.int32)
    places = np.zeros((count, most, widest), np.int32)
    mask = np.zeros((count, most, widest), bool)
    home = np.zeros(int(columns[-1]), np.int32)
    for part, share in enumerate(map(sorted, shares)):
        first = 0
        for number, teacher in enumerate(share):
            width = int(widths[teacher])
            own, there = np.arange(width), first + np.arange(width)
            teachers[part, number] = teacher
            outputs[part, there] = columns[teacher] + own
            places[part, number, :width], mask[part, number, :width] = there, True
            home[columns[teacher] + own] = part * room + there
            first += width
    return Layout(teachers, outputs, places, mask, home)


def apart(where: Layout, x: Any) -> Any:
    """[..., C] as [N, ..., p], zero where a part has no output; NumPy's stays so."""
    numpy: Any = np if isinstance(x, np.ndarray) else jnp
    found = x[..., np.maximum(where.outputs, 0)]
    zero = np.zeros((), x.dtype)
    return numpy.moveaxis(numpy.where(where.outputs >= 0, found, zero), -2, 0)


def together(where: Layout, x: Float[Array, "n *rest p"]) -> Float[Array, "*rest c"]:
    """The reverse of `apart`."""
    x = jnp.moveaxis(x, 0, -2)
    return x.reshape(*x.shape[:-2], -1)[..., where.home]


class SplitParts(NamedTuple):
    """What a split distillation is composed of.

    Attributes:
      whole: the distillation, see `distillation.Parts`.
      split: of its heads.
      where: each teacher's answers are, and its head unless teachers share one.
      outputs: [N, t, W] which of its device's outputs a teacher's are.
    """

    whole: Parts
    split: Split
    where: Layout
    outputs: Int[np.ndarray, "n t w"]

    @property
    def shared(self) -> bool:
        """Whether all teachers have one head, which is not cut."""
        return self.whole.class_ids is not None


def split_parts(whole: Parts, split: Split) -> SplitParts:
    """What a split distillation is composed of, from what it is on one device."""
    where = layout(whole.columns, split.parts)
    outputs = where.places
    if whole.class_ids is not None:
        # Which of all teachers' outputs is at each place, then its class.
        parts = np.arange(split.parts)[:, None, None]
        outputs = np.where(where.mask, where.outputs[parts, where.places], 0)
        outputs = np.unique(whole.class_ids, return_inverse=True)[1][outputs]
    return SplitParts(whole, split, where, outputs.astype(np.int32))


def init(parts: SplitParts, key: Key[Array, ""]) -> DistillState:
    """A student without training: that of one device, in parts."""
    return divided(parts, distillation.init(parts.whole, key))


def divided(parts: SplitParts, state: DistillState) -> DistillState:
    """The state of one device's distillation, its heads and all of theirs in parts."""
    cut = functools.partial(apart, parts.where)
    return _placed(parts, _of_heads(parts, cut, lambda leaf: leaf, state))


def model(parts: SplitParts, state: DistillState) -> PyTree:
    """Variables of the student, whole, on every device."""
    if parts.shared:
        return distillation.model(parts.whole, state)
    params = state.variables["params"]
    head = jax.tree.map(
        lambda leaf: parts.split.everywhere(together(parts.where, leaf)),
        params["head"],
    )
    return {**state.variables, "params": {**params, "head": head}}


def feed(parts: SplitParts, key: Key[Array, ""], step: int, data: Described) -> Batch:
    """The batch of a step, picked on the host; a device gets its teachers' answers."""
    del step
    batch = batch_of(data, np.asarray(rows_of_step(parts.whole, key, data)))
    answers = apart(parts.where, np.asarray(batch.logits))
    return batch._replace(logits=parts.split.put(answers))


def step(
    parts: SplitParts, key: Key[Array, ""], state: DistillState, data: Described | Batch
) -> tuple[DistillState, DistillInfo]:
    """Draws a batch, unless it is one, and moves the student towards the answers."""
    whole, split = parts.whole, parts.split
    if not isinstance(data, Batch):
        data = batch_of(data, rows_of_step(whole, key, data))
        answers = apart(parts.where, jnp.asarray(data.logits))
        data = data._replace(logits=split.keep(answers))
    gradient = functools.partial(gradient_of, parts, key)
    update = gradient_step(gradient, whole.optimizer, whole.momentum)
    variables, opt, loss, same = update(state.variables, state.opt, data)
    new = _placed(parts, DistillState(state.step + 1, variables, opt))
    return new, DistillInfo(loss, same, jnp.isfinite(loss))


def gradient_of(
    parts: SplitParts, key: Key[Array, ""], params: PyTree, batch: Batch
) -> tuple[tuple[jax.Array, tuple[PyTree, jax.Array]], PyTree]:
    """See `supervised.batch_gradient`; the head's gradient is in parts, as the head is.

    Args:
      parts: of the distillation.
      key: moves and mixes images, on every device alike.
      params: of the student, its head in parts.
      batch: with answers [N, n, p].
    """
    whole, split, where, outputs = parts
    _, key_views, key_mix = jax.random.split(key, 3)
    student = whole.trained
    if not parts.shared:
        student = dataclasses.replace(student, num_classes=where.outputs.shape[1])
    own = batch_gradient(
        functools.partial(loss_fn, whole._replace(student=student)),
        ghost_batches=whole.ghost_batches,
        map_tasks=split.map_tasks,
    )
    everywhere, held = _divide(parts, params)

    def one(shared: PyTree, part: PyTree) -> tuple[PyTree, PyTree]:
        everywhere, images, weights = shared
        held, answers, teachers, places, outputs, mask = part
        images = moved(whole, key_views, images)
        side_by_side = ragged.widths_are_equal(whole.columns)
        targets = by_teacher(answers, places, mask, side_by_side)
        targets = jax.nn.softmax(targets / whole.temperature)
        if whole.mix != "none":
            images, targets = augment.mix_pairs(key_mix, images, targets, whole.mix)
        # Of all weights, so that the parts' losses add up to the panel's.
        share = jnp.where(teachers >= 0, weights[teachers], 0.0) / weights.sum()
        (loss, (moments, same)), grads = own(
            {**everywhere, **held}, (images, targets), share, outputs, mask
        )
        # The trunk's moments are the same in every part, and are to be added up.
        moments = jax.tree.map(lambda x: x / split.parts, moments)
        of_everywhere, of_held = _divide(parts, grads)
        return of_held, (loss, moments, same, of_everywhere)

    about = jax.tree.map(
        jnp.asarray, (batch.logits, where.teachers, where.places, outputs, where.mask)
    )
    of_held, (loss, moments, same, of_everywhere) = split.map(one)(
        (everywhere, batch.images, batch.weights), (held, *about)
    )
    return (loss, (moments, same)), {**of_everywhere, **of_held}


def _divide(parts: SplitParts, params: PyTree) -> tuple[PyTree, PyTree]:
    """What every device has of a student's parameters, and what is in parts."""
    held = () if parts.shared else ("head",)
    return (
        {name: tree for name, tree in params.items() if name not in held},
        {name: params[name] for name in held},
    )


def loss_fn(
    parts: Parts,
    params: PyTree,
    images: Float[Array, "n h w c"],
    targets: Float[Array, "n t width"],
    share: Float[Array, " t"],
    outputs: Int[Array, "t width"],
    mask: Bool[Array, "t width"],
) -> tuple[Float[Array, ""], tuple[PyTree, Float[Array, ""]]]:
    """One part's share of the loss, the trunk's moments, and how often heads agree.

    Args:
      parts: of the distillation, of a student with the heads of this part alone.
      params: of that student.
      images: of the batch.
      targets: the part's teachers' probabilities.
      share: of each of them in the panel's loss; 0 of nobody.
      outputs: see `SplitParts`.
      mask: where a teacher has an output.
    """
    features, moments = parts.student.apply_with_moments(
        {"params": params}, images, norm="batch", features=True
    )
    rows = parts.student.head(params, features)
    side_by_side = parts.class_ids is None and ragged.widths_are_equal(parts.columns)
    logits = by_teacher(rows, outputs, mask, side_by_side)
    log_s = jax.nn.log_softmax(logits / parts.temperature)
    loss = (divergences(targets, log_s).sum(-1) * share).sum(-1).mean()
    same = (log_s.argmax(-1) == targets.argmax(-1)).astype(jnp.float32)
    return loss, (moments, (same * share).sum(-1).mean())


def by_teacher(
    rows: Float[Array, "n p"],
    places: Int[Array, "t width"],
    mask: Bool[Array, "t width"],
    side_by_side: bool,
) -> Float[Array, "n t width"]:
    """A part's outputs by teacher, see `ragged.padded`.

    Args:
      rows: outputs, or answers.
      places: which of these are each teacher's.
      mask: where a teacher has one.
      side_by_side: they are in the order of teachers, equally many of each, so that no
        table is needed.
    """
    if side_by_side:
        return rows.reshape(len(rows), *places.shape)
    return jnp.where(mask, rows[:, places], NEVER)


def _placed(parts: SplitParts, state: DistillState) -> DistillState:
    """What belongs to heads of teachers stays in parts, all else is everywhere."""
    return _of_heads(parts, parts.split.keep, parts.split.everywhere, state)


def _of_heads(
    parts: SplitParts, of_heads: Callable, others: Callable, state: DistillState
) -> DistillState:
    """The state after one function of what belongs to heads, another of the rest."""
    is_head = {
        name: jax.tree.map(
            lambda _, name=name: name == "head" and not parts.shared, tree
        )
        for name, tree in state.variables["params"].items()
    }

    def change(leaf: jax.Array, is_head: bool) -> jax.Array:
        return of_heads(leaf) if is_head else others(leaf)

    variables = {
        name: jax.tree.map(change, tree, is_head)
        if name == "params"
        else jax.tree.map(others, tree)
        for name, tree in state.variables.items()
    }
    opt = optax.tree_map_params(
        parts.whole.optimizer, change, state.opt, is_head, transform_non_params=others
    )
    return DistillState(others(state.step), variables, opt)


def split_heads(parts: Parts, split: Split) -> Algorithm:
    """The distillation of a whole panel with its teachers' heads or answers in parts.

    Args:
      parts: the distillation on one device, see `panel_distillation`.
      split: of its heads.

    Returns:
      An `Algorithm` as that of `panel_distillation`; its model is whole.

    Raises:
      ValueError: heads that no part could train by itself.
    """
    _check(parts, split)
    bound = split_parts(parts, split)
    algorithm = bind(init, step, bound)
    return algorithm._replace(
        model=functools.partial(model, bound), feed=functools.partial(feed, bound)
    )


def _check(parts: Parts, split: Split) -> None:
    """Refuses what cannot be split."""
    teachers = len(parts.columns) - 1
    axis = f"mesh axis {split.axis!r} splits the heads into {split.parts}"
    alone = "or leave that axis at 1"
    if teachers < split.parts:
        raise ValueError(
            f"{axis}, but there are {teachers} teachers; make it at most as long, "
            f"{alone}"
        )
    for is_so, what, instead in (
        (parts.similarity, "similarity compares all teachers' answers", "set it to 0"),
        (parts.some, "some teachers were asked about each image", "ask all"),
    ):
        if is_so:
            raise ValueError(f"{axis}, but {what}; {instead}, {alone}")
