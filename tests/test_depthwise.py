"""Depthwise convolution and its gradients against the backend's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.test_util import check_grads

from free_jax.models.cpu.depthwise import depthwise

# Sizes, taps, channels out of 4, stride, zeros, dilation.
CASES = {
    "3x3": ((6, 7), (3, 3), 4, (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "3x3 in steps": ((6, 7), (3, 3), 4, (2, 2), ((1, 1), (1, 1)), (1, 1)),
    "uneven zeros": ((6, 6), (3, 3), 4, (2, 2), ((0, 1), (0, 1)), (1, 1)),
    "5x5, an odd size": ((9, 5), (5, 5), 4, (2, 2), ((2, 2), (2, 2)), (1, 1)),
    "no zeros": ((8, 7), (3, 4), 4, (1, 2), ((0, 0), (0, 0)), (1, 1)),
    "rows left over": ((8, 8), (3, 3), 4, (3, 3), ((0, 0), (0, 0)), (1, 1)),
    "two each": ((6, 6), (3, 3), 8, (2, 2), ((1, 1), (1, 1)), (1, 1)),
    "more taps than pixels": ((2, 2), (7, 7), 4, (1, 1), ((3, 3), (3, 3)), (1, 1)),
    "of one pixel": ((1, 1), (5, 5), 4, (2, 2), ((2, 2), (2, 2)), (1, 1)),
    "wide zeros": ((4, 4), (3, 3), 4, (2, 2), ((4, 5), (3, 6)), (1, 1)),
    "shorter than its step": ((7, 6), (1, 2), 4, (2, 3), ((0, 0), (0, 1)), (1, 1)),
    "dilated": ((8, 8), (3, 3), 4, (1, 1), ((2, 2), (2, 2)), (2, 2)),
    "dilated in steps": ((9, 9), (3, 3), 4, (2, 2), ((2, 2), (2, 2)), (2, 2)),
    "one axis": ((9,), (5,), 4, (2,), ((2, 2),), (1,)),
    "three axes": ((4, 5, 3), (3, 2, 3), 4, (2, 1, 2), ((1, 1),) * 3, (1, 1, 1)),
}


def normal(*shape, seed=0, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def backend(x, kernel, stride, sides, dilation):
    letters = "DHW"[3 - (x.ndim - 2) :]
    return lax.conv_general_dilated(
        x,
        kernel,
        stride,
        sides,
        rhs_dilation=dilation,
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        feature_group_count=x.shape[-1],
    )


@pytest.mark.parametrize("name", CASES)
def test_output_and_both_gradients_are_the_backends(name):
    sizes, taps, outputs, *where = CASES[name]
    x, kernel = normal(2, *sizes, 4), normal(*taps, 1, outputs, seed=1)

    def all_of(fn):
        def run(x, kernel):
            out, back = jax.vjp(lambda x, k: fn(x, k, *where), x, kernel)
            return out, back(jnp.cos(out))

        return jax.jit(run)(x, kernel)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        all_of(depthwise),
        all_of(backend),
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_first_and_second_derivatives_are_finite_differences(stride):
    """In double precision; second ones are what learning through inversion takes."""
    with jax.enable_x64(True):
        x = normal(1, 4, 3, 2, dtype=np.float64)
        kernel = normal(3, 3, 1, 2, seed=1, dtype=np.float64)

        @jax.jit
        def loss(x, kernel):
            out = depthwise(x, kernel, (stride,) * 2, ((1, 1), (1, 1)), (1, 1))
            return jnp.tanh(out).sum()

        check_grads(loss, (x, kernel), order=2, modes=["rev"], atol=1e-6, rtol=1e-6)


def test_batched_kernels_are_one_after_another():
    x, kernels = normal(3, 2, 5, 5, 2), normal(3, 3, 3, 1, 2, seed=1)
    where = (2, 2), ((1, 1), (1, 1)), (1, 1)

    def gradient(x, kernel):
        return jax.grad(lambda x: jnp.sin(depthwise(x, kernel, *where)).sum())(x)

    many = jax.jit(jax.vmap(gradient))(x, kernels)
    for i in range(3):
        np.testing.assert_allclose(
            many[i], jax.jit(gradient)(x[i], kernels[i]), rtol=1e-5, atol=1e-6
        )


def test_taps_that_see_only_zeros_are_not_computed():
    """A 7x7 kernel on 2x2 pixels multiplies 9 taps, not 49."""
    x, kernel = normal(1, 2, 2, 3), normal(7, 7, 1, 3)
    where = (1, 1), ((3, 3), (3, 3)), (1, 1)
    shown = str(jax.make_jaxpr(lambda x, k: depthwise(x, k, *where))(x, kernel))
    assert shown.count(" mul ") == 9
