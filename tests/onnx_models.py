"""Small ONNX models for tests, and how they are run here and by ONNX Runtime."""

import pathlib

import jax.numpy as jnp
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from free_jax.interop.onnx_graph import OnnxModel, read_onnx
from free_jax.interop.programs import canonical
from free_jax.models import graph as graph_module
from free_jax.models import program_text

FLOAT = TensorProto.FLOAT


def tensor(value, name: str) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


def model(
    nodes,
    weights=None,
    *,
    image=("n", 3, 8, 8),
    outputs=(("y", ("n", 5)),),
    opset=21,
    kind=FLOAT,
    metadata=None,
    functions=(),
) -> onnx.ModelProto:
    """A model of nodes; weights by name; input "x"."""
    slots = [
        helper.make_tensor_value_info(o[0], o[2] if len(o) > 2 else FLOAT, o[1])
        for o in outputs
    ]
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info("x", kind, image)],
        slots,
        [tensor(value, name) for name, value in (weights or {}).items()],
    )
    imports = [helper.make_opsetid("", opset)]
    imports += [
        helper.make_opsetid(domain, 1) for domain in {f.domain for f in functions}
    ]
    made = helper.make_model(
        graph, opset_imports=imports, ir_version=10, functions=list(functions)
    )
    for key, value in (metadata or {}).items():
        entry = made.metadata_props.add()
        entry.key, entry.value = key, value
    return made


def node(op, inputs, outputs=("y",), **attributes) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), list(outputs), **attributes)


def linear_model(classes: int = 5, *, size: int = 8, tail=(), **said):
    """Convolution, batch norm, ReLU, mean and Gemm, then what `tail` adds to "z"."""
    rng = np.random.default_rng(0)
    weights = {
        "conv.weight": rng.normal(size=(4, 3, 3, 3)).astype(np.float32) / 3,
        "bn.weight": rng.uniform(0.5, 1.5, 4).astype(np.float32),
        "bn.bias": rng.normal(size=4).astype(np.float32),
        "bn.mean": rng.normal(size=4).astype(np.float32),
        "bn.var": rng.uniform(0.5, 1.5, 4).astype(np.float32),
        "fc.weight": rng.normal(size=(classes, 4)).astype(np.float32),
        "fc.bias": rng.normal(size=classes).astype(np.float32),
    }
    norm = ["a", "bn.weight", "bn.bias", "bn.mean", "bn.var"]
    last = [*tail] or [node("Identity", ["z"])]
    nodes = [
        node("Conv", ["x", "conv.weight"], ["a"], pads=[1] * 4),
        node("BatchNormalization", norm, ["b"], epsilon=1e-5),
        node("Relu", ["b"], ["c"]),
        node("GlobalAveragePool", ["c"], ["d"]),
        node("Flatten", ["d"], ["e"]),
        node("Gemm", ["e", "fc.weight", "fc.bias"], ["z"], transB=1),
        *last,
    ]
    said.setdefault("image", ("n", 3, size, size))
    said.setdefault("outputs", (("y", ("n", classes)),))
    return model(nodes, {**weights, **said.pop("weights", {})}, **said)


def saved(folder: pathlib.Path, made: onnx.ModelProto, name="model.onnx"):
    path = folder / name
    path.write_bytes(made.SerializeToString())
    return path


def read(folder: pathlib.Path, made: onnx.ModelProto, **said) -> OnnxModel:
    return read_onnx(saved(folder, made), inside=folder, **said)


def answer(read_model: OnnxModel, images: np.ndarray) -> np.ndarray:
    """Of the program on images [n, h, w, c]; logits where it ends in a softmax."""
    shape = tuple(images.shape[1:])
    program, variables = canonical(
        read_model.graph, image_shape=shape, batch=read_model.fixed_batch
    )
    out, _ = graph_module.run(
        program_text.read(program.text),
        variables["params"],
        variables["batch_stats"],
        jnp.asarray(images),
    )
    return np.asarray(out)


def reference(made: onnx.ModelProto, x: np.ndarray, output=None) -> np.ndarray:
    """ONNX Runtime's answer to the input as the file takes it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel(0)
    session = onnxruntime.InferenceSession(
        made.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(output and [output], {session.get_inputs()[0].name: x})[0]


def evaluate(path: pathlib.Path, x: np.ndarray) -> np.ndarray:
    """All nodes of a file, one after another, on its own input; any output."""
    from free_jax.interop.onnx_nodes import Reading
    from free_jax.interop.onnx_parts import read_parts
    from free_jax.interop.raw_graph import Ref
    from free_jax.models.operators import OPERATORS

    parts = read_parts(path, path.parent)
    reading = Reading(parts, parts.inputs[0])
    for each in parts.nodes:
        reading.add(each)
    values = {**reading.weights, "x": jnp.asarray(x)}
    for each in reading.nodes:
        args = [values[a.name] if isinstance(a, Ref) else a for a in each.args]
        values[each.out] = OPERATORS[each.op](*args, **each.kwargs)
    result = reading.values[parts.outputs[0].name]
    return np.asarray(values[result.name] if isinstance(result, Ref) else result)
