"""Teachers that do not divide over the groups go round them."""

import functools
import unittest.mock
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from free_jax import algorithms, augment, inversion, zoo
from free_jax.algorithms import turns
from free_jax.algorithms.bell import AlignOptions
from free_jax.algorithms.free import FreeOptions
from free_jax.algorithms.purer import PurerOptions
from free_jax.fewshot import banks
from free_jax.fewshot.banks import MemoryOptions
from free_jax.fewshot.episodes import balanced_labels, sample_episode
from free_jax.fewshot.learners import EpisodeInfo, batch_apply, protonet
from free_jax.objectives import kl
from free_jax.parallel import make_mesh, map_tasks

GROUPS, CLASSES, PER_CLASS = 5, 15, 2
LEARNER = protonet(toy.LINEAR)
LABELS = balanced_labels(toy.WAY, PER_CLASS)
SIZES = (3, 1, 2, 2, 4)


@functools.cache
def five_groups():
    """Group g's teachers know classes 3 g to 3 g + 2, in an order of their own."""
    data = []
    for group, size in enumerate(SIZES):
        found = toy.random_teachers(toy.LINEAR, size, seed=group, classes=3)
        data.append(found._replace(class_ids=found.class_ids + 3 * group))
    return tuple(data)


# ---- shares ----------------------------------------------------------------------


def test_batches_by_hand():
    def counts(*args):
        return [(b.groups, b.count) for b in turns.batches(*args)]

    always = [((g,), 1) for g in range(5)]
    everyone = (0, 1, 2, 3, 4)
    assert counts(4, 5) == [(everyone, 4)]
    assert counts(5, 5) == always
    assert counts(7, 5) == [*always, (everyone, 2)]
    assert counts(3, 1) == [((0,), 3)]
    # Where teachers divide, none goes round.
    assert counts(10, 5) == [((g,), 2) for g in range(5)]
    # At most what a group holds; only those with more go on taking turns.
    assert counts(7, 5, (1, 1, 9, 1, 9)) == [*always, ((2, 4), 2)]
    assert counts(13, 2, (4, 4)) == [((0,), 4), ((1,), 4)]
    assert counts(4, 5, (1, 1, 1, 1, 1)) == [(everyone, 4)]


@pytest.mark.parametrize(("total", "groups"), [(4, 5), (1, 3), (7, 5), (5, 3), (6, 4)])
def test_all_groups_are_drawn_equally_often(total, groups):
    seen = Counter()
    for step in range(groups):
        now = Counter()
        for batch in turns.batches(total, groups):
            if len(batch.groups) == 1:
                now[batch.number] += batch.count
            else:
                now.update(turns.positions(batch, jnp.int32(step)).tolist())
        assert sum(now.values()) == total
        assert max(now[g] for g in range(groups)) <= total // groups + 1
        seen += now
    assert set(seen.values()) == {total} and len(seen) == groups


# ---- FREE ------------------------------------------------------------------------


OPTIONS = FreeOptions(
    images_per_class=PER_CLASS, warmup_steps=0, outer_optimizer=optax.sgd(0.1)
)
ALIGN = AlignOptions(scale=1.0, optimizer=optax.sgd(0.1))


def free(per_step=4, **change):
    return algorithms.free(
        tuple(toy.quick_inverter(group + 1) for group in range(GROUPS)),
        (toy.LINEAR,) * GROUPS,
        LEARNER,
        toy.LINEAR,
        toy.no_replay,
        optax.sgd(0.5),
        num_classes=CLASSES,
        options=OPTIONS._replace(teachers_per_step=per_step),
        memory=MemoryOptions(50),
        align=ALIGN,
        **change,
    )


def start(algorithm):
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    zeros = toy.zeros_like(state)
    params = toy.random_like(state.params, scale=0.4)
    return zeros._replace(params=params)


@jax.jit
def distill(params, view_key, images, variables):
    views = augment.crop_flip(view_key, images)
    said = toy.LINEAR.apply(variables, views)
    return jax.value_and_grad(lambda p: kl(batch_apply(toy.LINEAR, p, views), said))(
        params
    )


def free_by_hand(key, state, data, number):
    """One step with four teachers for five groups, every teacher by itself."""
    key_draw, key_invert, key_learn = jax.random.split(key, 3)
    key_views, key_order, _ = jax.random.split(key_learn, 3)
    groups = [(4 * number + j) % GROUPS for j in range(4)]
    sizes = jnp.asarray([SIZES[group] for group in groups])
    draw_key = jax.random.fold_in(key_draw, GROUPS)
    rows = jax.random.randint(draw_key, (4,), 0, sizes).tolist()
    teachers = [
        zoo.take(data[group], row) for group, row in zip(groups, rows, strict=True)
    ]
    keys = jax.random.split(jax.random.fold_in(key_invert, GROUPS), 4)
    view_keys = jax.random.split(jax.random.fold_in(key_views, GROUPS), 4)
    found = [
        toy.quick_inverter(group + 1).invert(k, state.generator, teacher, LABELS)
        for group, k, teacher in zip(groups, keys, teachers, strict=True)
    ]
    grads = jax.tree.map(lambda *x: sum(x), *[result[2] for result in found])
    generator = jax.tree.map(lambda p, g: p - 0.1 * g, state.generator, grads)
    memory = state.memory
    for recovered, _, _ in found:
        memory = banks.add(memory, recovered)
    fast, losses = state.params, []
    for i in jax.random.permutation(key_order, 4).tolist():
        loss, grads = distill(
            fast, view_keys[i], found[i][0].images, teachers[i].variables
        )
        fast = jax.tree.map(lambda p, g: p - 0.1 * g, fast, grads)
        losses.append(float(loss))
    params = jax.tree.map(lambda p, f: p - 0.5 * (p - f), state.params, fast)
    return groups, generator, memory, params, np.mean(losses)


@pytest.mark.slow
def test_free_inverts_teachers_of_all_groups_as_a_loop_does():
    algorithm, data = free(), five_groups()
    step = toy.compiled_once(algorithm)
    state = start(algorithm)._replace(generator={"w": jnp.ones(3)})
    seen = Counter()
    for number in range(GROUPS):
        key = jax.random.key(number)
        groups, generator, memory, params, loss = free_by_hand(key, state, data, number)
        before, (state, info) = state, step(key, state, data)
        toy.assert_close(state.generator, generator, rtol=1e-4)
        np.testing.assert_array_equal(state.memory.counts, memory.counts)
        gap = state.memory.images.astype(int) - memory.images.astype(int)
        assert jnp.abs(gap).max() <= 1
        toy.assert_close(state.params, params, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(info.distill_loss, loss, rtol=1e-3)
        assert bool(info.is_finite)
        # Whose classes grew is who was inverted.
        grown = (state.memory.counts - before.memory.counts).reshape(GROUPS, 3)
        assert set(np.flatnonzero(grown.sum(1))) == set(groups)
        seen.update(np.flatnonzero(grown.sum(1)).tolist())
    assert set(seen.values()) == {4} and len(seen) == GROUPS


def test_free_with_shares_and_places_that_go_round():
    """Seven teachers: one of every group, and two that go round."""
    algorithm = free(7)
    before = start(algorithm)._replace(step=jnp.int32(2))
    state, info = algorithm.compiled()(jax.random.key(0), before, five_groups())
    counts = state.memory.counts.reshape(GROUPS, 3).sum(1)
    assert bool(info.is_finite)
    # Step 2: places 4 and 5, groups 4 and 0.
    assert (counts // len(LABELS)).tolist() == [2, 1, 1, 1, 2]


def test_groups_of_other_architectures_take_turns():
    """A real meta-generator draws the student's size, whatever the teacher's."""
    large = toy.tiny((20, 24, 3), width=6)
    archs = (toy.TINY, large)
    algorithm = algorithms.free(
        tuple(
            inversion.meta_generator(
                toy.GENERATOR,
                arch,
                inner_optimizer=optax.sgd(0.05),
                student=toy.LINEAR,
                num_steps=2,
                latent_dim=toy.LATENT,
            )
            for arch in archs
        ),
        archs,
        LEARNER,
        toy.LINEAR,
        toy.no_replay,
        optax.sgd(0.5),
        num_classes=toy.CLASSES,
        options=OPTIONS._replace(teachers_per_step=3, warmup_steps=20),
        align=ALIGN,
    )
    data = (toy.random_teachers(toy.TINY, 3), toy.random_teachers(large, 2))
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    state = start(algorithm)
    with pytest.raises(ValueError, match="many programs"):
        jax.eval_shape(algorithm.step, jax.random.key(0), state, data)
    with unittest.mock.patch("free_jax.algorithm.Programs", Shapes):
        after, _ = algorithm.compiled()(jax.random.key(0), state, data)
    assert jax.tree.structure(after) == jax.tree.structure(state)


class Shapes:
    """Programs that are traced and not run."""

    def __init__(self, parts, donate, jit):
        self.parts = parts

    def __call__(self, fn, *fixed, donate=()):
        bound = functools.partial(fn, self.parts, *fixed)
        return functools.partial(jax.eval_shape, bound)


# ---- PURER -----------------------------------------------------------------------


def purer(per_step, weighting="uniform"):
    zero = EpisodeInfo(jnp.zeros(()), jnp.zeros(()))
    return algorithms.purer(
        inversion.normalized_source(toy.SHAPE, (0.5,) * 3, (1.0,) * 3),
        tuple(toy.quick_gradient(group + 1) for group in range(GROUPS)),
        LEARNER._replace(loss=lambda params, episode: (zero.loss, zero)),
        lambda key, params, opt, bank: (params, opt, zero),
        functools.partial(sample_episode, way=3, shots=1, queries=1),
        pixels_optimizer=optax.sgd(1.0),
        optimizer=optax.sgd(1.0),
        num_classes=CLASSES,
        options=PurerOptions(PER_CLASS, per_step, weighting),
    )


def purer_by_hand(key, pixels, data, number, per_step, weighting):
    """The step's teachers and the pixels after it; colours are not scaled."""
    key_judge, _, _ = jax.random.split(key, 3)
    images = 0.5 + pixels
    tasks = []  # (key, group, row), every group's share first
    share, left = per_step // GROUPS, per_step % GROUPS
    shares = [min(share, size) for size in SIZES]
    room = [g for g in range(GROUPS) if shares[g] < SIZES[g]]
    orders = []
    for group, count in enumerate(shares):
        key_draw, key_each = jax.random.split(jax.random.fold_in(key_judge, group))
        order = jax.random.permutation(key_draw, SIZES[group]).tolist()
        orders.append(order)
        rows = order[:count] if count < SIZES[group] else range(count)
        keys = jax.random.split(key_each, count) if count else []
        tasks += [(k, group, row) for k, row in zip(keys, rows, strict=True)]
    left = min(left, len(room))
    keys = jax.random.split(jax.random.fold_in(key_judge, GROUPS), left)
    for j, k in enumerate(keys):
        group = room[(number * left + j) % len(room)]
        tasks.append((k, group, orders[group][shares[group]]))
    gradient, losses = np.zeros(images.shape), []
    for i, (task_key, group, row) in enumerate(tasks):
        teacher = zoo.take(data[group], row)
        ids = np.asarray(teacher.class_ids)
        loss, _, grads = toy.quick_gradient(group + 1)(
            task_key, images[ids], None, teacher, None
        )
        weight = len(tasks) - i if weighting == "prefix" else 1
        gradient[ids] += weight * np.asarray(grads)
        losses.append(float(loss))
    taken = [(group, row) for _, group, row in tasks]
    assert len(set(taken)) == len(taken)  # Without replacement.
    return Counter(group for group, _ in taken), pixels - gradient, np.mean(losses)


@pytest.mark.parametrize(
    ("per_step", "weighting"), [(4, "uniform"), (4, "prefix"), (8, "prefix")]
)
def test_purer_asks_teachers_of_all_groups_as_a_loop_does(per_step, weighting):
    algorithm, data = purer(per_step, weighting=weighting), five_groups()
    step = toy.compiled_once(algorithm)
    state = start(algorithm)
    state = state._replace(pixels=toy.random_like(state.pixels))
    seen = Counter()
    for number in range(GROUPS):
        key = jax.random.key(number)
        groups, pixels, loss = purer_by_hand(
            key, state.pixels, data, number, per_step, weighting
        )
        # Which classes' images move is whom they were shown to.
        before, (state, info) = state, step(key, state, data)
        np.testing.assert_allclose(state.pixels, pixels, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(info.inversion_loss, loss, rtol=1e-4)
        moved = jnp.abs(state.pixels - before.pixels).reshape(GROUPS, -1).max(1)
        assert set(np.flatnonzero(moved)) == set(groups)
        seen += groups
        state = state._replace(pixels=before.pixels)  # Fakes make them grow.
    if per_step == 4:
        assert set(seen.values()) == {4} and len(seen) == GROUPS
    else:  # One of each, and three places for the four groups that hold more.
        assert set(seen) == set(range(GROUPS)) and seen[1] == GROUPS


# ---- a mesh ----------------------------------------------------------------------


@pytest.mark.slow
def test_turns_on_a_mesh_are_those_of_one_device():
    devices = jax.devices()[:4]
    if len(devices) < 4:
        pytest.skip("needs four devices")
    mesh = make_mesh({"task": 4}, devices)
    data = five_groups()
    state = start(free())._replace(generator={"w": jnp.ones(3)}, step=jnp.int32(1))
    alone, _ = free().compiled()(jax.random.key(0), state, data)
    for local in ("vmap", "map"):
        spread = functools.partial(map_tasks, mesh=mesh, local=local)
        algorithm = free(map_tasks=spread)
        found, _ = algorithm.compiled()(jax.random.key(0), state, data)
        np.testing.assert_array_equal(found.memory.counts, alone.memory.counts)
        toy.assert_close(found.params, alone.params, rtol=1e-3, atol=1e-5)
        toy.assert_close(found.generator, alone.generator)
