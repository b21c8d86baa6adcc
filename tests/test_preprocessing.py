"""Photographs as published classifiers expect them, and how far ours are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from free_jax.errors import InputError
from free_jax.interop.hub import check
from free_jax.interop.hub.preprocessing import Preprocessing, prepare, resized
from free_jax.zoo.network import make_network


@pytest.fixture(scope="module")
def photographs():
    return np.random.default_rng(0).integers(0, 256, (2, 40, 30, 3), dtype=np.uint8)


def test_as_pillow_does_it(photographs):
    wanted = Preprocessing((16, 16), 20, crop=True, resample="bicubic")
    prepared = prepare(photographs, wanted)
    picture = Image.fromarray(photographs[0]).resize((20, 26), Image.Resampling.BICUBIC)
    crop = picture.crop((2, 5, 18, 21))
    np.testing.assert_allclose(prepared[0], np.asarray(crop) / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("side", "rounds", "offset"), [(71, "down", 3), (71, "even", 4), (69, "even", 2)]
)
def test_odd_margins(side, rounds, offset):
    """71 to 64 pixels: 3 in transformers, 4 in torchvision, which rounds to even."""
    image = np.zeros((1, side, side, 3), np.uint8)
    image[0, :, :, 0] = np.arange(side)[:, None]
    wanted = Preprocessing((64, 64), crop=True, crop_rounds=rounds)
    assert round(float(prepare(image, wanted)[0, 0, 0, 0]) * 255) == offset
    assert wanted._replace(resize_to=side).crop_offset == offset


def test_small_images_get_a_black_border(photographs):
    prepared = prepare(photographs, Preprocessing((44, 30), crop=True))
    assert not prepared[:, :2].any()
    np.testing.assert_allclose(prepared[:, 2:42] * 255, photographs, atol=1e-4)


def test_grey_and_refusal(photographs):
    grey = prepare(photographs, Preprocessing((40, 30), channels="L"))
    wanted = np.asarray(Image.fromarray(photographs[1]).convert("L"))
    np.testing.assert_allclose(grey[1, ..., 0] * 255, wanted, atol=1e-4)
    with pytest.raises(ValueError, match="nothing says how they are resized"):
        prepare(photographs, Preprocessing((32, 32)))
    assert resized((150, 100), 30) == (45, 30)


def test_both_differences(photographs, tmp_path):
    preprocessing = Preprocessing((16, 16), (16, 16), channels="BGR")
    network = make_network(
        "conv4",
        num_classes=3,
        image_shape=(16, 16, 3),
        width=4,
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.25, 0.3),
        bgr=True,
    )
    variables = network.init(jax.random.key(0))
    images = jnp.asarray(prepare(photographs, preprocessing))
    logits = np.asarray(network.apply(variables, images)) + 7.0
    seen = np.asarray(network.normalize(images))[0].transpose(2, 0, 1)
    path = tmp_path / "reference.npz"
    np.savez(path, images=photographs, logits=logits, input_of_first=seen)
    reference = check.read_reference(path)
    assert check.network_difference(network, variables, reference) < 1e-5
    assert (
        check.reference_difference(network, variables, preprocessing, reference) < 1e-4
    )
    other = Preprocessing((16, 16), 16, crop=True)
    assert check.reference_difference(network, variables, other, reference) > 1e-3
    short = reference._replace(logits=logits[:, :2])
    assert check.network_difference(network, variables, short) == float("inf")
    assert check.network_difference(
        network, variables, reference._replace(input_of_first=seen[:, :8])
    ) == float("inf")


@pytest.mark.parametrize("damage", ["truncated", "pickle", "shapes", "missing"])
def test_a_damaged_reference_is_said_in_one_line(damage, photographs, tmp_path):
    path = tmp_path / "reference.npz"
    arrays = {"images": photographs, "logits": np.zeros((2, 3))}
    if damage == "pickle":
        arrays["logits"] = np.asarray([{}, {}], object)
    if damage == "shapes":
        arrays["logits"] = np.zeros((3, 3))
    if damage == "missing":
        del arrays["logits"]
    np.savez(path, **arrays)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"reference\.npz"):
        check.read_reference(path)
