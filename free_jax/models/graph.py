"""Any classifier as one Linen module: a program, and weights in order of use.

The program is interpreted while tracing; what is compiled is plain jnp and lax.  A
graph's values are NCHW, as its operators' names say; convolutions transpose to NHWC,
which costs nothing (see `operators.convolution`).
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from free_jax.errors import InputError
from free_jax.models import program_text
from free_jax.models.cpu.convolution import torch_uniform
from free_jax.models.normalization import Norm
from free_jax.models.operators import OPERATORS, layout
from free_jax.models.operators.normalization import moments, normalize_channels
from free_jax.models.program_text import Instructions, Value
from free_jax.types import PyTree

# The axis of images where a graph takes one at a time.
_IMAGES = "images"
# What a wrong size of image, or a program that contradicts itself, ends in.
_MISFITS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    TypeError,
    ValueError,
)


class Graph(nn.Module):
    """A network that is read from a file rather than written here.

    Parameters are ``w000``, ``w001``, .. in order of first use and ``head``
    (``kernel`` [f, num_classes], ``bias``); statistics ``n000`` .. (``mean``, ``var``).

    Attributes:
      num_classes: number of outputs; of no effect without a linear head.
      program: a text of `program_text`, made by `interop.programs`.
      dtype: of activations and weights in use, e.g. "bfloat16"; parameters, moments
        and the head keep theirs.  None takes the images'.
    """

    num_classes: int
    program: str
    dtype: str | None = None

    @nn.compact
    def __call__(
        self, images: jax.Array, *, norm: Norm, features: bool = False
    ) -> jax.Array:
        """Maps normalised images to logits.

        Args:
          images: [n, h, w, c], normalised; of the sizes that the graph was made for.
          norm: see `normalization.BatchNorm`; batch norms inside report moments so.
          features: return what enters the linear head [n, f] instead.

        Returns:
          Logits [n, num_classes], or features.

        Raises:
          InputError: the program cannot run on images of this shape, or has no linear
            head and features are asked for.
        """
        program = program_text.read(self.program)
        if features and program.head is None:
            raise InputError("features of a graph without a linear head at its end")
        starts = _initializers(program)
        weights = {
            name: self.param(name, starts[name], shape)
            for name, shape in program.shapes.items()
        }
        if program.head is not None:
            weights["head"] = self.param(
                "head", _init_head, program.head, self.num_classes
            )
        stats = {}
        if norm == "running" or self.is_initializing():
            stats = {
                name: self.variable("batch_stats", name, _init_stats, channels).value
                for name, channels in program.norms.items()
            }
        out, seen = run(
            program,
            weights,
            {} if norm == "batch" else stats,
            images,
            dtype=self.dtype,
            features=features,
            moments_wanted=norm == "batch" or self.is_mutable_collection("moments"),
        )
        for name, value in seen.items():
            self.sow(
                "moments",
                name,
                value,
                reduce_fn=lambda _, new: new,
                init_fn=lambda: jnp.zeros(()),  # never used: see reduce_fn
            )
        return out


def run(
    program: Instructions,
    weights: PyTree,
    stats: PyTree,
    images: jax.Array,
    *,
    dtype: str | None = None,
    features: bool = False,
    moments_wanted: bool = False,
) -> tuple[jax.Array, PyTree]:
    """Interprets a program.

    Args:
      program: what to compute.
      weights: by name, and ``head``.
      stats: mean and variance of each batch norm; without an entry it takes the
        batch's own.
      images: [n, h, w, c], normalised.
      dtype: see `Graph`.
      features: return what enters the head.
      moments_wanted: also return mean and variance of what enters each batch norm.

    Returns:
      [n, num_classes] (or [n, f]), and the moments by name ({} unless wanted).
    """
    step = functools.partial(
        _interpret, program, weights, stats, dtype, features, moments_wanted
    )
    if program.batch is None:
        return step(images, None)
    one = jax.vmap(
        lambda image: step(image[None], _IMAGES), axis_name=_IMAGES, out_axes=(0, None)
    )
    out, seen = one(images)
    return out.reshape(out.shape[0], -1), seen


def _interpret(
    program: Instructions,
    weights: PyTree,
    stats: PyTree,
    dtype: str | None,
    features: bool,
    moments_wanted: bool,
    images: jax.Array,
    axis_name: str | None,
) -> tuple[jax.Array, PyTree]:
    x = images.astype(dtype or images.dtype).transpose(0, 3, 1, 2)
    values = {**program.constants, "x": x}
    for name in program.shapes:
        values[name] = jnp.asarray(weights[name], dtype)
    seen: dict[str, Any] = {}
    standing: set[str] = set()  # Values that are channels last in memory.
    stop = program.features if features else program.output
    for i, (op, args, kwargs) in enumerate(program.nodes):
        if stop is not None and stop.name == f"v{i - 1}":
            break
        try:
            if op == "batch_norm":
                last = args[0].name in standing
                value, found = _batch_norm(
                    args, values, stats, moments_wanted, axis_name, last
                )
                if last:
                    standing.add(f"v{i}")
                if moments_wanted:
                    seen[args[3].name] = found
            elif op == "head":
                entering = _get(args[0], values).astype(images.dtype)
                head = weights["head"]
                value = entering @ head["kernel"] + head["bias"]
            else:
                given = [_get(arg, values) for arg in args]
                named = {key: _get(arg, values) for key, arg in kwargs.items()}
                names = {arg.name for arg in args if isinstance(arg, Value)}
                if layout.keeps_channels_last(op, names, standing):
                    value = layout.elementwise(OPERATORS[op], given, named)
                    standing.add(f"v{i}")
                else:
                    value = OPERATORS[op](*given, **named)
                    if layout.leaves_channels_last(op, args):
                        standing.add(f"v{i}")
        except InputError:
            raise
        except _MISFITS as error:
            shapes = [getattr(_get(arg, values), "shape", "") for arg in args[:2]]
            raise InputError(
                f"operation {i} of the graph, {op} of shapes "
                f"{', '.join(map(str, filter(None, shapes)))}, cannot run on images of "
                f"shape {tuple(images.shape[1:])}: {str(error).splitlines()[0][:200]}"
                if str(error)
                else f"operation {i} of the graph, {op}, cannot run"
            ) from error
        values[f"v{i}"] = value
    out = _get(stop, values)
    return out.reshape(images.shape[0], -1).astype(images.dtype), seen


def _get(value: Any, values: dict[str, Any]) -> Any:
    if isinstance(value, Value):
        return values[value.name]
    if isinstance(value, list):
        return [_get(part, values) for part in value]
    return value


def _batch_norm(args, values, stats, moments_wanted, axis_name, last):
    """The normalised value, and the moments of what entered."""
    x, weight, bias = (_get(arg, values) for arg in args[:3])
    name, eps = args[3].name, args[4]
    found = None
    if moments_wanted:
        mean, var = moments(x)
        if axis_name is not None:  # One image each: the law of total variance.
            own, mean = mean, jax.lax.pmean(mean, axis_name)
            var = jax.lax.pmean(var + jnp.square(own - mean), axis_name)
        found = {"mean": mean, "var": var}
    used = stats.get(name, found)
    given = weight, bias, used["mean"], used["var"], eps
    if not last:
        return normalize_channels(x, *given), found
    out = normalize_channels(layout.channels_last(x), *given, axis=-1)
    return layout.channels_first(out), found


def _init_head(key: jax.Array, features: int, num_classes: int) -> PyTree:
    start = torch_uniform(features)
    keys = jax.random.split(key)
    return {
        "kernel": start(keys[0], (features, num_classes)),
        "bias": start(keys[1], (num_classes,)),
    }


def _init_stats(channels: int) -> PyTree:
    return {"mean": jnp.zeros((channels,)), "var": jnp.ones((channels,))}


def _initializers(program: Instructions) -> dict[str, Callable[..., jax.Array]]:
    """How each weight starts, by the operator that uses it first."""
    starts: dict[str, Callable[..., jax.Array]] = {}
    for op, args, _ in program.nodes:
        name = op.split(".")[1] if "." in op else op
        if "norm" in name.lower():
            first, wide = nn.initializers.ones, nn.initializers.zeros
        elif "conv" in name.lower() or name in ("linear", "matmul", "Gemm", "MatMul"):
            first, wide = _fan_in_normal, nn.initializers.zeros
        elif "prelu" in name.lower():
            first = wide = nn.initializers.constant(0.25)
        else:
            continue
        mine = [arg.name for arg in args if isinstance(arg, Value)]
        for i, weight in enumerate(w for w in mine if w in program.shapes):
            starts.setdefault(weight, wide if i else first)
    for weight, shape in program.shapes.items():
        small = nn.initializers.normal(0.02)
        starts.setdefault(weight, small if len(shape) > 1 else nn.initializers.ones)
    return starts


def _fan_in_normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    fan_in = math.prod(shape[1:]) or 1
    return math.sqrt(2.0 / fan_in) * jax.random.normal(key, shape)
