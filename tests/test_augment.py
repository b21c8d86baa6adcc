"""Random crops and flips against loops over pixels."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from free_jax import augment

PADDING = 2


def moved(image, dy, dx, mirrored):
    """Pads with black, takes the window at (dy, dx), mirrors it."""
    h, w, _ = image.shape
    out = np.zeros_like(image)
    for i, j in itertools.product(range(h), range(w)):
        row, column = i + dy, (w - 1 - j if mirrored else j) + dx
        if 0 <= row < h and 0 <= column < w:
            out[i, j] = image[row, column]
    return out


def moves(padding=PADDING):
    shifts = range(-padding, padding + 1)
    return list(itertools.product(shifts, shifts, (False, True)))


def find(image, out, padding=PADDING):
    """The one move that makes `out` from `image`, exactly."""
    found = [m for m in moves(padding) if (moved(image, *m) == out).all()]
    assert len(found) == 1, found
    return found[0]


def images(n=16, h=6, w=7, c=2):
    return np.random.default_rng(0).uniform(0.1, 1, size=(n, h, w, c)).astype("f4")


@pytest.mark.parametrize("per_image", [True, False])
def test_every_output_is_a_shifted_perhaps_mirrored_copy(key, per_image):
    x = images()
    out = augment.crop_flip(key, jnp.asarray(x), padding=PADDING, per_image=per_image)
    found = [find(*pair) for pair in zip(x, np.asarray(out), strict=True)]
    assert (len(set(found)) > 1) == per_image


@pytest.mark.parametrize("per_image", [True, False])
def test_same_numbers_as_a_loop_with_the_same_draws(key, per_image):
    x = images()
    n = len(x) if per_image else 1
    keys = jax.random.split(key, 3)
    dy, dx = (
        np.asarray(jax.random.randint(k, (n, 1), -PADDING, PADDING + 1))[:, 0]
        for k in keys[:2]
    )
    mirrored = np.asarray(jax.random.bernoulli(keys[2], shape=(n, 1)))[:, 0]
    draws = np.broadcast_arrays(dy, dx, mirrored, np.zeros(len(x)))[:3]
    expected = [moved(*args) for args in zip(x, *draws, strict=True)]
    out = augment.crop_flip(key, jnp.asarray(x), padding=PADDING, per_image=per_image)
    np.testing.assert_array_equal(out, expected)


def test_gradient_puts_every_pixel_back(key):
    x = images()
    weights = np.random.default_rng(1).normal(size=x.shape).astype("f4")

    def total(x):
        return (augment.crop_flip(key, x, padding=PADDING) * weights).sum()

    out = augment.crop_flip(key, jnp.asarray(x), padding=PADDING)
    grad = np.asarray(jax.grad(total)(jnp.asarray(x)))
    np.testing.assert_allclose(
        np.vdot(grad, x), np.vdot(weights, np.asarray(out)), rtol=1e-4
    )  # <A'w, x> = <w, Ax>
    n, h, w, _ = x.shape
    places = np.arange(1, h * w + 1, dtype=float).reshape(h, w, 1)
    for i in range(n):
        source = moved(places, *find(x[i], np.asarray(out)[i]))[..., 0].astype(int)
        expected = np.zeros_like(x[i])
        for a, b in itertools.product(range(h), range(w)):
            if source[a, b]:
                expected[divmod(source[a, b] - 1, w)] += weights[i, a, b]
        np.testing.assert_allclose(grad[i], expected, rtol=1e-6, atol=1e-7)


def test_draws_are_uniform(key):
    count = 5000
    x = np.broadcast_to(images(1, 4, 4, 1), (count, 4, 4, 1))
    out = np.asarray(augment.crop_flip(key, jnp.asarray(x), padding=1))
    tables = [moved(x[0], *m) for m in moves(1)]
    hits = np.array([(out == table).all((1, 2, 3)).sum() for table in tables])
    assert hits.sum() == count
    expected = count / len(tables)
    assert np.abs(hits - expected).max() < 5 * np.sqrt(expected)


def test_no_padding_only_mirrors(key):
    x = images()
    out = augment.crop_flip(key, jnp.asarray(x), padding=0)
    for a, b in zip(x, np.asarray(out), strict=True):
        assert (b == a).all() or (b == a[:, ::-1]).all()


def test_fit_to():
    x = jnp.asarray(images(c=3))
    assert augment.fit_to(x, (6, 7, 3)) is x
    assert augment.fit_to(x, (9, 4, 3)).shape == (16, 9, 4, 3)
    np.testing.assert_allclose(
        augment.fit_to(jnp.full((1, 6, 6, 3), 0.3), (9, 4, 3)), 0.3, rtol=1e-6
    )
