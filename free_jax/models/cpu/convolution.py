"""Convolution, lowered in one place.

On CPU the backend's convolution is the fastest forward pass, but inside a loop
(`lax.scan`, `lax.map`) its own gradient for the kernel is up to a hundred times slower
than the same sums in other forms.  "mixed" therefore takes the direct form for the
output and for the gradient of the images (which is a convolution too), and one that
suits the number of channels for the gradient of the kernel; teachers need none of
these.  Where channels are many, its convolutions are Winograd's (`winograd`).
"auto" on CPU is "mixed", or project + shift where the output has fewer channels than
the kernel has taps; elsewhere it is the backend's own convolution.
`vmap` over kernels turns the matmul forms into batched matmuls and the others into
grouped convolutions.  Figures: ``python benchmarks/convolution.py``.
"""

import functools
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from free_jax import platforms
from free_jax.models.cpu import winograd

Lowering = Literal["auto", "direct", "mixed", "patches", "project"]
Padding = tuple[tuple[int, int], tuple[int, int]]

# Between these many input channels the gradient for a kernel is fastest as a
# convolution, below as one matrix product of all taps, above as one product a tap.
_FEW_CHANNELS, _MANY_CHANNELS = 8, 32
# From these many input and output channels on, fewer multiplications outweigh the
# additions that they cost.
_WINOGRAD_CHANNELS = 128


def _resolve(lowering: Lowering, kernel_shape: tuple[int, ...], stride: int):
    kh, kw, _, o = kernel_shape
    if lowering == "auto":
        if not platforms.is_cpu():
            return "direct"
        # Shifted sums of what is projected at every pixel: wasted between strides.
        if o < kh * kw and stride == 1:
            return "project"
        lowering = "mixed"
    # The image gradient of a strided convolution is not a plain convolution.
    return "patches" if lowering == "mixed" and stride > 1 else lowering


def conv2d(
    images: Float[Array, "n h w c"],
    kernel: Float[Array, "kh kw c o"],
    *,
    stride: int = 1,
    padding: Padding = ((1, 1), (1, 1)),
    lowering: Lowering = "auto",
) -> Float[Array, "n i j o"]:
    """Cross-correlates NHWC images with an HWIO kernel (no bias).

    Args:
      images: [n, h, w, c].
      kernel: [kh, kw, c, o].
      stride: the same for both axes.
      padding: zeros added (before, after) rows and columns.
      lowering: "direct" (`lax.conv_general_dilated`), "patches" (im2col + one
        matmul), "mixed" (see above; not under forward-mode differentiation),
        "project" (one matmul to all taps of all outputs, then shifted sums), or
        "auto" by platform.

    Returns:
      [n, i, j, o], equal for all lowerings up to rounding.
    """
    kh, kw, c, o = kernel.shape
    if not isinstance(images.shape[0], int):
        # Traced for any number of images, to be written down: one operation, not many.
        lowering = "direct"
    if lowering == "auto" and kh == kw == stride > 1 and not any(map(any, padding)):
        return _blocks(images, kernel)
    lowering = _resolve(lowering, kernel.shape, stride)
    if lowering == "direct":
        return _direct(images, kernel, stride, padding)
    if lowering == "mixed":
        return _mixed(images, kernel, padding)
    if lowering == "project":
        # Few outputs: shifting [kh * kw * o] channels moves less memory than c.
        n, h, w, _ = images.shape
        wide = images.reshape(-1, c) @ jnp.moveaxis(kernel, 2, 0).reshape(c, -1)
        seen = _taps(wide.reshape(n, h, w, kh * kw * o), kh, kw, stride, padding)
        return sum(
            (x[..., t * o : (t + 1) * o] for t, x in enumerate(seen)),
            start=jnp.zeros((), wide.dtype),
        )
    patches = _patches(images, kh, kw, stride, padding)
    out = patches.reshape(-1, kh * kw * c) @ kernel.reshape(kh * kw * c, o)
    return out.reshape(*patches.shape[:3], o)


def _blocks(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """One product where each pixel is in one window, as where patches are embedded."""
    k, _, c, o = kernel.shape
    n, h, w, _ = images.shape
    rows, cols = h // k, w // k
    x = images[:, : rows * k, : cols * k].reshape(n, rows, k, cols, k, c)
    x = x.swapaxes(2, 3).reshape(n, rows, cols, k * k * c)
    return x @ kernel.reshape(k * k * c, o)


def _direct(
    images: jax.Array, kernel: jax.Array, stride: int, padding: Padding
) -> jax.Array:
    return lax.conv_general_dilated(
        images,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _taps(
    x: jax.Array, kh: int, kw: int, stride: int, padding: Padding
) -> list[jax.Array]:
    """What each kernel position sees, [n, rows, cols, channels] each."""
    # Not `jnp.pad`: the image gradient of a padding wider than the kernel crops.
    sides = ((0, 0), *padding, (0, 0))
    x = lax.pad(x, jnp.zeros((), x.dtype), [(*side, 0) for side in sides])
    rows, cols = (x.shape[1] - kh) // stride + 1, (x.shape[2] - kw) // stride + 1
    last_row, last_col = (rows - 1) * stride + 1, (cols - 1) * stride + 1
    return [
        x[:, i : i + last_row : stride, j : j + last_col : stride]
        for i in range(kh)
        for j in range(kw)
    ]


def _patches(
    x: jax.Array, kh: int, kw: int, stride: int, padding: Padding
) -> jax.Array:
    """All taps side by side, [n, rows, cols, kh * kw * c]."""
    seen = _taps(x, kh, kw, stride, padding)
    return seen[0] if len(seen) == 1 else jnp.concatenate(seen, axis=-1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _mixed(images: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
    kh, kw, c, o = kernel.shape
    precise = jnp.finfo(images.dtype).bits >= 32
    if precise and (kh, kw) == (3, 3) and min(c, o) >= _WINOGRAD_CHANNELS:
        return winograd.conv3x3(images, kernel, padding)
    return _direct(images, kernel, 1, padding)


def _mixed_forward(images: jax.Array, kernel: jax.Array, padding: Padding):
    return _mixed(images, kernel, padding), (images, kernel)


def _mixed_backward(padding: Padding, saved, gradient: jax.Array):
    images, kernel = saved
    return (
        _image_gradient(gradient, kernel, padding),
        _kernel_gradient(images, gradient, padding),
    )


_mixed.defvjp(_mixed_forward, _mixed_backward)


def _image_gradient(
    gradient: jax.Array, kernel: jax.Array, padding: Padding
) -> jax.Array:
    kh, kw, _, _ = kernel.shape
    (top, bottom), (left, right) = padding
    around = (
        (kh - 1 - top, kh - 1 - bottom),
        (kw - 1 - left, kw - 1 - right),
    )
    turned = jnp.swapaxes(kernel[::-1, ::-1], 2, 3)
    few = turned.shape[-1] < kh * kw
    return conv2d(
        gradient, turned, padding=around, lowering="project" if few else "mixed"
    )


# Output and both gradients are bilinear, and the derivative of each in one argument is
# one of the three: second derivatives take no other form than first ones.
@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _kernel_gradient(
    images: jax.Array, gradient: jax.Array, padding: Padding
) -> jax.Array:
    """Sum over images and positions of what a tap sees times the gradient there."""
    (_, h, w, c), (_, rows, columns, o) = images.shape, gradient.shape
    kh = h + sum(padding[0]) - rows + 1
    kw = w + sum(padding[1]) - columns + 1
    if _FEW_CHANNELS <= c <= _MANY_CHANNELS:
        # A convolution with channels for images, images for channels and the gradient
        # for a kernel; the barriers keep it in the form that the backend knows.
        channels = lax.optimization_barrier(images.transpose(3, 1, 2, 0))
        windows = lax.optimization_barrier(gradient.transpose(1, 2, 0, 3))
        out = lax.optimization_barrier(_direct(channels, windows, 1, padding))
        return out.transpose(1, 2, 0, 3)
    products = gradient.reshape(-1, o)
    if c < _FEW_CHANNELS:
        # Few rows, each contiguous: one product of all taps.
        channels = jnp.pad(images, ((0, 0), *padding, (0, 0))).transpose(3, 0, 1, 2)
        channels = lax.optimization_barrier(channels)
        seen = jnp.stack(
            [
                channels[:, :, i : i + rows, j : j + columns]
                for i in range(kh)
                for j in range(kw)
            ]
        )
        out = seen.reshape(kh * kw * c, -1) @ products
    else:  # One product a tap: no patches are built.
        taps = _taps(images, kh, kw, 1, padding)
        out = jnp.stack([tap.reshape(-1, c).T @ products for tap in taps])
    return out.reshape(kh, kw, c, o)


def _kernel_gradient_forward(images: jax.Array, gradient: jax.Array, padding: Padding):
    return _kernel_gradient(images, gradient, padding), (images, gradient)


def _kernel_gradient_backward(padding: Padding, saved, kernel: jax.Array):
    images, gradient = saved
    return _image_gradient(gradient, kernel, padding), _mixed(images, kernel, padding)


_kernel_gradient.defvjp(_kernel_gradient_forward, _kernel_gradient_backward)


def upsample_conv2d(
    images: Float[Array, "n h w c"],
    kernel: Float[Array, "3 3 c o"],
    *,
    lowering: Lowering = "auto",
) -> Float[Array, "n H W o"]:
    """Nearest x2 upsampling followed by a padded 3x3 convolution, exactly.

    Each of the four output phases sees only a 2x2 neighbourhood of the small image,
    so four 2x2 convolutions at low resolution give the same numbers with 2.25x fewer
    multiplications.

    Args:
      images: [n, h, w, c].
      kernel: [3, 3, c, o].
      lowering: see `conv2d`.

    Returns:
      [n, 2*h, 2*w, o].
    """
    n, h, w, _ = images.shape
    o = kernel.shape[-1]

    def fold(taps: jax.Array, phase: int) -> jax.Array:
        # Output row 2i+phase reads upsampled rows 2i+phase-1 .. 2i+phase+1, which are
        # low-resolution rows (i-1, i, i) for phase 0 and (i, i, i+1) for phase 1.
        first, second, third = taps
        pair = (first, second + third) if phase == 0 else (first + second, third)
        return jnp.stack(pair)

    columns = []
    for a in (0, 1):
        by_row = fold(kernel, a)  # [2, 3, c, o]
        for b in (0, 1):
            small = jnp.swapaxes(fold(jnp.swapaxes(by_row, 0, 1), b), 0, 1)
            padding = ((1 - a, a), (1 - b, b))
            columns.append(
                conv2d(images, small, padding=padding, lowering=lowering)
            )  # [n, h, w, o]
    grid = jnp.stack(columns, axis=3).reshape(n, h, w, 2, 2, o)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * h, 2 * w, o)


def fan_out_normal(
    key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32
) -> jax.Array:
    """Normal with variance 2 / (kh * kw * out): the released codes' initialiser."""
    std = (2.0 / (shape[0] * shape[1] * shape[3])) ** 0.5
    return std * jax.random.normal(key, shape, dtype)


def torch_uniform(fan_in: int) -> Callable[..., jax.Array]:
    """PyTorch's default for biases and linear layers: U(+-1/sqrt(fan_in))."""
    bound = fan_in**-0.5

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Conv(nn.Module):
    """Convolution layer with the parameters ``kernel`` (HWIO) and ``bias``."""

    features: int
    size: int = 3
    stride: int = 1
    use_bias: bool = False
    upsample: bool = False
    kernel_init: Callable[..., jax.Array] = fan_out_normal
    lowering: Lowering = "auto"

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps [n, h, w, c] to [n, h', w', features], padded by size // 2."""
        c = images.shape[-1]
        shape = (self.size, self.size, c, self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        kernel = kernel.astype(images.dtype)
        if self.upsample:
            out = upsample_conv2d(images, kernel, lowering=self.lowering)
        else:
            pad = self.size // 2
            out = conv2d(
                images,
                kernel,
                stride=self.stride,
                padding=((pad, pad), (pad, pad)),
                lowering=self.lowering,
            )
        if self.use_bias:
            init = torch_uniform(self.size * self.size * c)
            bias = self.param("bias", init, (self.features,))
            out = out + bias.astype(out.dtype)
        return out
