"""FREE against a loop, its parts alone, and replay."""

import dataclasses
import functools
import inspect
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from free_jax import algorithm as algorithm_lib
from free_jax import algorithms, augment, zoo
from free_jax.algorithms.bell import AlignOptions
from free_jax.algorithms.free import FreeOptions
from free_jax.fewshot import banks, replay
from free_jax.fewshot.banks import MemoryOptions
from free_jax.fewshot.episodes import balanced_labels, sample_episode
from free_jax.fewshot.learners import batch_apply, maml, protonet
from free_jax.fewshot.replay import ReplayInfo
from free_jax.inversion import Adversary, Objective, meta_generator
from free_jax.objectives import kl
from free_jax.types import ImageBank

PER_CLASS, CAPACITY, T, WARMUP = 2, 8, 2, 1
OPTIMIZER = optax.sgd(0.05, momentum=0.9)
ALIGN = optax.sgd(0.1)
OPTIONS = FreeOptions(
    teachers_per_step=T, images_per_class=PER_CLASS, warmup_steps=WARMUP
)
FOUR_WAY = dataclasses.replace(toy.TINY, num_classes=4)
LARGE = toy.tiny((20, 24, 3), width=6)


def build_generator(arch, **kwargs):
    return meta_generator(
        toy.LINEAR_GENERATOR,
        arch,
        inner_optimizer=optax.sgd(0.05),
        objective=Objective(moments=0.5, crop_padding=2),
        student=toy.TINY,
        num_steps=2,
        latent_dim=toy.LATENT,
        **kwargs,
    )


def stub_replay(key, params, opt_state, bank):
    """No episodes: what the rest of the step does stands alone."""
    zero = jnp.zeros(())
    return params, opt_state, ReplayInfo(zero, zero, jnp.int32(0))


@functools.cache
def real_replay():
    update = replay.episodic_update(
        maml(toy.TINY, num_steps=1, inner_lr=0.1),
        OPTIMIZER,
        way=toy.WAY,
        shots=1,
        queries=1,
        episodes_per_update=2,
    )
    return replay.replay(update, patience=2, max_updates=3)


class Case(NamedTuple):
    algorithm: algorithm_lib.Algorithm
    data: tuple


@functools.cache
def homogeneous():
    algorithm = algorithms.free(
        (build_generator(toy.TINY),),
        (toy.TINY,),
        maml(toy.TINY, num_steps=1, inner_lr=0.1),
        toy.TINY,
        real_replay(),
        OPTIMIZER,
        num_classes=toy.CLASSES,
        options=OPTIONS._replace(outer_optimizer=optax.adam(1e-2)),
        memory=MemoryOptions(CAPACITY),
        align=AlignOptions(hard_label_weight=0.5, scale=3.0, optimizer=ALIGN),
    )
    return Case(algorithm, (toy.random_teachers(toy.TINY, 4),))


@functools.cache
def heterogeneous():
    """Two architectures of two image sizes, and the released code's switches."""
    archs = (toy.TINY, LARGE)
    algorithm = algorithms.free(
        tuple(build_generator(arch) for arch in archs),
        archs,
        protonet(toy.TINY),
        toy.TINY,
        stub_replay,
        OPTIMIZER,
        num_classes=toy.CLASSES,
        options=OPTIONS._replace(
            teachers_per_step=4,
            outer_optimizer=optax.adam(1e-3),
            outer_state="fresh",
        ),
        memory=MemoryOptions(CAPACITY, "last"),
        align=AlignOptions(distill="prob_dot", optimizer=ALIGN),
        augment_per_image=False,
    )
    teachers = (toy.random_teachers(toy.TINY, 3), toy.random_teachers(LARGE, 2, seed=1))
    return Case(algorithm, teachers)


@functools.cache
def episodic():
    learner = maml(toy.TINY, num_steps=1, inner_lr=0.1)
    update = replay.episodic_update(
        learner, OPTIMIZER, way=toy.WAY, shots=1, queries=2, episodes_per_update=2
    )
    algorithm = algorithms.episodic(learner, update, OPTIMIZER)
    return Case(algorithm, toy.bank(per_class=5))


def start(case, seed=0):
    """A state without compiling `init`, whose random numbers are slow to compile."""
    state = jax.eval_shape(case.algorithm.init, jax.random.key(0))
    filled = {}
    for name in ("generator", "params"):
        if hasattr(state, name):
            filled[name] = toy.random_like(getattr(state, name), seed, scale=0.4)
    zeros = toy.zeros_like(state)
    return zeros._replace(**filled)


@functools.cache
def stepper(build):
    """The step, which may be traced once in the whole module."""
    case = build()
    return toy.compiled_once(case.algorithm)


@pytest.mark.slow
def test_warm_up_trains_the_generator_only():
    case = homogeneous()
    before = start(case)
    state, info = stepper(homogeneous)(jax.random.key(0), before, case.data)
    toy.assert_equal(state.params, before.params)
    toy.assert_equal(state.opt, before.opt)
    toy.assert_equal(state.memory, before.memory)
    assert info.replay_updates == info.distill_loss == 0
    moved = jax.tree.map(
        lambda a, b: float(jnp.abs(a - b).max()), state.generator, before.generator
    )
    assert min(jax.tree.leaves(moved)) > 0
    assert int(state.generator_opt[0].count) == 1


def test_a_step_is_a_python_loop():
    """Every teacher, image and update by hand, from the documented key splits."""
    case = homogeneous()
    (group,) = case.data
    state = start(case)._replace(step=jnp.int32(WARMUP))
    key = jax.random.key(5)
    found, info = stepper(homogeneous)(key, state, case.data)

    labels = balanced_labels(toy.WAY, PER_CLASS)
    key_draw, key_invert, key_learn = jax.random.split(key, 3)
    draw = jax.random.randint(jax.random.fold_in(key_draw, 0), (T,), 0, 4)
    take = jax.jit(zoo.take)
    teachers = [take(group, int(i)) for i in draw]
    invert = jax.jit(build_generator(toy.TINY).invert)
    keys = jax.random.split(jax.random.fold_in(key_invert, 0), T)
    adversary = Adversary(state.params, jnp.float32(1.0))
    results = [
        invert(k, state.generator, teacher, labels, adversary)
        for k, teacher in zip(keys, teachers, strict=True)
    ]
    # The generator's outer step on the sum of gradients.
    total = jax.tree.map(lambda *g: sum(g), *(toy.host(r[2]) for r in results))
    generator, _ = toy.updated(
        optax.adam(1e-2), total, state.generator_opt, state.generator
    )
    toy.assert_close(found.generator, generator, rtol=1e-3)
    # The memory holds both teachers' images.
    bank, add = state.memory, jax.jit(banks.add)
    for recovered, _, _ in results:
        bank = add(bank, recovered)
    np.testing.assert_array_equal(found.memory.counts, bank.counts)
    gap = np.asarray(found.memory.images, int) - np.asarray(bank.images, int)
    assert np.abs(gap).max() <= 1  # Rounding down is not continuous.
    # BELL: one inner step a teacher, on its own views, in shuffled order.
    key_views, key_order, key_replay = jax.random.split(key_learn, 3)

    @jax.jit
    def distill(params, view_key, images, teacher):
        views = augment.crop_flip(view_key, images)
        said = toy.TINY.apply(teacher.variables, views)

        def loss(params):
            logits = batch_apply(toy.TINY, params, views)
            hard = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return kl(logits, said) + 0.5 * hard.mean()

        return jax.value_and_grad(loss)(params)

    view_keys = jax.random.split(jax.random.fold_in(key_views, 0), T)
    before = toy.host(state.params)
    fast, losses = before, []
    for i in jax.random.permutation(key_order, T).tolist():
        loss, grads = distill(fast, view_keys[i], results[i][0].images, teachers[i])
        fast = jax.tree.map(lambda p, g: p - 0.1 * g, fast, toy.host(grads))
        losses.append(float(loss))
    direction = jax.tree.map(lambda p, f: 3.0 * (p - f), before, fast)
    params, opt = toy.updated(OPTIMIZER, direction, state.opt, state.params)
    np.testing.assert_allclose(info.distill_loss, np.mean(losses), rtol=1e-3)
    # Replay on what the step's own memory holds.
    params, opt, replayed = jax.jit(real_replay())(
        key_replay, params, opt, found.memory
    )
    toy.assert_close(found.params, params, rtol=1e-2, atol=1e-4)
    assert int(info.replay_updates) == int(replayed.num_updates)
    np.testing.assert_allclose(info.replay_loss, replayed.loss, rtol=1e-2)
    np.testing.assert_allclose(
        info.inversion_loss, np.mean([r[1].loss[-1] for r in results]), rtol=1e-3
    )


@functools.cache
def scanned():
    """Three steps of the mixed zoo as one program, with every state on the way."""
    case = heterogeneous()

    def body(state, step_key):
        state, info = case.algorithm.step(step_key, state, case.data)
        return state, (state, info)

    keys = jax.random.split(jax.random.key(0), 3)
    before = start(case)
    _, (states, infos) = jax.jit(functools.partial(jax.lax.scan, body))(before, keys)
    return before, states, infos


@pytest.mark.slow
def test_mixed_zoo_scans_and_learns_from_all_groups():
    before, states, infos = scanned()
    assert bool(infos.is_finite.all())
    assert states.step.tolist() == [1, 2, 3]
    assert infos.distill_loss[0] == 0 and (infos.distill_loss[1:] != 0).all()
    first = jax.tree.map(lambda x: x[0], states)
    toy.assert_equal(first.params, before.params)
    last = jax.tree.map(lambda x: x[-1], states)
    assert any(
        float(jnp.abs(a - b).max()) > 0
        for a, b in zip(
            jax.tree.leaves(last.params), jax.tree.leaves(before.params), strict=True
        )
    )


@pytest.mark.slow
def test_last_stores_one_teacher_a_step():
    _, states, _ = scanned()
    counts = np.asarray(states.memory.counts)
    assert counts[0].sum() == 0
    assert counts[1].sum() == PER_CLASS * toy.WAY
    ids = np.asarray(heterogeneous().data[1].class_ids)  # Of the last group.
    assert any(set(np.flatnonzero(counts[1])) == set(row) for row in ids)
    assert counts[2].sum() == 2 * PER_CLASS * toy.WAY


@pytest.mark.slow
def test_a_fresh_adam_makes_sign_steps():
    """After the first step a persistent Adam would not move by exactly its rate."""
    before, states, _ = scanned()
    path = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), before, states)
    for leaf in jax.tree.leaves(path.generator):
        moves = np.abs(np.diff(np.float64(leaf), axis=0))
        # A gradient that is not far above Adam's epsilon moves less.
        assert np.mean(np.abs(moves - 1e-3) < 1e-6) > 0.9
        assert moves.max() < 1.001e-3


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"inverters": ()}, "1 groups"),
        ({"memory": MemoryOptions(8, "first")}, "choose one of all, last"),
        ({"options": FreeOptions(outer_state="new")}, "one of persistent, fresh"),
        ({"options": FreeOptions(outer_optimizer={"name": "x"})}, "no function"),
        ({"options": FreeOptions(teachers_per_step=0)}, "at least 1"),
        ({"options": FreeOptions(teachers_per_step=(1,))}, "a whole number"),
        ({"options": FreeOptions(warmup_steps=-1)}, "not be negative"),
        ({"options": FreeOptions(images_per_class=9)}, r"exceeds memory.per_class=8"),
        ({"align": AlignOptions(distill="l1")}, "choose one of kl, prob_dot"),
        ({"networks": (FOUR_WAY,)}, "4-way but the meta-model is 3-way"),
    ],
)
def test_contradictions_are_refused(change, match):
    kwargs = {
        "inverters": (build_generator(toy.TINY),),
        "networks": (toy.TINY,),
        "learner": maml(toy.TINY),
        "student": toy.TINY,
        "replay": stub_replay,
        "optimizer": OPTIMIZER,
        "num_classes": toy.CLASSES,
        "options": OPTIONS,
        "memory": MemoryOptions(8),
    }
    # Without the tests' own check of annotations, which would come first.
    factory = inspect.unwrap(algorithms.free)
    with pytest.raises(ValueError, match=match):
        factory(**{**kwargs, **change})


# ---- replay ----------------------------------------------------------------------


class FakeInfo(NamedTuple):
    loss: jax.Array
    accuracy: jax.Array


def transcript(accuracies, patience, max_updates):
    """How many updates a patient loop makes on a given accuracy curve."""
    best, since, count = -1.0, 0, 0
    while count < max_updates and since < patience:
        since = 0 if accuracies[count] > best else since + 1
        best = max(best, accuracies[count])
        count += 1
    return count


@pytest.mark.parametrize("patience", [1, 3])
def test_patience_follows_a_transcript(patience):
    table = jnp.asarray(
        np.random.default_rng(3).integers(0, 8, size=(12, 40)) / 8, jnp.float32
    )

    def update(key, params, opt_state, bank):
        info = FakeInfo(params + 0.5, bank.images[params.astype(jnp.int32)])
        return params + 1, opt_state + 1, info

    run = jax.jit(replay.replay(update, patience=patience, max_updates=9))
    counts = set()
    for row in table:
        curve = ImageBank(row, row, row)  # The update reads its accuracy from it.
        params, opt_state, info = run(jax.random.key(0), jnp.zeros(()), 0, curve)
        count = transcript(row.tolist(), patience, 9)
        assert int(info.num_updates) == count == int(params) == int(opt_state)
        np.testing.assert_allclose(info.accuracy, row[:count].mean(), rtol=1e-5)
        np.testing.assert_allclose(info.loss, count / 2, rtol=1e-5)
        counts.add(count)
    assert len(counts) > 1


def test_every_update_has_its_own_key():
    def update(key, params, opt_state, bank):
        draw = jax.random.uniform(key)
        params = params.at[opt_state].set(draw)
        return params, opt_state + 1, FakeInfo(draw, opt_state.astype(jnp.float32))

    run = jax.jit(replay.replay(update, patience=1, max_updates=6))
    bank = ImageBank(*[jnp.zeros(())] * 3)
    params, _, info = run(jax.random.key(0), jnp.zeros(6), 0, bank)
    assert int(info.num_updates) == 6
    assert len(set(params.tolist())) == 6


@pytest.mark.parametrize("kwargs", [(0, 1), (1, 0)])
def test_bounds_below_one_are_refused(kwargs):
    with pytest.raises(ValueError, match="at least 1"):
        replay.replay(lambda *a: a, patience=kwargs[0], max_updates=kwargs[1])


def test_episodic_update_sums_over_episodes():
    case = episodic()
    state = start(case)
    key = jax.random.key(2)
    found, _ = stepper(episodic)(key, state, case.data)
    learner = maml(toy.TINY, num_steps=1, inner_lr=0.1)

    @jax.jit
    def one(key):
        key_episode, *_ = jax.random.split(key, 3)
        episode = sample_episode(
            key_episode, case.data, way=toy.WAY, shots=1, queries=2
        )
        return jax.grad(lambda p: learner.loss(p, episode)[0])(state.params)

    grads = [toy.host(one(k)) for k in jax.random.split(key, 2)]
    total = jax.tree.map(lambda a, b: a + b, *grads)
    params, _ = toy.updated(OPTIMIZER, total, state.opt, state.params)
    toy.assert_close(found.params, params, rtol=1e-3)


def test_replayed_learning_beats_chance():
    """A memory of noisy patterns: after replay, new draws are told apart."""
    learner = maml(toy.TINY, num_steps=1, inner_lr=0.1)
    optimizer = optax.adam(1e-2)
    update = replay.episodic_update(
        learner, optimizer, way=toy.WAY, shots=1, queries=3, episodes_per_update=4
    )
    bank = toy.bank(per_class=10, noise=0.2)
    run = jax.jit(replay.replay(update, patience=1000, max_updates=60))
    params = start(episodic()).params
    state = optimizer.init(params)
    accuracy = []
    for i in range(3):
        params, state, info = run(jax.random.key(i), params, state, bank)
        accuracy.append(float(info.accuracy))
    assert accuracy[-1] > max(0.6, accuracy[0]), accuracy
