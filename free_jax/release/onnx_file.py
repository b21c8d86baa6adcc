"""A model as an ONNX file: images as they are in, descriptions or features out.

Everything is in the file, from 8 bits to the whitening, so that onnxruntime alone gives
what `panel.model.embed` gives.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from free_jax.errors import InputError
from free_jax.fewshot import heads
from free_jax.images import to_float
from free_jax.panel import model as distilled
from free_jax.panel import ragged
from free_jax.release.onnx_writers import WRITERS, Builder, traced
from free_jax.release.onnx_writers.builder import IR_VERSION, OPSET
from free_jax.types import PyTree
from free_jax.zoo.network import Network

_DTYPES = {"uint8": np.uint8, "float": np.float32}
# Where a teacher has no output: no share of a softmax.
_NOTHING = -1e30


def output_of(variables: PyTree) -> str:
    """What a model gives for an image: "descriptions", or "features" without heads."""
    return "descriptions" if "descriptions" in variables else "features"


def has_statistics(variables: PyTree) -> bool:
    """Whether batch norm has statistics of its own; else it takes the images'."""
    return bool(jax.tree.leaves(variables.get("batch_stats", {})))


def features(network: Network, variables: PyTree, images: jax.Array) -> jax.Array:
    """What a meta-learned model is exported as: the input of its last layer."""
    norm = "running" if has_statistics(variables) else "batch"
    return network.apply(variables, images, norm=norm, features=True)


def onnx_model(network: Network, variables: PyTree, given: str = "uint8") -> Any:
    """A model as an ``onnx.ModelProto``.

    Args:
      network: of the model.
      variables: with ``descriptions``, the model is `panel.model.embed`; without,
        its features.
      given: images are "uint8", or "float" in [0, 1].

    Returns:
      A model from ``images`` [n, h, w, c] to ``descriptions`` or ``features`` [n, d],
      for any n, in float32 whatever the network's dtype.

    Raises:
      InputError: neither a writer here nor jax2onnx knows the network.
    """
    if given not in _DTYPES:
        raise InputError(f"input {given!r}: choose uint8 or float")
    writer = WRITERS.get(type(network.module))
    if writer is None:
        return _traced(network, jax.tree.map(jnp.asarray, variables), given)
    described = "descriptions" in variables
    variables = jax.tree.map(np.asarray, variables)
    build = Builder()
    x = _normalised(build, network, given)
    if described:
        x = _with_mirror_images(build, x)
    x = build.node("Transpose", x, perm=[0, 3, 1, 2])
    x = writer(build, network.module, variables, x)
    if described:
        x = build.dense(x, variables["params"]["head"])
        x = _descriptions(build, x, variables["descriptions"], network.num_classes)
    output = output_of(variables)
    build.node("Identity", x, output=output)
    return _model(build, network, given, output, width_of(network, variables))


def is_written(network: Network) -> bool:
    """Whether a network is written node by node, without jax2onnx."""
    return type(network.module) in WRITERS


def onnx_classifier(network: Network, variables: PyTree) -> Any:
    """A teacher as inference services have them, as an ``onnx.ModelProto``.

    Args:
      network: one that `is_written`.
      variables: of one teacher, see `zoo.take`.

    Returns:
      A model from ``images`` [n, h, w, c], float32 in red, green and blue, NORMALISED
      as the network's `mean` and `std` say, to ``logits`` [n, num_classes].

    Raises:
      InputError: nothing here writes the network.
    """
    writer = WRITERS.get(type(network.module))
    if writer is None:
        raise InputError(
            f"{network.name} is not written as ONNX nodes; serve it as it is, by JAX "
            "(`remote.mlserver_model.ZooModel`)"
        )
    variables = jax.tree.map(np.asarray, variables)
    build = Builder()
    x = _in_order(build, network, "images")
    x = build.node("Transpose", x, perm=[0, 3, 1, 2])
    x = writer(build, network.module, variables, x)
    x = build.dense(x, variables["params"]["head"])
    build.node("Identity", x, output="logits")
    return _model(build, network, "float", "logits", network.num_classes)


def _normalised(build: Builder, network: Network, given: str) -> str:
    """`Network.normalize` of the input."""
    x = "images"
    if given == "uint8":
        x = build.node("Cast", x, to=1)  # float32
        x = build.node("Div", x, build.constant(255.0))
    x = build.node("Sub", x, build.constant(network.mean))
    x = build.node("Div", x, build.constant(network.std))
    return _in_order(build, network, x)


def _in_order(build: Builder, network: Network, x: str) -> str:
    """Normalised images with the channels as the network reads them."""
    if not network.bgr:
        return x
    return build.node("Gather", x, build.constant([2, 1, 0], np.int64), axis=3)


def _with_mirror_images(build: Builder, x: str) -> str:
    """[2n, h, w, c]: the images, then each of them mirrored."""
    # Along the columns, backwards, from the last to before the first.
    where = [build.constant([v], np.int64) for v in (-1, np.iinfo(np.int64).min, 2, -1)]
    return build.node("Concat", x, build.node("Slice", x, *where), axis=0)


def _descriptions(build: Builder, logits: str, how: PyTree, outputs: int) -> str:
    """`panel.model.embed` from the logits [2n, C] of both views."""
    number = len(how["weights"])
    columns = how.get("columns")
    if columns is None:
        columns = ragged.equal_columns(number, outputs // number)
    widths = np.diff(columns)
    owners = np.repeat(np.arange(number), widths)
    x = build.node("Div", logits, build.constant(how["temperature"]))
    x = _softmax(build, x, columns)
    x = build.node("Sub", x, build.constant((1.0 / widths)[owners]))
    x = build.node("Mul", x, build.constant(how["weights"][owners]))
    x = build.node("Reshape", x, build.constant([2, -1, outputs], np.int64))
    x = build.node("ReduceMean", x, axes=[0], keepdims=0)
    if "whitening" not in how:
        return x
    length = build.node("ReduceL2", x, axes=[1])
    length = build.node("Add", length, build.constant(1e-8))
    x = build.node("Sub", build.node("Div", x, length), build.constant(how["mean"]))
    if "outside" not in how:
        return build.node("MatMul", x, build.constant(how["whitening"]))
    along = build.node("MatMul", x, build.constant(how["whitening"]))
    along = build.node("MatMul", along, build.constant(how["whitening"].T))
    x = build.node("Mul", x, build.constant(how["outside"]))
    return build.node("Sub", x, along)


def _softmax(build: Builder, x: str, columns: np.ndarray) -> str:
    """Softmax over each teacher's outputs, side by side before and after."""
    mask = ragged.padding_mask(columns)
    if not mask.all():
        index = np.where(mask, columns[:-1, None] + np.arange(mask.shape[1]), 0)
        x = build.node("Gather", x, build.constant(index.ravel(), np.int64), axis=1)
        x = build.node("Add", x, build.constant(np.where(mask, 0, _NOTHING).ravel()))
    x = build.node("Reshape", x, build.constant([-1, *mask.shape], np.int64))
    x = build.node("Softmax", x, axis=-1)
    x = build.node("Reshape", x, build.constant([-1, mask.size], np.int64))
    if not mask.all():
        kept = np.flatnonzero(mask)
        x = build.node("Gather", x, build.constant(kept, np.int64), axis=1)
    return x


def width_of(network: Network, variables: PyTree) -> int:
    """Numbers that the model gives for an image."""
    if "descriptions" in variables:
        return network.num_classes
    images = jax.ShapeDtypeStruct((1, *network.image_shape), jnp.float32)
    rows = jax.eval_shape(lambda v, x: features(network, v, x), variables, images)
    return int(rows.shape[-1])


def _model(
    build: Builder, network: Network, given: str, output: str, width: int
) -> Any:
    import onnx
    from onnx import helper

    kind = helper.np_dtype_to_tensor_dtype(np.dtype(_DTYPES[given]))
    shape = ["n", width]
    graph = helper.make_graph(
        build.nodes,
        "free_jax",
        [helper.make_tensor_value_info("images", kind, ["n", *network.image_shape])],
        [helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, shape)],
        build.constants,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="free_jax",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _traced(network: Network, variables: PyTree, given: str) -> Any:
    how = variables.get("descriptions")

    def described(images: jax.Array) -> jax.Array:
        images = to_float(images)
        if how is None:
            return features(network, variables, images)
        if "columns" not in how:
            return distilled.embed(network, variables, images)
        once = _once_ragged(network, variables)
        rows = (once(images) + once(images[:, :, ::-1])) / 2
        if "whitening" not in how:
            return rows
        return heads.whiten(rows, how["mean"], how["whitening"], how.get("outside"))

    return traced(
        described,
        network.image_shape,
        _DTYPES[given],
        network=network.name,
        outputs=output_of(variables),
    )


def _once_ragged(network: Network, variables: PyTree):
    """One view's description without sums over segments, which ONNX has not."""
    how = jax.tree.map(np.asarray, variables["descriptions"])
    columns = how["columns"]
    mask = ragged.padding_mask(columns)
    widths = np.diff(columns)
    owners = np.repeat(np.arange(len(widths)), widths)

    def once(images: jax.Array) -> jax.Array:
        logits = network.apply(variables, images) / how["temperature"]
        p = jax.nn.softmax(ragged.padded(logits, columns, _NOTHING))
        p = p.reshape(p.shape[0], -1)[:, np.flatnonzero(mask)]
        chance = (1.0 / widths)[owners].astype(np.float32)
        return (p - chance) * how["weights"][owners]

    return once
