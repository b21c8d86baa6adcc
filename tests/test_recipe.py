"""One record of an inversion makes what the direct constructors make, to the bit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from free_jax import inversion, models
from free_jax.inversion import GeneratorOptions, Objective, Recipe, answers
from free_jax.inversion.pixels import PIXELS
from free_jax.options import adam

LABELS = jnp.arange(6) % toy.WAY
PLAIN = Objective(adversarial=0.0)
RATES = {"generator": 3e-3, "latents": 1e-2}


def inverted(inverter, network=toy.ARCH, adversary=None):
    """What one teacher's inversion gives, compiled."""
    teacher = jax.tree.map(lambda x: x[0], toy.random_teachers(network))
    shared = jax.jit(inverter.init)(jax.random.key(1))
    return jax.jit(inverter.invert)(
        jax.random.key(2), shared, teacher, LABELS, adversary
    )


def generator_of(shape, labels="concat", width=8):
    return models.Generator(
        image_shape=shape,
        width=width,
        num_classes=0 if labels == "none" else toy.WAY,
        label_input="split" if labels == "split" else "concat",
    )


def inner(b1=0.5):
    return optax.multi_transform(
        {name: optax.adam(rate, b1=b1) for name, rate in RATES.items()},
        {name: name for name in RATES},
    )


def generator_recipe(labels="concat", **changes):
    return Recipe(
        source="generator",
        decay="none",
        optimizer=adam(RATES["latents"], b1=0.5),
        generator=GeneratorOptions(
            width=8,
            latent_dim=16,
            labels=labels,
            optimizer=adam(RATES["generator"], b1=0.5),
        ),
    )._replace(**changes)


@pytest.mark.parametrize(
    "init", ["noise", pytest.param("dead_leaves", marks=pytest.mark.slow)]
)
def test_pixels(init):
    recipe = Recipe(init=init, num_steps=3, optimizer=adam(0.05))
    direct = inversion.pixel_inverter(
        toy.ARCH, num_steps=3, learning_rate=0.05, init=init, objective=PIXELS
    )
    toy.assert_equal(inverted(inversion.build(recipe, toy.ARCH)), inverted(direct))


@pytest.mark.slow
def test_an_adversary_is_the_student_given():
    objective = Objective(adversarial=2.0)
    params = jax.jit(toy.ARCH.init)(jax.random.key(5))["params"]
    adversary = inversion.Adversary(params, 1.0)
    direct = inversion.pixel_inverter(
        toy.ARCH, num_steps=2, objective=objective, student=toy.ARCH
    )
    built = inversion.build(
        Recipe(num_steps=2, objective=objective), toy.ARCH, toy.ARCH
    )
    toy.assert_equal(
        inverted(built, adversary=adversary), inverted(direct, adversary=adversary)
    )


@pytest.mark.parametrize(
    ("labels", "meta_gradient", "keep"),
    [
        ("concat", "last", "last"),
        pytest.param("none", "sum", "best", marks=pytest.mark.slow),
        pytest.param("split", "last", "last", marks=pytest.mark.slow),
    ],
)
def test_a_generator(labels, meta_gradient, keep):
    """FREE's: images of the student's size, for teachers of any."""
    how = {"meta_gradient": meta_gradient, "keep": keep, "objective": PLAIN}
    direct = inversion.meta_generator(
        generator_of(toy.SHAPE, labels),
        toy.WIDE,
        inner_optimizer=inner(),
        num_steps=2,
        latent_dim=16,
        **how,
    )
    recipe = generator_recipe(labels, num_steps=2, **how)
    built = inversion.build(recipe, toy.WIDE, image_shape=toy.SHAPE)
    toy.assert_equal(inverted(built, toy.WIDE), inverted(direct, toy.WIDE))


def test_whose_gradients_are_estimated():
    silent = dataclasses.replace(toy.ARCH, gives=frozenset())
    found = {}
    for teachers in ("all", "without_gradients", "none"):
        recipe = Recipe(estimator=inversion.Estimator(2, teachers=teachers))
        found[teachers] = [
            check(recipe, network)
            for check in (inversion.is_estimated, inversion.invertible)
            for network in (toy.ARCH, silent)
        ]
    assert found == {
        "all": [True, True, True, True],
        "without_gradients": [False, True, True, True],
        "none": [False, False, True, False],
    }
    assert not inversion.is_estimated(Recipe(), silent)


def test_what_is_not_estimated_is_differentiated_and_asked_no_query():
    recipe = generator_recipe(num_steps=2, objective=Objective(moments=0.0))
    exact = inverted(inversion.build(recipe, toy.ARCH))
    estimator = inversion.Estimator(2, teachers="without_gradients")
    unused = recipe._replace(estimator=estimator)
    toy.assert_equal(inverted(inversion.build(unused, toy.ARCH)), exact)


@pytest.mark.slow
def test_a_generator_that_only_asks():
    """BiDf-MKD's."""
    estimator = inversion.Estimator(num_directions=2, smoothing=0.5, frequencies=3)
    objective = Objective(moments=0.0)
    student = toy.ARCH
    respond = answers.answers("probabilities")
    how = {"meta_gradient": "reptile", "objective": objective, "estimator": estimator}
    direct = inversion.meta_generator(
        generator_of(toy.SHAPE),
        toy.ARCH,
        inner_optimizer=inner(),
        student=student,
        num_steps=2,
        latent_dim=16,
        respond=respond,
        **how,
    )
    recipe = generator_recipe(num_steps=2, **how)
    built = inversion.build(recipe, toy.ARCH, student, respond=respond)
    adversary = inversion.Adversary(
        jax.jit(student.init)(jax.random.key(5))["params"], 1.0
    )
    toy.assert_equal(
        inverted(built, adversary=adversary), inverted(direct, adversary=adversary)
    )


@pytest.mark.parametrize("source", ["pixels", "normalized_pixels"])
def test_the_source_and_the_gradient_of_purer(source):
    objective = Objective(variation="frobenius", l2=1e-5, total_variation=1e-3)
    recipe = Recipe(source=source, deviation=1.0, objective=objective)
    if source == "pixels":
        direct = inversion.pixel_source(toy.SHAPE, 1.0)
    else:
        direct = inversion.normalized_source(
            toy.SHAPE, toy.ARCH.mean, toy.ARCH.std, 1.0
        )
    built = inversion.build_source(recipe, toy.ARCH)
    leaves = direct.start(jax.random.key(0), (), LABELS)
    toy.assert_equal(built.start(jax.random.key(0), (), LABELS), leaves)
    images = direct.render(leaves, LABELS)
    toy.assert_equal(built.render(leaves, LABELS), images)
    teacher = jax.tree.map(lambda x: x[0], toy.random_teachers())
    found, wanted = (
        jax.jit(function)(jax.random.key(1), images, LABELS, teacher, None)
        for function in (
            inversion.build_objective_gradient(recipe, toy.ARCH),
            inversion.white_box(objective, toy.ARCH),
        )
    )
    toy.assert_equal(found, wanted)


@pytest.mark.slow
def test_optimizers_may_be_given_as_transformations():
    named = Recipe(num_steps=2, decay="none", optimizer=adam(0.1))
    made = named._replace(optimizer=optax.adam(0.1))
    toy.assert_equal(
        inverted(inversion.build(made, toy.ARCH)),
        inverted(inversion.build(named, toy.ARCH)),
    )
    # With a decay the steps shrink as under a decaying rate, up to rounding.
    decayed = (r._replace(decay="cosine", num_steps=3) for r in (made, named))
    by_steps, by_rate = (inverted(inversion.build(r, toy.ARCH)) for r in decayed)
    np.testing.assert_allclose(by_steps[0].images, by_rate[0].images, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "photos"}, "choose pixels, normalized_pixels or generator"),
        ({"init": "photos"}, "choose noise or dead_leaves"),
        ({"source": "generator", "init": "dead_leaves"}, "only source='pixels'"),
        ({"deviation": -1.0}, "must not be negative"),
        ({"num_steps": 0}, "must be at least 1"),
        ({"optimizer": adam(0.0)}, "learning_rate=0.0 must be positive"),
        ({"decay": "linear"}, "choose cosine or none"),
        ({"keep": "first"}, "must be 'last' or 'best'"),
    ],
)
def test_a_wrong_value_is_told(change, message):
    with pytest.raises(ValueError, match=message):
        inversion.build(Recipe()._replace(**change), toy.ARCH)
