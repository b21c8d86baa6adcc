"""The one conversion of images."""

import jax
import jax.numpy as jnp
import numpy as np

from free_jax import augment, images
from free_jax.fewshot import banks, episodes


def test_bytes_survive_the_way_to_floats_and_back():
    """A float just above a level is that level; what is out of range is clipped."""
    levels = jnp.arange(256, dtype=jnp.uint8)
    floats = images.to_float(levels)
    assert floats.dtype == jnp.float32 and floats.max() == 1
    assert images.to_float(floats) is floats
    nudged = np.nextafter(np.asarray(floats), np.float32(2))
    np.testing.assert_array_equal(images.to_bytes(jnp.asarray(nudged)), levels)
    outside = images.to_bytes(jnp.asarray([-1.0, 0.999, 1.0, 3.0]))
    assert outside.tolist() == [0, 254, 255, 255]


def test_host_and_device_agree():
    """What was written with NumPy before is what is written now."""
    drawn = np.random.default_rng(0).normal(0.5, 0.5, (4, 9, 9, 3)).astype(np.float32)
    before = np.floor(255 * np.clip(drawn, 0, 1)).astype(np.uint8)
    for convert in (images.to_bytes, jax.jit(images.to_bytes)):
        np.testing.assert_array_equal(convert(jnp.asarray(drawn)), before)


def test_former_places_have_the_same_functions():
    assert augment.fit_to is images.fit_to
    assert banks.to_bytes is images.to_bytes
    assert episodes.to_float is images.to_float
