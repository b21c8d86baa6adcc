"""Sizes that an ONNX graph computes with, and what keeps or changes shapes.

A graph asks for the shape of a value, picks, multiplies and joins sizes, and reshapes
by the result.  All of that is known when a network is compiled: values that do not
depend on images are numbers, lists or NumPy arrays and stay so through each of these
operators, while images are JAX arrays.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from free_jax.errors import InputError

# Numbers in one weight, and in one computed value: beyond what classifiers have, below
# what breaks a machine.
LARGEST, LARGEST_MADE = 2**28, 2**26
_END = 2**31 - 1  # "to the end" is at least this

_KINDS = {
    1: np.float32,
    2: np.uint8,
    3: np.int8,
    4: np.uint16,
    5: np.int16,
    6: np.int32,
    7: np.int64,
    9: np.bool_,
    10: np.float32,  # Widths of floats are the network's own matter.
    11: np.float32,
    12: np.uint32,
    13: np.uint64,
    16: np.float32,
}


def static(*values: Any) -> bool:
    """Whether all of them are known when the network is compiled."""
    return not any(isinstance(value, jax.Array) for value in values)


def array(value: Any) -> Any:
    """Lists as NumPy arrays; the rest as it is (a number stays weakly typed)."""
    return np.asarray(value) if isinstance(value, list | tuple) else value


def integers(values: Any) -> list[int]:
    """Sizes, axes or offsets as Python's integers.

    Raises:
      InputError: they depend on the images.
    """
    if not static(values):
        raise InputError("a shape of the graph depends on what the images show")
    flat = np.asarray(values, np.float64).reshape(-1)
    if not np.isfinite(flat).all() or np.abs(flat).max(initial=0) > 2**63:
        raise InputError("a size of the graph is no integer")
    return [int(value) for value in np.asarray(values).reshape(-1)]


def sized(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape, if a value may have it.

    Raises:
      InputError: negative sizes, or more numbers than any classifier needs.
    """
    shape = tuple(int(size) for size in shape)
    if min(shape, default=0) < 0 or math.prod(shape) > LARGEST_MADE:
        raise InputError(f"the graph computes a value of shape {list(shape)}")
    return shape


def either(with_numpy: Callable, with_jax: Callable) -> Callable:
    """One operator on static values and on images."""

    def apply(*values):
        function = with_numpy if static(*values) else with_jax
        return function(*map(array, values))

    return apply


def shape(data, start=0, end=None):
    """Sizes of a value."""
    return np.asarray(np.shape(data)[start:end], np.int64)


def size(data):
    """How many numbers a value has."""
    return np.asarray(math.prod(np.shape(data)), np.int64)


def cast(data, to, saturate=1, round_mode="up"):
    """Another kind of number; widths of floats are the network's own matter."""
    if to not in _KINDS:
        raise InputError(f"the graph computes with numbers of ONNX type {to}")
    kind = np.dtype(_KINDS[to])
    if static(data):
        return np.asarray(data).astype(kind)
    if kind.kind == "f" and jnp.issubdtype(data.dtype, jnp.floating):
        return data
    return data.astype(jax.dtypes.canonicalize_dtype(kind))


def cast_like(data, target, saturate=1, round_mode="up"):
    """The first value as the second one's kind of number."""
    kind = np.asarray(target).dtype if static(target) else target.dtype
    if static(data):
        return np.asarray(data).astype(kind)
    if jnp.issubdtype(kind, jnp.floating) and jnp.issubdtype(data.dtype, jnp.floating):
        return data
    return data.astype(jax.dtypes.canonicalize_dtype(kind))


def constant_of_shape(shape, value=0.0):
    """One number in a shape."""
    kind = np.float32 if isinstance(value, float) else None
    return np.full(sized(integers(shape)), value, kind)


def reshape(data, shape, allowzero=0):
    """The same numbers in another shape; 0 keeps a size, -1 is what is left."""
    data, wanted = array(data), integers(shape)
    if not allowzero:
        wanted = [
            np.shape(data)[i] if value == 0 else value for i, value in enumerate(wanted)
        ]
    return np.asarray(data).reshape(wanted) if static(data) else data.reshape(wanted)


def flatten(data, axis=1):
    """Two axes: what stands before `axis`, and the rest."""
    lead = math.prod(data.shape[: axis + data.ndim if axis < 0 else axis])
    return data.reshape(lead, -1)


def transpose(data, perm=None):
    """Another order of axes; reversed by default."""
    return data.transpose(perm) if perm else data.T


def concat(*values, axis):
    """Joins along an axis."""
    if static(*values):
        return np.concatenate([np.asarray(value) for value in values], axis)
    return jnp.concatenate([jnp.asarray(array(value)) for value in values], axis)


def unsqueeze(data, axes):
    """Adds axes of size one."""
    return (np if static(data) else jnp).expand_dims(array(data), tuple(integers(axes)))


def squeeze(data, axes=None):
    """Drops axes of size one: those named, or all."""
    which = None if axes is None else tuple(integers(axes))
    return (np if static(data) else jnp).squeeze(array(data), which)


def gather(data, indices, axis=0):
    """Entries of an axis; the shape of the indices takes its place."""
    data = array(data)
    if static(data, indices):
        return np.take(np.asarray(data), np.asarray(indices, np.int64), axis)
    size = np.shape(data)[axis]
    if static(indices):
        where = np.asarray(indices, np.int64)
        if np.ndim(indices) == 0:
            where = int(where) % size
            return jax.lax.index_in_dim(data, where, axis, keepdims=False)
        return jnp.take(data, where % size, axis)
    return jnp.take(jnp.asarray(data), indices % size, axis)


def gather_elements(data, indices, axis=0):
    """Entries along an axis, each position for itself."""
    indices = jnp.asarray(array(indices))
    data = jnp.asarray(array(data))
    cut = tuple(
        slice(None) if i == axis % data.ndim else slice(indices.shape[i])
        for i in range(data.ndim)
    )
    size = data.shape[axis]
    return jnp.take_along_axis(data[cut], indices % size, axis)


def gather_nd(data, indices, batch_dims=0):
    """Entries at places [..., k] of the first k axes."""
    if batch_dims:
        return jax.vmap(lambda d, i: gather_nd(d, i, batch_dims - 1))(
            jnp.asarray(array(data)), jnp.asarray(array(indices))
        )
    data, indices = array(data), array(indices)
    return data[tuple(indices[..., i] for i in range(indices.shape[-1]))]


def scatter_nd(data, indices, updates, reduction="none"):
    """A copy with entries at places [..., k] replaced or added to."""
    if reduction not in ("none", "add", "mul"):
        raise InputError(f"ScatterND with reduction {reduction!r} is not supported")
    indices = array(indices)
    at = jnp.asarray(data).at[tuple(indices[..., i] for i in range(indices.shape[-1]))]
    change = {"none": at.set, "add": at.add, "mul": at.multiply}[reduction]
    return change(jnp.asarray(array(updates)))


def slice_(data, starts, ends, axes=None, steps=None):
    """Parts of axes."""
    data, starts, ends = array(data), integers(starts), integers(ends)
    which = list(range(len(starts))) if axes is None else integers(axes)
    paces = [1] * len(starts) if steps is None else integers(steps)
    cut = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, which, paces, strict=True):
        # Before the first entry, which -1 would not say; and far behind the last.
        whole = (step < 0 and end < -data.shape[axis]) or end >= _END
        cut[axis] = slice(start, None if whole else end, step)
    return data[tuple(cut)]


def split(data, split=None, axis=0, num_outputs=1):
    """Parts of an axis, of given or equal sizes."""
    size = data.shape[axis]
    if split is None:
        each = -(-size // num_outputs)
        ends = [min(each * i, size) for i in range(1, num_outputs)]
    else:
        ends = np.cumsum(integers(split))[:-1].tolist()
    return tuple((np if static(data) else jnp).split(data, ends, axis))


def expand(data, shape):
    """Repeats axes of size one, on either side."""
    wanted = sized(np.broadcast_shapes(np.shape(data), tuple(integers(shape))))
    return (np if static(data) else jnp).broadcast_to(array(data), wanted)


def tile(data, repeats):
    """Copies side by side."""
    times = integers(repeats)
    sized([a * b for a, b in zip(np.shape(data), times, strict=True)])
    return (np if static(data) else jnp).tile(array(data), times)


def range_(start, limit, delta):
    """Numbers in steps."""
    if not static(start, limit, delta):
        raise InputError("a range of the graph depends on what the images show")
    start, limit, delta = (np.asarray(v).item() for v in (start, limit, delta))
    sized([max(0, math.ceil((limit - start) / delta))])
    return np.arange(start, limit, delta)


def pad(data, pads, value=None, axes=None, mode="constant"):
    """Pads axes by a constant or from their ends; negative pads crop."""
    modes = {"constant": "constant", "reflect": "reflect", "edge": "edge"}
    if mode not in (*modes, "wrap"):
        raise InputError(f"Pad with mode {mode!r} is not supported")
    pads = integers(pads)
    which = list(range(np.ndim(data))) if axes is None else integers(axes)
    sides = [(0, 0)] * np.ndim(data)
    for i, axis in enumerate(which):
        sides[axis] = (pads[i], pads[i + len(which)])
    sized([n + a + b for n, (a, b) in zip(np.shape(data), sides, strict=True)])
    if mode == "constant":
        data = jnp.asarray(data)
        fill = jnp.asarray(0 if value is None else value, data.dtype).reshape(())
        return jax.lax.pad(data, fill, [(*side, 0) for side in sides])
    cut = tuple(
        slice(max(-a, 0), n - max(-b, 0))
        for n, (a, b) in zip(data.shape, sides, strict=True)
    )
    sides = [(max(a, 0), max(b, 0)) for a, b in sides]
    return jnp.pad(data[cut], sides, mode=modes.get(mode, "wrap"))


def trilu(data, k=0, upper=1):
    """Zeros below (or above) a diagonal."""
    triangle = jnp.triu if upper else jnp.tril
    return triangle(jnp.asarray(data), int(np.asarray(k)))


def eye_like(data, dtype=1, k=0):
    """Ones on a diagonal."""
    return np.eye(*np.shape(data), k=k, dtype=_KINDS.get(dtype, np.float32))


def one_hot(indices, depth, values, axis=-1):
    """Rows of one value with another at one place."""
    (classes,) = integers(depth)
    off, on = values[0], values[1]
    sized([*np.shape(indices), classes])
    hot = jax.nn.one_hot(jnp.asarray(indices) % classes, classes, axis=axis)
    return off + hot * (on - off)


def depth_to_space(data, blocksize, mode="DCR"):
    """Channels to blocks of pixels."""
    n, c, h, w = data.shape
    r = blocksize
    if mode == "DCR":
        x = data.reshape(n, r, r, c // r**2, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        x = data.reshape(n, c // r**2, r, r, h, w).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(n, c // r**2, h * r, w * r)


def space_to_depth(data, blocksize):
    """Blocks of pixels to channels."""
    n, c, h, w = data.shape
    r = blocksize
    x = data.reshape(n, c, h // r, r, w // r, r).transpose(0, 3, 5, 1, 2, 4)
    return x.reshape(n, c * r**2, h // r, w // r)


def non_zero(data):
    """Places of what is not zero, of a value known when compiled."""
    if not static(data):
        raise InputError("the graph picks by what the images show (NonZero)")
    return np.asarray(np.nonzero(np.asarray(data)), np.int64)


TABLE: dict[str, Any] = {
    "onnx.Cast": cast,
    "onnx.CastLike": cast_like,
    "onnx.Concat": concat,
    "onnx.ConstantOfShape": constant_of_shape,
    "onnx.DepthToSpace": depth_to_space,
    "onnx.Expand": expand,
    "onnx.EyeLike": eye_like,
    "onnx.Flatten": flatten,
    "onnx.Gather": gather,
    "onnx.GatherElements": gather_elements,
    "onnx.GatherND": gather_nd,
    "onnx.NonZero": non_zero,
    "onnx.OneHot": one_hot,
    "onnx.Pad": pad,
    "onnx.Range": range_,
    "onnx.Reshape": reshape,
    "onnx.ScatterND": scatter_nd,
    "onnx.Shape": shape,
    "onnx.Size": size,
    "onnx.Slice": slice_,
    "onnx.SpaceToDepth": space_to_depth,
    "onnx.Split": split,
    "onnx.Squeeze": squeeze,
    "onnx.Tile": tile,
    "onnx.Transpose": transpose,
    "onnx.Trilu": trilu,
    "onnx.Unsqueeze": unsqueeze,
}
