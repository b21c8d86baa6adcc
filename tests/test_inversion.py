"""FIVE against a Python loop, its gradients, and whether it recovers anything."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from free_jax import models, zoo
from free_jax.fewshot.episodes import balanced_labels
from free_jax.inversion import (
    Adversary,
    Objective,
    dead_leaves,
    meta_generator,
    pixel_source,
)
from free_jax.parallel import map_tasks

K, N = 3, 2
LABELS = balanced_labels(toy.WAY, N)
OBJECTIVE = Objective(moments=0.5, adversarial=0.7, total_variation=0.3, crop_padding=2)
# Plain momentum: Adam turns rounding of near-zero gradients into whole steps.  The
# rate overshoots, so that the best images are not always the last ones.
OPTIMIZER = optax.sgd(3.0, momentum=0.5)
build = functools.partial(
    meta_generator,
    toy.GENERATOR,
    toy.TINY,
    inner_optimizer=OPTIMIZER,
    objective=OBJECTIVE,
    num_steps=K,
    latent_dim=toy.LATENT,
)


def generator_params(generator=toy.GENERATOR, seed=0):
    shapes = jax.eval_shape(
        generator.init,
        jax.random.key(0),
        jnp.zeros((2, toy.LATENT)),
        jnp.zeros((2,), jnp.int32),
    )
    return toy.random_like(shapes["params"], seed, scale=0.5)


def student_params():
    shapes = jax.eval_shape(toy.TINY.init, jax.random.key(0))["params"]
    return toy.random_like(shapes, 5, scale=0.4)


@pytest.fixture(scope="module")
def teachers():
    return toy.random_teachers(toy.TINY)


@pytest.fixture(scope="module")
def step():
    """One jitted evaluation of the reference loss, shared by the tests here."""

    def loss(fast, key, variables):
        return toy.inversion_loss(
            fast,
            key,
            variables,
            LABELS,
            student_params(),
            network=toy.TINY,
            objective=OBJECTIVE,
            student=toy.TINY,
        )

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.fixture(scope="module")
def loops(teachers, step):
    """The reference: a loop over teachers of a loop over steps."""
    keys = jax.random.split(jax.random.key(1), 3)
    return keys, [
        toy.loop_invert(
            keys[i],
            generator_params(),
            jax.tree.map(lambda x, i=i: x[i], teachers.variables),
            LABELS,
            step,
            OPTIMIZER,
            K,
        )
        for i in range(3)
    ]


def test_pixels_may_start_from_scenes():
    shape, labels = (8, 8, 3), jnp.arange(4)
    source = pixel_source(shape, 0.0, "dead_leaves")
    start = jax.jit(lambda key: source.start(key, (), labels))
    images = source.render(start(jax.random.key(0)), labels)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), 1), 4)
    draw = jax.jit(lambda key: dead_leaves.draw(key, shape))
    drawn = jnp.stack([draw(key) for key in keys])
    np.testing.assert_allclose(images, jnp.clip(drawn, 0.05, 0.95), atol=1e-5)


def test_one_teacher_is_a_python_loop(teachers, loops):
    keys, (loop, *_) = loops
    invert = jax.jit(build(student=toy.TINY).invert)
    recovered, info, gradient = invert(
        keys[0],
        generator_params(),
        zoo.take(teachers, 0),
        LABELS,
        Adversary(student_params()),
    )
    np.testing.assert_allclose(info.loss, loop.losses, rtol=1e-4)
    np.testing.assert_allclose(recovered.images, loop.images[-1], rtol=1e-4, atol=1e-5)
    # The meta-gradient is the gradient at the last iterate, not yet stepped.
    toy.assert_close(gradient, loop.grads[-1], rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(recovered.labels, LABELS)
    np.testing.assert_array_equal(recovered.class_ids, teachers.class_ids[0])
    assert bool(info.is_finite)
    logits = jax.jit(toy.TINY.apply)(zoo.take(teachers, 0).variables, recovered.images)
    np.testing.assert_allclose(
        info.teacher_accuracy, (np.asarray(logits).argmax(1) == LABELS).mean()
    )


@pytest.mark.parametrize("local", ["map", pytest.param("vmap", marks=pytest.mark.slow)])
def test_many_teachers_are_a_loop_and_options_pick_from_it(teachers, loops, local):
    keys, expected = loops
    generator = build(student=toy.TINY, meta_gradient="sum", keep="best")

    def one(params, task):
        key, teacher = task
        return generator.invert(
            key, params, teacher, LABELS, Adversary(student_params())
        )

    run = jax.jit(map_tasks(one, local=local))
    recovered, info, gradient = run(generator_params(), (keys, teachers))
    for i, loop in enumerate(expected):
        np.testing.assert_allclose(info.loss[i], loop.losses, rtol=1e-4)
        total = jax.tree.map(lambda *g: sum(g), *loop.grads)
        mine = jax.tree.map(lambda x, i=i: x[i], gradient)
        toy.assert_close(mine, total, rtol=1e-3, atol=1e-5)
        best = loop.images[int(np.argmin(loop.losses))]
        np.testing.assert_allclose(recovered.images[i], best, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(recovered.class_ids, teachers.class_ids)
    # Not vacuous: some teacher's best images are not its last.
    assert {int(np.argmin(loop.losses)) for loop in expected} != {K - 1}


def test_meta_gradient_is_the_finite_difference_at_the_last_iterate(teachers):
    """In float64, with the library's own loss history as the function."""
    with jax.enable_x64(True):
        params, teacher = toy.double((generator_params(), zoo.take(teachers, 1)))
        generator = build(student=toy.TINY, num_steps=1)
        student = toy.double(student_params())
        invert = jax.jit(
            lambda p: generator.invert(
                jax.random.key(2), p, teacher, LABELS, Adversary(student)
            )
        )
        _, _, gradient = invert(params)

        def value(p):
            return invert(p)[1].loss[0]

        for seed in range(3):
            direction = toy.random_like(params, seed)
            expected = toy.central_difference(value, params, direction, 1e-7)
            np.testing.assert_allclose(
                toy.dot(gradient, direction), expected, rtol=1e-5, atol=1e-8
            )


@pytest.mark.slow
def test_teachers_of_another_size_conditional_generators_and_the_adversary():
    large = toy.tiny((20, 24, 3))
    teacher = zoo.take(toy.random_teachers(large, 1), 0)
    net = models.Generator(image_shape=toy.SHAPE, width=4, num_classes=toy.WAY)
    generator = meta_generator(
        net,
        large,
        inner_optimizer=optax.adam(1e-2),
        student=large,
        num_steps=2,
        latent_dim=toy.LATENT,
    )
    params = generator_params(net)
    # A student much like the teacher: they agree, so that the term is not masked.
    student = jax.tree.map(lambda x: 1.1 * x, teacher.variables["params"])
    invert = jax.jit(
        lambda weight: generator.invert(
            jax.random.key(0), params, teacher, LABELS, Adversary(student, weight)
        )
    )
    recovered, info, gradient = invert(1.0)
    assert recovered.images.shape == (toy.WAY * N, *toy.SHAPE)
    assert recovered.images.min() >= 0 and recovered.images.max() <= 1
    assert info.loss.shape == info.cross_entropy.shape == (2,)
    assert jax.tree.structure(gradient) == jax.tree.structure(params)
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(gradient))
    # Disagreement lowers the loss; a weight of zero leaves cross-entropy and moments.
    off = invert(0.0)[1]
    assert off.loss[0] > info.loss[0]
    np.testing.assert_allclose(off.cross_entropy[0], info.cross_entropy[0], rtol=1e-5)


def test_init_makes_the_generators_parameters(key):
    shapes = jax.eval_shape(build().init, key)
    assert jax.tree.map(jnp.shape, generator_params()) == jax.tree.map(
        lambda x: x.shape, shapes
    )


@pytest.mark.slow
def test_inversion_recovers_what_teachers_know_and_a_no_op_does_not():
    teachers = toy.trained_teachers()
    labels = balanced_labels(toy.WAY, 6)
    params = generator_params()

    # Many steps of a small program: what optimisation takes, it gives back manyfold.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 1})
    def run(rate):  # One program for both: at rate zero the generator stays put.
        generator = meta_generator(
            toy.GENERATOR,
            toy.TINY,
            inner_optimizer=optax.adam(rate, b1=0.5),
            objective=Objective(moments=0.1),
            num_steps=250,
            latent_dim=toy.LATENT,
        )

        def one(params, task):
            return generator.invert(*task[:1], params, task[1], labels)[1]

        keys = jax.random.split(jax.random.key(0), 3)
        return map_tasks(one)(params, (keys, teachers))

    idle, adapted = run(0.0), run(5e-2)
    assert adapted.teacher_accuracy.mean() > 0.9, adapted
    assert idle.teacher_accuracy.mean() < 0.6, idle.teacher_accuracy
    assert adapted.cross_entropy[:, -10:].mean() < idle.cross_entropy.mean() / 2


def test_meaningless_settings_are_refused():
    with pytest.raises(ValueError, match="num_steps=0"):
        build(num_steps=0)
    conditional = models.Generator(image_shape=toy.SHAPE, num_classes=4)
    with pytest.raises(ValueError, match="4 labels but teachers are 3-way"):
        meta_generator(conditional, toy.TINY, inner_optimizer=OPTIMIZER)
