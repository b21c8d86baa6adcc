"""Programs for accelerators, lowered on a machine that has none."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_contract
import toy

from free_jax import inversion, panel, platforms
from free_jax.zoo.network import make_network

PLATFORMS = ("cuda", "tpu")
# Of what takes long to trace, the other platform is looked at by `make test-all`.
ONE = ("cuda", pytest.param("tpu", marks=pytest.mark.slow))


def exported(fn, platform, *arguments):
    """The text of a program for a platform."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
    with platforms.lowering_for(platform):
        found = jax.export.export(jax.jit(fn), platforms=[platform])(*shapes)
    assert found.platforms == (platform,)
    return found.mlir_module()


def check(text):
    """No callback to the host, no shape that is unknown, no routine of a CPU."""
    targets = set(re.findall(r"custom_call @([\w.]+)", text))
    assert not [t for t in targets if "callback" in t or "lapack" in t], targets
    assert "tensor<?" not in text and "x?x" not in text


def count(text, operation):
    return len(re.findall(rf"stablehlo\.{operation}\b", text))


@pytest.mark.parametrize("platform", ONE)
@pytest.mark.parametrize("name", test_contract.CASES)
def test_steps_of_every_algorithm(name, platform):
    case = test_contract.CASES[name]()
    key = jax.random.key(0)
    begin = test_contract.begin(case)
    state = jax.eval_shape(begin, key)
    data = jax.tree.map(jnp.asarray, case.data)
    check(exported(case.algorithm.step, platform, key, state, data))


@pytest.mark.parametrize("platform", ONE)
@pytest.mark.parametrize("source", ["pixels", "generator"])
def test_inversions_use_the_backends_convolutions(source, platform):
    recipe = panel.PanelOptions().recover.inversion._replace(num_steps=2)
    if source == "generator":
        recipe = recipe._replace(source="generator", init="noise")
    inverter = inversion.build(recipe, toy.ARCH)
    key, labels = jax.random.key(0), jnp.arange(toy.WAY)
    shared = jax.eval_shape(inverter.init, key)
    teacher = jax.tree.map(lambda x: x[0], toy.random_teachers(toy.ARCH, 1))

    def invert(key, shared, teacher, labels):
        return inverter.invert(key, shared, teacher, labels)[0].images

    texts = {
        where: exported(invert, where, key, shared, teacher, labels)
        for where in ("cpu", platform)
    }
    check(texts[platform])
    # What a CPU computes as products of patches are convolutions here; products are
    # left for the heads and the losses, whatever the source.
    assert count(texts["cpu"], "dot_general") >= 18
    assert count(texts[platform], "dot_general") == 10
    assert count(texts[platform], "convolution") >= 8 + count(
        texts["cpu"], "convolution"
    )


def gradient(network):
    """Of all parameters by a batch's logits."""

    def fn(variables, images):
        def loss(params):
            out = network.apply({**variables, "params": params}, images, norm="batch")
            return (out**2).sum()

        return jax.grad(loss)(variables["params"])

    images = jnp.zeros((2, *network.image_shape))
    return fn, jax.eval_shape(network.init, jax.random.key(0)), images


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_gradient_is_convolutions_and_the_heads_products(platform):
    fn, variables, images = gradient(toy.ARCH)
    text = exported(fn, platform, variables, images)
    check(text)
    # Four outputs, four kernel gradients, three image gradients; the head forwards,
    # its kernel's and its input's.
    assert count(text, "convolution") == 11 and count(text, "dot_general") == 3
    fn, variables, images = gradient(toy.ARCH)
    assert count(exported(fn, "cpu", variables, images), "dot_general") > 3


@pytest.mark.parametrize("platform", PLATFORMS)
def test_wide_and_depthwise_convolutions_too(platform):
    wide = make_network("conv4", num_classes=2, image_shape=(16, 16, 3), width=128)
    deep = make_network("convnext", num_classes=2, image_shape=(16, 16, 3))
    for network in (wide, deep):
        variables = jax.eval_shape(network.init, jax.random.key(0))
        images = jnp.zeros((2, *network.image_shape))
        here, there = (
            exported(network.apply, where, variables, images)
            for where in ("cpu", platform)
        )
        check(there)
        assert count(there, "convolution") > count(here, "convolution")
    assert re.search(r"feature_group_count = [2-9]", there)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_distillation_with_convolutions(platform):
    student = dataclasses.replace(toy.ARCH, num_classes=2 * toy.WAY)
    told = panel.distillation(
        student, np.asarray([0, 3, 6]), panel.DistillOptions(batch_size=4), 10
    )
    yes = jnp.ones(4, bool)
    data = panel.Described(
        jnp.zeros((4, *toy.SHAPE), jnp.uint8), jnp.zeros((4, 6)),
        np.asarray([0, 3, 6]), jnp.ones(2), yes, yes,
    )  # fmt: skip
    state = jax.eval_shape(told.init, jax.random.key(0))
    text = exported(told.step, platform, jax.random.key(0), state, data)
    check(text)
    assert count(text, "convolution") == 11


def test_no_program_is_taken_for_another_platforms():
    """The same function, traced for one and then for the other."""
    seen = []
    fn = jax.jit(lambda x: seen.append(platforms.platform()) or x + 1)
    fn(1.0)
    with platforms.lowering_for("tpu"):
        fn.lower(1.0)
    fn(1.0)
    assert seen == ["cpu", "tpu"]
