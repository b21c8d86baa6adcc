"""Networks: one convolution in several lowerings, batch norm, sizes, structure."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from free_jax import models
from free_jax.models.cpu import convolution, winograd
from free_jax.models.cpu.pooling import max_pool_2x2
from free_jax.zoo.network import make_network

CASES = {  # kernel size, stride, padding, channels in and out, image size
    "3x3": (3, 1, ((1, 1), (1, 1)), 3, 5, (6, 6)),
    "few-outputs": (3, 1, ((1, 1), (1, 1)), 5, 2, (6, 7)),
    "strided": (3, 2, ((1, 1), (1, 1)), 3, 4, (8, 8)),
    "strided-odd": (3, 2, ((1, 1), (1, 1)), 3, 4, (7, 5)),
    "1x1-strided": (1, 2, ((0, 0), (0, 0)), 4, 3, (7, 6)),
    "2x2-uneven": (2, 1, ((1, 0), (0, 1)), 3, 12, (5, 4)),
    "valid": (3, 1, ((0, 0), (0, 0)), 2, 3, (5, 6)),
    "wide-padding": (3, 3, ((2, 1), (0, 3)), 2, 3, (7, 7)),
}


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def loop_conv(images, kernel, stride, padding):
    """Cross-correlation, one output pixel after the other, float64."""
    images, kernel = np.float64(images), np.float64(kernel)
    kh, kw = kernel.shape[:2]
    x = np.pad(images, ((0, 0), *padding, (0, 0)))
    rows = (x.shape[1] - kh) // stride + 1
    columns = (x.shape[2] - kw) // stride + 1
    out = np.zeros((len(x), rows, columns, kernel.shape[3]))
    for i in range(rows):
        for j in range(columns):
            a, b = i * stride, j * stride
            out[:, i, j] = np.einsum(
                "nhwc,hwco->no", x[:, a : a + kh, b : b + kw], kernel
            )
    return out


@pytest.mark.parametrize("lowering", ["auto", "mixed", "patches", "project"])
@pytest.mark.parametrize("case", CASES)
def test_lowerings_agree(case, lowering):
    size, stride, padding, c, o, image = CASES[case]
    images, kernel = normal(0, 2, *image, c), normal(1, size, size, c, o)
    expected = loop_conv(images, kernel, stride, padding)
    cotangent = jnp.asarray(normal(2, *expected.shape))

    def both(lowering):
        @jax.jit
        def run(images, kernel):
            out, back = jax.vjp(
                lambda x, k: models.conv2d(
                    x, k, stride=stride, padding=padding, lowering=lowering
                ),
                images,
                kernel,
            )
            return out, back(cotangent)

        return run(images, kernel)

    out, grads = both(lowering)
    direct, direct_grads = both("direct")
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(direct, expected, rtol=1e-4, atol=1e-5)
    toy.assert_close(grads, direct_grads)


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (2, 3)])
@pytest.mark.parametrize("padding", [((1, 1), (1, 1)), ((0, 1), (2, 0))])
def test_fewer_multiplications_give_the_same_convolution(size, padding):
    images, kernel = normal(0, 3, *size, 6), normal(1, 3, 3, 6, 4)
    out = jax.jit(winograd.conv3x3, static_argnums=2)(images, kernel, padding)
    np.testing.assert_allclose(
        out, loop_conv(images, kernel, 1, padding), rtol=1e-4, atol=1e-5
    )


def test_negative_padding_crops():
    images, kernel = normal(0, 2, 6, 5, 3), normal(1, 3, 3, 3, 4)
    conv3x3 = jax.jit(winograd.conv3x3, static_argnums=2)
    out = conv3x3(images, kernel, ((-1, 1), (1, 0)))
    cropped = conv3x3(images[:, 1:], kernel, ((0, 1), (1, 0)))
    np.testing.assert_array_equal(out, cropped)


def test_many_channels_are_convolved_by_fewer_multiplications(monkeypatch):
    images, kernel = normal(0, 2, 4, 4, 8), normal(1, 3, 3, 8, 8) / 9

    def curvature(x, k):
        def loss(x, k):
            return jnp.tanh(models.conv2d(x, k, lowering="mixed")).sum()

        slope = jax.grad(lambda x, k: jnp.square(jax.grad(loss)(x, k)).sum(), (0, 1))
        return jax.jit(slope)(x, k)

    expected = curvature(images, kernel)
    monkeypatch.setattr(convolution, "_WINOGRAD_CHANNELS", 8)
    calls = []
    conv3x3 = winograd.conv3x3
    monkeypatch.setattr(
        winograd, "conv3x3", lambda *a: calls.append(a[0].dtype) or conv3x3(*a)
    )
    # Outputs, image gradients and derivatives of both.
    toy.assert_close(curvature(images, kernel), expected, atol=1e-4)
    assert calls

    def sum_of(x, lowering):  # The gradient of a padding of three crops.
        padding = ((3, 0), (1, 1))
        return jnp.sin(
            models.conv2d(x, kernel, padding=padding, lowering=lowering)
        ).sum()

    slope = jax.jit(jax.grad(sum_of), static_argnums=1)
    toy.assert_close(slope(images, "mixed"), slope(images, "direct"))
    calls.clear()
    half = (jax.ShapeDtypeStruct(x.shape, jnp.bfloat16) for x in (images, kernel))
    jax.eval_shape(functools.partial(models.conv2d, lowering="mixed"), *half)
    assert not calls  # half precision takes the direct form


def test_second_derivatives_of_the_mixed_lowering_are_those_of_patches():
    images = jax.random.normal(jax.random.key(0), (2, 6, 5, 3))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 10))

    def curvature(lowering):
        def loss(x, k):
            return jnp.tanh(models.conv2d(x, k, lowering=lowering)).sum()

        def slope(x, k):
            grads = jax.grad(loss, (0, 1))(x, k)
            return sum(jnp.sin(g).sum() for g in grads)

        return jax.jit(jax.grad(slope, (0, 1)))(images, kernel)

    chex.assert_trees_all_close(
        curvature("mixed"), curvature("patches"), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("lowering", ["auto", "direct", "mixed", "patches", "project"])
@pytest.mark.parametrize("channels", [(4, 3), (2, 10)])
def test_upsampling_convolution_is_repeat_then_convolve(lowering, channels):
    images, kernel = normal(0, 2, 3, 5, channels[0]), normal(1, 3, 3, *channels)

    def plain(images, kernel):
        big = images.repeat(2, axis=1).repeat(2, axis=2)
        return models.conv2d(big, kernel, lowering="direct")

    def folded(images, kernel):
        return models.upsample_conv2d(images, kernel, lowering=lowering)

    cotangent = normal(2, 2, 6, 10, channels[1])

    def run(fn):
        out, back = jax.vjp(fn, images, kernel)
        return out, back(cotangent)

    run = jax.jit(run, static_argnums=0)
    toy.assert_close(run(folded), run(plain))


@pytest.mark.parametrize("shape", [(4, 5, 6, 3), (7, 3)])
def test_batch_norm_is_torch_batch_norm(shape, key):
    torch = pytest.importorskip("torch")
    x = 3.0 + 2.0 * normal(0, *shape)
    scale, bias, mean, var = normal(1, 4, 3)
    var = jnp.abs(var) + 0.1
    variables = {
        "params": {"scale": scale, "bias": bias},
        "batch_stats": {"mean": mean, "var": var},
    }
    axes = (0, *range(2, len(shape)))

    def channels_first(x):
        return torch.tensor(np.moveaxis(np.asarray(x), -1, 1))

    def expect(training):
        t = [torch.tensor(np.array(v)) for v in (mean, var, scale, bias)]
        out = torch.nn.functional.batch_norm(
            channels_first(x), *t, training=training, eps=1e-5
        )
        return np.moveaxis(out.numpy(), 1, -1)

    for norm in ("batch", "running"):
        out, sown = models.BatchNorm().apply(
            variables, x, norm=norm, mutable=["moments"]
        )
        np.testing.assert_allclose(out, expect(norm == "batch"), rtol=1e-4, atol=1e-5)
        first = np.moveaxis(np.float64(x), -1, 1)
        np.testing.assert_allclose(sown["moments"]["mean"], first.mean(axes), rtol=1e-5)
        np.testing.assert_allclose(sown["moments"]["var"], first.var(axes), rtol=1e-5)


def test_batch_norm_keeps_precision_far_from_zero():
    x = 1e4 + normal(0, 1000, 2)
    variables = {"params": {"scale": jnp.ones(2), "bias": jnp.zeros(2)}}
    _, sown = models.BatchNorm().apply(variables, x, norm="batch", mutable=["moments"])
    np.testing.assert_allclose(sown["moments"]["var"], np.float64(x).var(0), rtol=1e-2)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_batch_norm_keeps_the_type_and_never_lowers_precision(dtype):
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)), dtype)
        variables = {"params": {"scale": jnp.ones(3), "bias": jnp.zeros(3)}}
        out, sown = models.BatchNorm().apply(
            variables, x, norm="batch", mutable=["moments"]
        )
        assert out.dtype == x.dtype
        wanted = jnp.promote_types(x.dtype, jnp.float32)
        assert sown["moments"]["mean"].dtype == wanted


@pytest.mark.parametrize(
    ("name", "count", "norms"),
    [
        ("conv4", 29_541, 4),
        ("resnet10", 4_900_677, 12),
        pytest.param("resnet18", 11_171_397, 20, marks=pytest.mark.slow),
        pytest.param("resnet34", 21_279_557, 36, marks=pytest.mark.slow),
        pytest.param("resnet50", 23_506_693, 49, marks=pytest.mark.slow),
        pytest.param("resnet101", 42_503_173, 100, marks=pytest.mark.slow),
    ],
)
def test_classifier_sizes_and_moments(name, count, norms, key):
    arch = make_network(name, num_classes=5, image_shape=(32, 32, 3))
    variables = jax.eval_shape(arch.init, key)
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == count
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    for norm in ("batch", "running"):
        logits, moments = jax.eval_shape(
            lambda v, x, norm=norm: arch.apply_with_moments(v, x, norm=norm),
            variables,
            images,
        )
        assert logits.shape == (2, 5)
        stats = variables["batch_stats"]
        assert jax.tree.map(lambda x: (x.shape, x.dtype), moments) == jax.tree.map(
            lambda x: (x.shape, x.dtype), stats
        )
        assert len(jax.tree.leaves(stats)) == 2 * norms


@pytest.mark.parametrize(
    ("kwargs", "count"),
    [
        ({"image_shape": (84, 84, 3)}, 32_901),
        ({"image_shape": (32, 32, 3), "global_pool": True}, 29_061),
        ({"image_shape": (84, 84, 3), "global_pool": True}, 29_061),
    ],
)
def test_conv4_head_sizes(kwargs, count, key):
    arch = make_network("conv4", num_classes=5, **kwargs)
    params = jax.eval_shape(arch.init, key)["params"]
    assert sum(x.size for x in jax.tree.leaves(params)) == count


@pytest.mark.parametrize(
    ("size", "labels", "entry", "count"),
    [
        (32, 0, "split", 2_328_899),
        (32, 0, "concat", 2_328_899),
        (84, 0, "split", 14_730_691),
        (32, 5, "split", 1_300_803),
        (32, 5, "concat", 2_328_899 + 5 * 128 * 8 * 8),
    ],
)
def test_generator_sizes(size, labels, entry, count, key):
    net = models.Generator(
        image_shape=(size, size, 3), num_classes=labels, label_input=entry
    )
    args = jnp.zeros((2, 256)), jnp.zeros((2,), jnp.int32)
    params = jax.eval_shape(net.init, key, *args)["params"]
    assert sum(x.size for x in jax.tree.leaves(params)) == count
    out = jax.eval_shape(lambda p: net.apply({"params": p}, *args), params)
    assert out.shape == (2, size, size, 3)


def test_generator_labels_matter_only_when_conditional(key):
    latents = normal(0, 6, toy.LATENT)
    labels = jnp.arange(6, dtype=jnp.int32) % 3
    for num_classes, entry in ((0, "concat"), (3, "split"), (3, "concat")):
        net = models.Generator(
            image_shape=toy.SHAPE, width=4, num_classes=num_classes, label_input=entry
        )
        shapes = jax.eval_shape(net.init, key, latents, labels)
        run = jax.jit(functools.partial(net.apply, toy.random_like(shapes), latents))

        a, b = run(labels), run(labels[::-1])
        assert a.min() >= 0 and a.max() <= 1
        assert bool((a == b).all()) == (num_classes == 0)


@pytest.mark.parametrize("size", [(5, 5), (4, 7), (2, 2)])
def test_max_pool_is_torch_max_pool(size):
    torch = pytest.importorskip("torch")
    x = normal(0, 2, *size, 3)
    expected = torch.nn.functional.max_pool2d(
        torch.tensor(np.moveaxis(np.asarray(x), -1, 1)), 2
    )
    np.testing.assert_array_equal(max_pool_2x2(x), np.moveaxis(expected.numpy(), 1, -1))


def test_max_pool_gradients_go_to_the_maximum_and_ties_share():
    x = normal(0, 2, 5, 4, 3).at[0, 0, 0, 0].set(9.0).at[0, 1, 1, 0].set(9.0)
    up, down = normal(1, 2, 2, 2, 3), normal(2, *x.shape)

    @jax.jit
    def run(x):
        gradient, second = jax.jvp(
            lambda up: jax.vjp(max_pool_2x2, x)[1](up)[0], (up,), (up,)
        )
        back = jax.vjp(lambda up: jax.vjp(max_pool_2x2, x)[1](up)[0], up)[1](down)
        return gradient, second, back[0]

    gradient, second, back = run(x)
    expected, wanted = np.zeros(x.shape), np.zeros(up.shape)
    for n, i, j, c in np.ndindex(up.shape):
        window = np.asarray(x[n, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c])
        share = (window == window.max()) / (window == window.max()).sum()
        place = (n, slice(2 * i, 2 * i + 2), slice(2 * j, 2 * j + 2), c)
        expected[place] = share * up[n, i, j, c]
        wanted[n, i, j, c] = (share * down[place]).sum()
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)
    np.testing.assert_allclose(second, expected, rtol=1e-6)
    np.testing.assert_allclose(back, wanted, rtol=1e-5)


@pytest.mark.parametrize("norm", ["batch", "running"])
def test_pooling_within_batch_norm_is_pooling_after_it(norm):
    x = normal(0, 3, 5, 6, 4)
    scale, bias, mean, var = normal(1, 4, 4)  # scales of both signs
    variables = {
        "params": {"scale": scale, "bias": bias},
        "batch_stats": {"mean": mean, "var": abs(var) + 0.1},
    }
    layer, up = models.BatchNorm(), normal(2, 3, 2, 3, 4)

    @jax.jit
    def run(x):
        within, pull = jax.vjp(
            lambda x: layer.apply(variables, x, norm=norm, max_pool=True), x
        )
        after, pull_after = jax.vjp(
            lambda x: max_pool_2x2(layer.apply(variables, x, norm=norm)), x
        )
        return (within, pull(up)), (after, pull_after(up))

    toy.assert_close(*run(x))


def test_moments_are_of_what_enters_each_norm(key):
    variables = jax.tree.map(
        lambda x: 0.3 * np.abs(x), toy.random_like(jax.eval_shape(toy.ARCH.init, key))
    )
    images = jnp.asarray(np.random.default_rng(1).uniform(size=(5, 16, 16, 3)))

    @jax.jit
    def run(variables, images):
        logits, moments = toy.ARCH.apply_with_moments(variables, images)
        plain = toy.ARCH.apply(variables, images)
        batch = toy.ARCH.apply(variables, images, norm="batch")
        return logits, moments, plain, batch

    images = images.astype(jnp.float32)
    logits, moments, plain, batch = run(variables, images)
    np.testing.assert_allclose(logits, plain, rtol=1e-5, atol=1e-6)
    # The first layer by hand.
    first = variables["params"]["conv0"]
    entering = loop_conv(
        2 * np.float64(images) - 1, first["kernel"], 1, ((1, 1), (1, 1))
    ) + np.float64(first["bias"])
    np.testing.assert_allclose(
        moments["bn0"]["mean"], entering.mean((0, 1, 2)), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        moments["bn0"]["var"], entering.var((0, 1, 2)), rtol=1e-4
    )
    # Normalising by the batch is normalising by its own moments.
    _, own = jax.jit(lambda v, x: toy.ARCH.apply_with_moments(v, x, norm="batch"))(
        variables, images
    )
    again, _, _, _ = run({**variables, "batch_stats": own}, images)
    np.testing.assert_allclose(again, batch, rtol=1e-4, atol=1e-5)


def test_features_enter_the_head(key):
    variables = jax.tree.map(
        np.abs, toy.random_like(jax.eval_shape(toy.WIDE.init, key))
    )
    images = jnp.abs(normal(0, 4, *toy.WIDE.image_shape))

    @jax.jit
    def run(variables):
        logits = toy.WIDE.apply(variables, images)
        features = toy.WIDE.apply(variables, images, features=True)
        head = variables["params"]["head"]
        return logits, features @ head["kernel"] + head["bias"]

    a, b = run(variables)
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["conv4", pytest.param("resnet10", marks=pytest.mark.slow)]
)
def test_bfloat16_rounds_and_keeps_parameters_moments_and_logits(name, key):
    def run(**kwargs):
        arch = make_network(name, num_classes=3, image_shape=(16, 16, 3), **kwargs)
        shapes = jax.eval_shape(arch.init, key)
        variables = jax.tree.map(lambda x: 0.1 * np.abs(x), toy.random_like(shapes))
        images = jnp.abs(normal(0, 4, 16, 16, 3))
        out = jax.jit(lambda v: arch.apply_with_moments(v, images, norm="batch"))
        return out(variables)

    half, full = run(dtype="bfloat16"), run()
    for a, b in zip(jax.tree.leaves(half), jax.tree.leaves(full), strict=True):
        assert a.dtype == b.dtype == jnp.float32
    gap = np.abs(half[0] - full[0]).max() / np.abs(full[0]).max()
    assert 1e-6 < gap < 0.1


def test_unknown_names_and_misfits_are_refused():
    with pytest.raises(ValueError, match="unknown model 'conv5'"):
        make_network("conv5", num_classes=5, image_shape=(32, 32, 3))
    with pytest.raises(ValueError, match=r"no keyword 'widht'; it takes .*width"):
        make_network("conv4", num_classes=5, image_shape=(32, 32, 3), widht=4)
    good = {"num_classes": 5, "image_shape": (32, 32, 3)}
    for change, match in [
        ({"num_classes": 1}, "num_classes=1"),
        ({"image_shape": (8, 32, 3)}, "at least 16"),
        ({"mean": (0.5,)}, "mean has 1"),
        ({"std": (0.5, 0.5, 0.0)}, "positive"),
    ]:
        with pytest.raises(ValueError, match=match):
            make_network("conv4", **{**good, **change})


def test_architecture_survives_json():
    arch = toy.WIDE
    assert make_network(**arch.as_dict()) == arch
    assert hash(make_network(**arch.as_dict())) == hash(arch)
