"""Views, permutations, slices, joins, padding, look-ups and constants."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from free_jax.models.operators.kinds import axes, bounded, jax_dtype

# "To the end", as graphs spell it, is the largest integer of 64 bits.
_END = 2**40


def reshape(self, shape):
    """The same numbers in another shape; one size may be -1."""
    return jnp.reshape(self, tuple(int(size) for size in shape))


def flatten(self, start_dim=0, end_dim=-1):
    """Joins neighbouring axes into one."""
    if not self.ndim:
        return self.reshape(1)
    first, last = start_dim % self.ndim, end_dim % self.ndim
    joined = math.prod(self.shape[first : last + 1])
    return self.reshape(self.shape[:first] + (joined,) + self.shape[last + 1 :])


def unflatten(self, dim, sizes):
    """Takes one axis apart."""
    dim %= self.ndim
    sizes = list(sizes)
    if -1 in sizes:
        rest = -math.prod(sizes)
        sizes[sizes.index(-1)] = self.shape[dim] // rest
    return self.reshape(self.shape[:dim] + tuple(sizes) + self.shape[dim + 1 :])


def squeeze(self, dim=None):
    """Drops axes of size one."""
    dims = (d for d in axes(dim, self.ndim) if self.shape[d] == 1)
    return jnp.squeeze(self, tuple(dims))


def expand(self, size):
    """Repeats axes of size one; -1 keeps a size."""
    lead = len(size) - self.ndim
    sizes = [self.shape[i - lead] if s == -1 else s for i, s in enumerate(size)]
    return jnp.broadcast_to(self, sizes)


def _window(x, dim: int, start, end, step=1):
    dim %= x.ndim
    start = None if start is not None and abs(start) > _END else start
    end = None if end is not None and end > _END else end
    return (slice(None),) * dim + (slice(start, end, step),)


def slice_(self, dim=0, start=None, end=None, step=1):
    """Part of an axis."""
    return self[_window(self, dim, start, end, step)]


def slice_scatter(self, src, dim=0, start=None, end=None, step=1):
    """A copy with part of an axis replaced."""
    return jnp.asarray(self).at[_window(self, dim, start, end, step)].set(src)


def select(self, dim, index):
    """One entry of an axis, which goes."""
    return self[(slice(None),) * (dim % self.ndim) + (index,)]


def select_scatter(self, src, dim, index):
    """A copy with one entry of an axis replaced."""
    where = (slice(None),) * (dim % self.ndim) + (index,)
    return jnp.asarray(self).at[where].set(src)


def narrow(self, dim, start, length):
    """``length`` entries of an axis."""
    return slice_(self, dim, start, start + length)


def split(self, split_size, dim=0):
    """Parts of equal size; the last may be smaller."""
    size = self.shape[dim]
    return jnp.split(self, list(range(split_size, size, split_size)), dim)


def split_with_sizes(self, split_sizes, dim=0):
    """Parts of given sizes."""
    return jnp.split(self, np.cumsum(split_sizes)[:-1].tolist(), dim)


def chunk(self, chunks, dim=0):
    """At most so many parts of equal size."""
    return split(self, -(-self.shape[dim] // chunks), dim)


def unbind(self, dim=0):
    """The entries of an axis."""
    return [select(self, dim, i) for i in range(self.shape[dim])]


def roll(self, shifts, dims=None):
    """Moves entries along axes, round the end."""
    shifts = shifts if isinstance(shifts, list | tuple) else [shifts]
    if not dims:
        return jnp.roll(self, shifts[0])
    return jnp.roll(self, tuple(shifts), tuple(dims))


def rot90(self, k=1, dims=(0, 1)):
    """Turns a plane by right angles."""
    return jnp.rot90(self, k, tuple(dims))


def index(self, indices):
    """Look-up by arrays, one an axis; None takes all of an axis."""
    where = tuple(slice(None) if i is None else i for i in indices)
    return jnp.asarray(self)[where]


def index_put(self, indices, values, accumulate=False):
    """A copy with entries replaced, or added to."""
    where = tuple(slice(None) if i is None else i for i in indices)
    at = jnp.asarray(self).at[where]
    return at.add(values) if accumulate else at.set(values)


def scatter(self, dim, index, src):
    """A copy with entries along an axis replaced."""
    where = list(jnp.meshgrid(*map(jnp.arange, index.shape), indexing="ij"))
    where[dim] = index
    return jnp.asarray(self).at[tuple(where)].set(src)


def gather(self, dim, index):
    """Entries along an axis, by an array of their places."""
    if self.ndim and any(
        i != d % self.ndim and index.shape[i] != self.shape[i]
        for d in (dim,)
        for i in range(self.ndim)
    ):
        cut = tuple(
            slice(None) if i == dim % self.ndim else slice(index.shape[i])
            for i in range(self.ndim)
        )
        self = self[cut]
    return jnp.take_along_axis(jnp.asarray(self), index, dim)


def unfold(self, dimension, size, step):
    """Windows along an axis, as a new last axis."""
    count = (self.shape[dimension] - size) // step + 1
    where = np.arange(count)[:, None] * step + np.arange(size)
    return jnp.moveaxis(jnp.take(self, where, dimension), dimension % self.ndim + 1, -1)


_PADDING = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def pad(self, pad, mode="constant", value=None):
    """Pads the last axes first; negative sizes crop (constant mode)."""
    sides = [(0, 0)] * self.ndim
    for i in range(len(pad) // 2):
        sides[self.ndim - 1 - i] = (pad[2 * i], pad[2 * i + 1])
    if mode == "constant":
        fill = jnp.asarray(0 if value is None else value, self.dtype)
        return jax.lax.pad(self, fill, [(*side, 0) for side in sides])
    return jnp.pad(self, sides, mode=_PADDING[mode])


def constant_pad(self, pad_, value=0):
    """`pad` with a constant."""
    return pad(self, pad_, "constant", value)


def pixel_shuffle(self, upscale_factor):
    """Channels to blocks of pixels."""
    *n, c, h, w = self.shape
    r = upscale_factor
    x = self.reshape(*n, c // r**2, r, r, h, w)
    k = len(n)
    x = x.transpose(*range(k), k, k + 3, k + 1, k + 4, k + 2)
    return x.reshape(*n, c // r**2, h * r, w * r)


def pixel_unshuffle(self, downscale_factor):
    """Blocks of pixels to channels."""
    *n, c, h, w = self.shape
    r = downscale_factor
    x = self.reshape(*n, c, h // r, r, w // r, r)
    k = len(n)
    x = x.transpose(*range(k), k, k + 2, k + 4, k + 1, k + 3)
    return x.reshape(*n, c * r**2, h // r, w // r)


def channel_shuffle(self, groups):
    """Deals channels out among groups."""
    n, c, *sizes = self.shape
    x = self.reshape(n, groups, c // groups, *sizes)
    return x.swapaxes(1, 2).reshape(self.shape)


def arange(start, end=None, step=1, dtype=None):
    """Numbers in steps, known when the network is compiled."""
    first, last = (0, start) if end is None else (start, end)
    bounded((last - first) / step)
    numbers = np.arange(first, last, step)
    if dtype is None:
        dtype = "torch.int64" if numbers.dtype.kind == "i" else "torch.float32"
    return numbers.astype(jax_dtype(dtype))


def linspace(start, end, steps, dtype=None):
    """Numbers at equal distances."""
    bounded(steps)
    return np.linspace(start, end, steps).astype(jax_dtype(dtype or "torch.float32"))


def full(size, fill_value, dtype=None):
    """One number in a shape."""
    if dtype is None:
        kinds = {bool: "torch.bool", int: "torch.int64"}
        dtype = kinds.get(type(fill_value), "torch.float32")
    shape = tuple(int(s) for s in size)
    bounded(math.prod(shape))
    if isinstance(fill_value, jax.Array):
        return jnp.full(shape, fill_value, jax_dtype(dtype))
    return np.full(shape, fill_value, jax_dtype(dtype))


def full_like(self, fill_value, dtype=None):
    """One number in another value's shape."""
    return jnp.full_like(self, fill_value, dtype=jax_dtype(dtype) if dtype else None)


def _constant(value):
    return lambda size, dtype=None: full(size, value, dtype or "torch.float32")


def _constant_like(value):
    return lambda self, dtype=None: full_like(self, value, dtype)


def new_constant(value):
    """A constant of a given shape and another value's kind."""
    return lambda self, size, dtype=None: jnp.full(
        tuple(size), value, jax_dtype(dtype) if dtype else self.dtype
    )


def scalar_tensor(s, dtype=None):
    """A number as an array without axes."""
    return full((), s, dtype)


def eye(n, m=None, dtype=None):
    """Ones on the diagonal."""
    bounded(n * (n if m is None else m))
    return np.eye(n, m, dtype=jax_dtype(dtype or "torch.float32"))


def copy(self, src):
    """The second value in the shape and kind of the first."""
    return jnp.broadcast_to(src, self.shape).astype(self.dtype)


def meshgrid(tensors, indexing="ij"):
    """Coordinates of a grid."""
    return jnp.meshgrid(*tensors, indexing=indexing)


def one_hot(self, num_classes=-1):
    """Rows of zeros with a one."""
    return jax.nn.one_hot(self, num_classes, dtype=jnp.int32)


def repeat_interleave(self, repeats, dim=None):
    """Each entry several times in a row."""
    return jnp.repeat(self, repeats, axis=dim)


def as_strided(self, size, stride, storage_offset=None):
    """Only where it leaves a value as it is."""
    if list(size) != list(self.shape):
        raise NotImplementedError("aten.as_strided.default of another shape")
    return self


def tile(self, dims):
    """Copies side by side."""
    return jnp.tile(self, tuple(dims))


TABLE: dict[str, Any] = {
    "aten.arange.default": lambda end, dtype=None: arange(end, dtype=dtype),
    "aten.arange.start": lambda start, end, dtype=None: arange(start, end, 1, dtype),
    "aten.arange.start_step": arange,
    "aten.as_strided.default": as_strided,
    "aten.broadcast_to.default": expand,
    "aten.cat.default": lambda tensors, dim=0: jnp.concatenate(
        [jnp.asarray(t) for t in tensors if t.shape != (0,)], dim
    ),
    "aten.channel_shuffle.default": channel_shuffle,
    "aten.chunk.default": chunk,
    "aten.constant_pad_nd.default": lambda self, pad, value=0: constant_pad(
        self, pad, value
    ),
    "aten.copy.default": copy,
    "aten.diagonal.default": lambda self, offset=0, dim1=0, dim2=1: jnp.diagonal(
        self, offset, dim1, dim2
    ),
    "aten.embedding.default": lambda weight, indices: jnp.asarray(weight)[indices],
    "aten.empty.memory_format": _constant(0),
    "aten.expand.default": expand,
    "aten.expand_as.default": lambda self, other: jnp.broadcast_to(self, other.shape),
    "aten.eye.default": lambda n, dtype=None: eye(n, None, dtype),
    "aten.eye.m": eye,
    "aten.fill.Scalar": lambda self, value: jnp.full_like(self, value),
    "aten.flatten.using_ints": flatten,
    "aten.flip.default": lambda self, dims: jnp.flip(self, tuple(dims)),
    "aten.full.default": full,
    "aten.full_like.default": full_like,
    "aten.gather.default": gather,
    "aten.index.Tensor": index,
    "aten.index_put.default": index_put,
    "aten.index_select.default": lambda self, dim, index: jnp.take(self, index, dim),
    "aten.linspace.default": linspace,
    "aten.meshgrid.default": meshgrid,
    "aten.meshgrid.indexing": meshgrid,
    "aten.movedim.int": lambda self, source, destination: jnp.moveaxis(
        self, source, destination
    ),
    "aten.movedim.intlist": lambda self, source, destination: jnp.moveaxis(
        self, source, destination
    ),
    "aten.narrow.default": narrow,
    "aten.new_empty.default": new_constant(0),
    "aten.new_full.default": lambda self, size, fill_value, dtype=None: new_constant(
        fill_value
    )(self, size, dtype),
    "aten.new_ones.default": new_constant(1),
    "aten.new_zeros.default": new_constant(0),
    "aten.numel.default": lambda self: math.prod(self.shape),
    "aten.one_hot.default": one_hot,
    "aten.ones.default": _constant(1),
    "aten.ones_like.default": _constant_like(1),
    "aten.pad.default": pad,
    "aten.permute.default": lambda self, dims: jnp.transpose(self, dims),
    "aten.pixel_shuffle.default": pixel_shuffle,
    "aten.pixel_unshuffle.default": pixel_unshuffle,
    "aten.reflection_pad2d.default": lambda self, padding: pad(
        self, padding, "reflect"
    ),
    "aten.repeat.default": lambda self, repeats: jnp.tile(self, tuple(repeats)),
    "aten.repeat_interleave.self_int": repeat_interleave,
    "aten.replication_pad2d.default": lambda self, padding: pad(
        self, padding, "replicate"
    ),
    "aten.reshape.default": reshape,
    "aten.roll.default": roll,
    "aten.rot90.default": rot90,
    "aten.scalar_tensor.default": scalar_tensor,
    "aten.scatter.src": scatter,
    "aten.scatter.value": lambda self, dim, index, value: scatter(
        self, dim, index, value
    ),
    "aten.select.int": select,
    "aten.select_scatter.default": select_scatter,
    "aten.slice.Tensor": slice_,
    "aten.slice_scatter.default": slice_scatter,
    "aten.split.Tensor": split,
    "aten.split_with_sizes.default": split_with_sizes,
    "aten.squeeze.default": lambda self: squeeze(self),
    "aten.squeeze.dim": squeeze,
    "aten.squeeze.dims": squeeze,
    "aten.stack.default": lambda tensors, dim=0: jnp.stack(
        [jnp.asarray(t) for t in tensors], dim
    ),
    "aten.sym_numel.default": lambda self: math.prod(self.shape),
    "aten.sym_size.int": lambda self, dim: self.shape[dim],
    "aten.t.default": lambda self: jnp.asarray(self).T,
    "aten.tile.default": tile,
    "aten.transpose.int": lambda self, dim0, dim1: jnp.swapaxes(self, dim0, dim1),
    "aten.tril.default": lambda self, diagonal=0: jnp.tril(self, diagonal),
    "aten.triu.default": lambda self, diagonal=0: jnp.triu(self, diagonal),
    "aten.unbind.int": unbind,
    "aten.unflatten.int": unflatten,
    "aten.unfold.default": unfold,
    "aten.unsqueeze.default": lambda self, dim: jnp.expand_dims(self, dim),
    "aten.zeros.default": _constant(0),
    "aten.zeros_like.default": _constant_like(0),
}
