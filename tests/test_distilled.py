"""A distilled model fitted to images, against what that is defined to do."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from free_jax import load_model, make_network, panel, save_model
from free_jax.fewshot import heads
from free_jax.panel import model as distilled
from free_jax.panel import sketch

T = 3
STUDENT = dataclasses.replace(toy.TINY, num_classes=T * toy.WAY)
WEIGHTS = jnp.asarray([1.0, 0.0, 2.0])


@pytest.fixture(scope="module")
def variables():
    return jax.jit(STUDENT.init)(jax.random.key(0))


@pytest.fixture(scope="module")
def images():
    return jax.random.uniform(jax.random.key(1), (60, *toy.SHAPE))


embed = functools.partial(
    jax.jit(distilled.embed, static_argnums=0, static_argnames="mirror"), STUDENT
)


@jax.jit
def views_said(variables, images):
    """Logits of images and of their mirror images."""
    return [STUDENT.apply(variables, x) for x in (images, images[:, :, ::-1])]


def fitted_to(variables, images, **kwargs):
    fit = functools.partial(
        distilled.fit_statistics, STUDENT, weights=WEIGHTS, temperature=2.0, **kwargs
    )
    return jax.jit(fit)(variables, images)


def test_statistics_become_those_of_the_images(variables, images):
    """Fitted to a batch, running statistics do what that batch's own would."""
    fitted = fitted_to(variables, images, whitening=0.0)
    toy.assert_close(fitted["params"], variables["params"])
    toy.assert_close(
        jax.jit(STUDENT.apply)(fitted, images),
        jax.jit(functools.partial(STUDENT.apply, norm="batch"))(variables, images),
        rtol=1e-4,
        atol=1e-5,
    )


def test_statistics_of_several_batches_are_their_mean(variables, images):
    halves = [fitted_to(variables, part) for part in (images[:30], images[30:])]
    both = fitted_to(variables, images, at_once=30)
    mean = jax.tree.map(
        lambda *x: sum(x) / 2, *(toy.host(x["batch_stats"]) for x in halves)
    )
    toy.assert_close(both["batch_stats"], mean, rtol=1e-5)


def test_without_images_nothing_is_fitted(variables, images):
    left = fitted_to(variables, None)
    toy.assert_close(left["batch_stats"], variables["batch_stats"])
    fitted = dict(fitted_to(variables, images, whitening=0.0))
    fitted["batch_stats"] = variables["batch_stats"]
    toy.assert_close(
        embed(left, images),
        embed(fitted, images),
    )


def test_descriptions_are_those_of_a_panel_of_heads(variables, images):
    fitted = fitted_to(variables, images, whitening=0.0)
    found = embed(fitted, images)
    tempered = jax.jit(panel.tempered)
    expected = []
    for view in views_said(fitted, images):
        logits = np.asarray(view).reshape(60, T, toy.WAY)
        said = [tempered(logits[:, t], 2.0) for t in range(T)]
        said = [np.asarray(x) * float(WEIGHTS[t]) for t, x in enumerate(said)]
        expected.append(np.concatenate(said, axis=-1))
    np.testing.assert_allclose(found, np.mean(expected, 0), rtol=1e-4, atol=1e-6)


def test_heads_of_unequal_widths_are_a_loop_over_teachers(variables, images):
    columns = np.asarray([0, 2, 7, 9])
    fitted = fitted_to(variables, images, whitening=0.0, columns=columns)
    found = embed(fitted, images)
    expected = []
    for view in views_said(fitted, images):
        logits = np.asarray(view, np.float64)
        said = []
        for t in range(T):
            p = np.exp(logits[:, columns[t] : columns[t + 1]] / 2.0)
            p = p / p.sum(1, keepdims=True)
            said.append((p - 1 / p.shape[1]) * float(WEIGHTS[t]))
        expected.append(np.concatenate(said, axis=1))
    np.testing.assert_allclose(found, np.mean(expected, 0), rtol=1e-4, atol=1e-6)
    # It can be whitened and adapted like any other.
    white = fitted_to(variables, images, columns=columns)
    support, labels, queries = episode(images)
    adapted = distilled.adapt(STUDENT, white, support, labels, way=3, num_steps=2)
    assert np.isfinite(distilled.classify(STUDENT, adapted, queries)).all()


def test_equal_widths_need_no_columns(variables, images):
    """A model that says nothing of columns has heads of equal widths."""
    columns = panel.equal_columns(T, toy.WAY)
    named = fitted_to(variables, images, columns=columns)
    toy.assert_equal(named, fitted_to(variables, images))


def test_whitening_shrinks_each_direction_as_it_says(variables, images):
    strength = 0.3
    plain = embed(fitted_to(variables, images, whitening=0.0), images)
    rows = np.asarray(heads.unit(plain), np.float64)
    values = np.linalg.eigvalsh(np.cov(rows.T, bias=True))
    found = embed(fitted_to(variables, images, whitening=strength), images)
    np.testing.assert_allclose(np.mean(found, 0), 0.0, atol=1e-4)
    np.testing.assert_allclose(
        np.linalg.eigvalsh(np.cov(np.asarray(found, np.float64).T, bias=True)),
        np.maximum(values, 0) / (np.maximum(values, 0) + strength * values[-1]),
        atol=1e-3,
    )


def test_little_whitening_leaves_angles_alone(variables, images):
    fitted = fitted_to(variables, images, whitening=1e4)
    how = fitted["descriptions"]
    rows = jax.random.normal(jax.random.key(2), (4, how["mean"].size))
    moved = heads.unit(rows @ how["whitening"])
    rows = heads.unit(rows)
    np.testing.assert_allclose(moved @ moved.T, rows @ rows.T, atol=1e-3)


def episode(images):
    return images[:6], jnp.asarray([2, 0, 1, 1, 2, 0]), images[6:12]


def test_no_steps_leave_the_nearest_centroid(variables, images):
    fitted = fitted_to(variables, images)
    support, labels, queries = episode(images)
    adapted = distilled.adapt(STUDENT, fitted, support, labels, way=3, num_steps=0)
    toy.assert_close(adapted.variables, fitted)
    said = [embed(fitted, x) for x in (support, queries)]
    nearest = heads.centered(heads.nearest_centroid(3), "none")
    np.testing.assert_allclose(
        distilled.classify(STUDENT, adapted, queries),
        nearest(said[0], labels, said[1]),
        rtol=1e-5,
        atol=1e-6,
    )


def test_adaptation_is_gradient_descent_on_the_support_set(variables, images):
    fitted = fitted_to(variables, images)
    support, labels, _ = episode(images)

    def adapt(num_steps):
        return distilled.adapt(
            STUDENT,
            fitted,
            support,
            labels,
            way=3,
            num_steps=num_steps,
            learning_rate=1e-3,
            scale=4.0,
        )

    def loss(params, kernel):
        model = {**fitted, "params": params}
        said = distilled.embed(STUDENT, model, support, mirror=False)
        said = said / jnp.linalg.norm(said, axis=-1, keepdims=True)
        log_p = jax.nn.log_softmax(4.0 * said @ kernel.T)
        return -log_p[jnp.arange(6), labels].mean()

    params, kernel = fitted["params"], adapt(0).kernel
    slope = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    losses = []
    for _ in range(3):
        value, grads = slope(params, kernel)
        losses.append(value)
        params, kernel = jax.tree.map(
            lambda p, g: p - 1e-3 * g, *toy.host(((params, kernel), grads))
        )
    assert losses[2] < losses[1] < losses[0]
    found = adapt(3)
    toy.assert_close(found.variables["params"], params, rtol=1e-3, atol=1e-5)
    toy.assert_close(found.kernel, kernel, rtol=1e-3, atol=1e-5)
    toy.assert_close(found.variables["batch_stats"], fitted["batch_stats"])


def test_one_view_is_half_of_two(variables, images):
    fitted = fitted_to(variables, images, whitening=0.0)
    views = (images, images[:, :, ::-1])
    one = [embed(fitted, x, mirror=False) for x in views]
    both = embed(fitted, images)
    np.testing.assert_allclose(both, (one[0] + one[1]) / 2, rtol=1e-3, atol=1e-5)


def test_a_saved_model_describes_alike(images, tmp_path):
    conv4 = make_network("conv4", num_classes=T * 2, image_shape=(32, 32, 3), width=2)
    images = jax.image.resize(images[:8], (8, 32, 32, 3), "nearest")

    @jax.jit
    def fit(variables):
        return distilled.fit_statistics(
            conv4,
            variables,
            (255 * images).astype(jnp.uint8),
            weights=WEIGHTS,
            temperature=2.0,
        )

    fitted = fit(toy.random_like(jax.eval_shape(conv4.init, jax.random.key(0)), 0))
    save_model(tmp_path / "model.npz", conv4, fitted)
    arch, loaded, _ = load_model(tmp_path / "model.npz")
    embed = jax.jit(distilled.embed, static_argnums=0)
    said = embed(conv4, fitted, images)
    assert np.isfinite(said).all()
    np.testing.assert_array_equal(embed(arch, loaded, images), said)


def test_a_sketch_keeps_cosines_and_bounds_what_is_said():
    rows = jax.random.normal(jax.random.key(1), (6, 300))
    drawn = sketch.draw(jax.random.key(0), 300, 64)
    used = np.asarray(drawn.outputs)[np.asarray(drawn.signs) != 0]
    np.testing.assert_array_equal(np.sort(used), np.arange(300))  # Each once.
    # By a loop.
    wanted = np.zeros((6, 64))
    for place, (outputs, signs) in enumerate(zip(*map(np.asarray, drawn), strict=True)):
        for output, sign in zip(outputs, signs, strict=True):
            wanted[:, place] += sign * np.asarray(rows)[:, output]
    np.testing.assert_allclose(sketch.apply(drawn, rows), wanted, rtol=1e-4, atol=1e-5)
    # Without bias, over many draws, and with the variance that is promised.
    x, y = rows[:2] / jnp.linalg.norm(rows[:2], axis=1, keepdims=True)
    keys = jax.random.split(jax.random.key(2), 400)

    def product(key):
        a, b = sketch.apply(sketch.draw(key, 300, 64), jnp.stack([x, y]))
        return a @ b

    found = np.asarray(jax.jit(jax.vmap(product))(keys)) - float(x @ y)
    assert abs(found.mean()) < 4 * found.std() / 20 and found.var() < 2.5 / 64
    with pytest.raises(ValueError, match="sketch=301"):
        sketch.draw(jax.random.key(0), 300, 301)


@pytest.mark.parametrize("whitening", [0.0, 0.5])
def test_a_sketched_model_says_a_sketch_and_is_saved_with_it(tmp_path, whitening):
    student = dataclasses.replace(toy.TINY, num_classes=12)
    variables = jax.jit(student.init)(jax.random.key(0))
    images = np.random.default_rng(1).integers(0, 256, (8, *toy.SHAPE), np.uint8)
    embed = jax.jit(distilled.embed, static_argnums=0)

    def fit(**kwargs):
        how = {"weights": jnp.ones(4), "temperature": 2.0, "whitening": whitening}
        made = functools.partial(distilled.fit_statistics, student, **how, **kwargs)
        return jax.jit(made)(variables, images)

    told = fit(sketch=5)
    said = embed(student, told, images)
    assert said.shape == (8, 5) and bool(jnp.isfinite(said).all())
    if not whitening:
        drawn = sketch.Sketch(**told["descriptions"]["sketch"])
        whole = embed(student, fit(), images)
        np.testing.assert_allclose(said, sketch.apply(drawn, whole), atol=1e-5)
    network = dataclasses.replace(toy.ARCH, num_classes=12)
    told |= jax.jit(network.init)(jax.random.key(0))
    save_model(tmp_path / "model.npz", network, told)
    again, loaded, _ = load_model(tmp_path / "model.npz")
    toy.assert_close(
        embed(again, loaded, images),
        embed(network, told, images),
    )
