"""The cost model against hand counts and the published table."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from benchmarks import cost
from experiments.evaluation import costs
from experiments.harness.method import Meters
from free_jax import inversion, models
from free_jax import zoo as zoo_lib
from free_jax.zoo.network import make_network


def test_convolutions_and_products_are_counted_by_hand():
    x, k = jnp.zeros((2, 8, 6, 3)), jnp.zeros((3, 3, 3, 5))

    def fn(x, k):
        out = models.conv2d(x, k, lowering="direct")
        return out.reshape(2, -1) @ jnp.zeros((8 * 6 * 5, 7))

    conv, product = 2 * 8 * 6 * 5 * 27, 2 * 8 * 6 * 5 * 7
    assert cost.multiply_adds(fn, x, k) == conv + product
    assert cost.multiply_adds(jax.jit(fn), x, k) == conv + product


def test_loops_count_as_often_as_they_run():
    a = jnp.zeros((4, 4))

    def loop(a):
        return jax.lax.scan(lambda c, _: (c @ a, None), a, length=7)[0]

    assert cost.multiply_adds(loop, a) == 7 * 4**3
    with pytest.raises(ValueError, match="while"):
        cost.multiply_adds(
            lambda a: jax.lax.while_loop(lambda x: x[0, 0] < 1, jnp.cos, a), a
        )


def test_a_branch_counts_as_its_dearer_side():
    a = jnp.zeros((3, 3))

    def fn(a):
        return jax.lax.cond(a[0, 0] > 0, lambda a: a @ a @ a, lambda a: a @ a, a)

    assert cost.multiply_adds(fn, a) == 2 * 27


def test_the_image_gradient_of_a_strided_convolution_counts_no_zeros():
    x, k = jnp.zeros((1, 8, 8, 3)), jnp.zeros((3, 3, 3, 4))

    def gradient(x, k):
        out, back = jax.vjp(
            lambda x: models.conv2d(x, k, stride=2, lowering="direct"), x
        )
        return back(out)

    forward = 16 * 4 * 27
    # Its own transposed form computes 64 outputs of 4 * 9 taps, a quarter of them real.
    assert cost.multiply_adds(gradient, x, k) == forward + 64 * 3 * 36 // 4


def test_conv4_by_hand():
    arch = make_network("conv4", num_classes=5, image_shape=(32, 32, 3), width=64)
    by_hand = 32 * 32 * 27 * 64 + (16 * 16 + 8 * 8 + 4 * 4) * 576 * 64 + 4 * 64 * 5
    assert cost.forward(arch) == by_hand
    # Backward to the image is as much again.
    assert cost.image_gradient(arch) == 2 * by_hand


@pytest.mark.parametrize(("name", "width"), cost.PUBLISHED)
def test_published_table_within_a_fifth(name, width):
    kwargs = {"width": width} if width else {}
    for size, published in zip(cost.SIZES, cost.PUBLISHED[name, width], strict=True):
        arch = make_network(name, num_classes=5, image_shape=(size, size, 3), **kwargs)
        assert cost.gflops(arch) == pytest.approx(published, rel=0.2)


def test_lowering_does_not_change_the_cost():
    plain = make_network("conv4", num_classes=5, image_shape=(16, 16, 3), width=8)
    other = make_network(
        "conv4", num_classes=5, image_shape=(16, 16, 3), width=8, lowering="patches"
    )
    assert cost.forward(plain) == cost.forward(other) > 0


def test_generator_costs_forward_and_both_gradients():
    net = models.Generator(image_shape=toy.SHAPE, width=4)
    dense = toy.LATENT * 8 * 16
    # Sub-pixel: 4 of 9 taps.
    convolutions = 4 * 4 * 4 * 4 * 8 * 8 + 4 * 8 * 8 * 4 * 8 * 4 + 16 * 16 * 9 * 4 * 3
    assert cost.generator_gradient(net, toy.LATENT) == 3 * (dense + convolutions)


@pytest.mark.slow
def test_command_line_prints_totals_of_each_method(capsys):
    cost.main(["--architecture=conv4", "--image_size=32", "--width=64"])
    text = capsys.readouterr().out
    assert "0.0283 GFLOPs" in text
    for name in cost.METHODS:
        assert name in text
    assert "200 x 150 x 0.028 =        849.4 GFLOPs" in text
    cost.main(["--architecture=resnet18", "--width=64"])
    assert "1.1108 GFLOPs" in capsys.readouterr().out  # 1.12 in FREE's table
    with pytest.raises(SystemExit):
        cost.main(["--architecture=conv4", "--width=none"])
    assert "width" in capsys.readouterr().err


def test_a_runs_cost_is_of_the_teachers_that_take_part():
    networks = toy.TINY, toy.tiny(width=8)
    groups = [
        zoo_lib.ZooGroup(network, toy.random_teachers(network, 2), np.ones(2))
        for network in networks
    ]
    zoo = zoo_lib.Zoo(tuple(groups), tuple(map(str, range(toy.CLASSES))))
    meters = Meters(status=(), gradients=6, answers=10)
    outcome = types.SimpleNamespace(steps=0, state=())

    def told(rows):
        subject = types.SimpleNamespace(rows=rows)
        method = types.SimpleNamespace(meters=meters, subject=subject, network=toy.TINY)
        return costs.counted(zoo, method, outcome)

    small, large = map(inversion.cost.gflops, networks)
    assert told(None)["asking_gflops"] == pytest.approx(5 * (small + large))
    assert told(np.asarray([2, 3]))["asking_gflops"] == pytest.approx(10 * large)
    assert told(np.asarray([0, 1, 2]))["recovering_gflops"] == pytest.approx(
        2 * (2 * small + large)
    )
