"""Every ONNX operator against ONNX Runtime."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("onnxruntime")
onnx_models = pytest.importorskip("onnx_models")

from free_jax.models.operators import onnx as operators  # noqa: E402
from free_jax.models.operators import onnx_layers  # noqa: E402

RNG = np.random.default_rng(0)
MAP, ODD = (2, 4, 6, 6), (2, 3, 7, 5)


def floats(*shape, low=-2.0, high=2.0):
    return RNG.uniform(low, high, shape).astype(np.float32)


def ints(*values):
    return np.asarray(values, np.int64)


class Case:
    """One node on "x"; further inputs are constants, None where left out."""

    def __init__(
        self, op, *extra, shape=MAP, low=-2.0, high=2.0, opset=21, **attributes
    ):
        self.op, self.extra, self.shape, self.opset = op, extra, shape, opset
        self.low, self.high, self.attributes = low, high, attributes
        self.first = attributes.pop("first", True)  # whether "x" comes first
        self.outputs = attributes.pop("outputs", 1)

    def __str__(self):
        said = ",".join(f"{k}={v}" for k, v in self.attributes.items())
        return f"{self.op}-{self.opset}-{said}"[:70].replace(" ", "")

    def model(self):
        names, weights = [], {}
        for i, value in enumerate(self.extra):
            names.append("" if value is None else f"w{i}")
            if value is not None:
                weights[f"w{i}"] = value
        inputs = ["x", *names] if self.first else [*names, "x"]
        parts = [f"p{i}" for i in range(self.outputs)]
        nodes = [onnx_models.node(self.op, inputs, parts, **self.attributes)]
        for part in parts:
            nodes.append(onnx_models.node("Cast", [part], [f"{part}f"], to=1))
            nodes.append(onnx_models.node("Flatten", [f"{part}f"], [f"{part}g"]))
        joined = [f"{part}g" for part in parts]
        nodes.append(onnx_models.node("Concat", joined, ["y"], axis=1))
        return onnx_models.model(
            nodes,
            weights,
            image=self.shape,
            outputs=(("y", ("n", None)),),
            opset=self.opset,
        )


UNARY = (
    *("Abs", "Atan", "Ceil", "Celu", "Cos", "Elu", "Erf", "Exp", "Floor"),
    *("HardSigmoid", "HardSwish", "IsInf", "IsNaN", "LeakyRelu"),
    *("Mish", "Neg", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin"),
    *("Softplus", "Softsign", "Tan", "Tanh", "ThresholdedRelu", "Cosh", "Sinh"),
    *("Asinh", "Identity", "LpNormalization", "MeanVarianceNormalization"),
)
POSITIVE = ("Log", "Sqrt", "Reciprocal")
SMALL = ("Acos", "Asin")
BINARY = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean", "PRelu")
COMPARE = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal")
REDUCE = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum")


def cases():
    yield from (Case(op) for op in UNARY)
    yield from (Case(op, low=0.1, high=3.0) for op in POSITIVE)
    yield from (Case(op, low=-0.9, high=0.9) for op in SMALL)
    yield from (Case(op, floats(4, 1, 1)) for op in BINARY)
    yield from (Case(op, floats(4, 1, 6)) for op in COMPARE)
    for name in (*REDUCE, "SumSquare"):
        yield Case(f"Reduce{name}", ints(-1, 2), low=0.1)
        yield Case(f"Reduce{name}", axes=[1], keepdims=0, opset=11, low=0.1)
    yield Case("ReduceMean", low=0.1, axes=[2, 3], opset=13)
    yield Case("ReduceSum", ints(1), keepdims=0)
    yield Case("Pow", np.float32(2.0))
    yield Case("Pow", np.float32(0.5), low=0.1)
    yield Case("Pow", floats(6, low=0.5), low=0.1)
    yield Case("Mod", floats(4, 1, 1, low=0.5), fmod=1)
    yield Case("Clip", np.float32(-1), np.float32(0.5))
    yield Case("Clip", None, np.float32(0.5))
    yield Case("Clip", min=-1.0, max=0.5, opset=9)
    yield Case("Gelu")
    yield Case("Gelu", approximate="tanh")
    yield Case("HardSigmoid", alpha=1 / 6, beta=0.5)
    yield Case("LeakyRelu", alpha=0.3)
    yield Case("Where", np.arange(6) % 2 == 0, floats(4, 1, 1), first=False)
    for op in ("Softmax", "LogSoftmax"):
        yield Case(op, axis=1)
        yield Case(op, opset=11)
        yield Case(op, axis=-1, opset=12)
    yield Case("Cast", to=1)
    yield Case("Cast", to=7)
    yield Case("CastLike", floats(1))
    # shapes
    yield Case("Concat", floats(2, 4, 6, 6), axis=1)
    yield Case("Concat", floats(2, 4, 6, 1), axis=-1)
    yield Case("DepthToSpace", blocksize=2)
    yield Case("DepthToSpace", blocksize=2, mode="CRD")
    yield Case("SpaceToDepth", blocksize=2)
    yield Case("Expand", ints(1, 4, 6, 6), shape=(2, 1, 6, 1))
    yield Case("Flatten", axis=2)
    yield Case("Flatten", axis=-1)
    yield Case("Gather", ints(2, 0), axis=1)
    yield Case("Gather", ints(-1)[0], axis=2)
    yield Case("GatherElements", np.asarray(RNG.integers(0, 6, (2, 4, 6, 3))), axis=3)
    yield Case("GatherND", np.asarray([[0, 1], [1, 3]]))
    yield Case("GatherND", np.asarray([[[1]], [[3]]]), batch_dims=1)
    yield Case("ScatterND", np.asarray([[0, 1], [1, 3]]), floats(2, 6, 6))
    for mode in ("constant", "reflect", "edge", "wrap"):
        yield Case("Pad", ints(0, 0, 1, 2, 0, 0, 2, 1), mode=mode)
    yield Case("Pad", ints(0, 0, -1, 2, 0, 0, 2, -1), np.float32(3))
    yield Case("Pad", ints(1, 2), None, ints(3))
    yield Case("Pad", pads=[0, 0, 1, 2, 0, 0, 2, 1], value=1.5, opset=9)
    yield Case("Reshape", ints(0, 2, -1))
    yield Case("Reshape", ints(2, 12, 12))
    yield Case("Slice", ints(1, 5), ints(4, 0), ints(1, -1), ints(1, -2))
    yield Case("Slice", ints(-1), ints(-(2**63)), ints(2), ints(-1))
    yield Case("Slice", ints(1), ints(2**63 - 1), ints(3))
    yield Case("Slice", starts=[1, 2], ends=[3, 1000], axes=[1, 2], opset=9)
    yield Case("Split", ints(1, 3), axis=1, outputs=2)
    yield Case("Split", axis=2, num_outputs=3, outputs=3)
    yield Case("Split", axis=1, split=[1, 3], opset=11, outputs=2)
    yield Case("Split", axis=1, opset=11, outputs=2)
    yield Case("Squeeze", ints(1, 3), shape=(2, 1, 6, 1))
    yield Case("Squeeze", axes=[1], shape=(2, 1, 6, 1), opset=11)
    yield Case("Squeeze", shape=(2, 1, 6, 1))
    yield Case("Unsqueeze", ints(1, -1))
    yield Case("Unsqueeze", axes=[0], opset=11)
    yield Case("Tile", ints(1, 2, 1, 3))
    yield Case("Transpose", perm=[0, 2, 3, 1])
    yield Case("Transpose")
    yield Case("Trilu", ints(1)[0], upper=0)
    yield Case("Trilu")
    yield Case("CumSum", ints(2)[0])
    yield Case("CumSum", ints(1)[0], exclusive=1, reverse=1)
    yield Case("TopK", ints(3), axis=-1, outputs=2)
    yield Case("TopK", k=2, axis=1, outputs=2, opset=9)
    yield Case("TopK", ints(3), axis=2, largest=0, outputs=2)
    yield Case("ArgMax", axis=1)
    yield Case("ArgMin", axis=2, keepdims=0)
    yield Case("ArgMax", axis=3, select_last_index=1)
    # linear
    yield Case("MatMul", floats(6, 3))
    yield Case("MatMul", floats(5, 6), first=False)
    yield Case("Einsum", floats(6, 3), equation="nchw,wk->nkch")
    # convolution
    yield Case("Conv", floats(5, 4, 3, 3), floats(5), pads=[1] * 4)
    yield Case("Conv", floats(8, 1, 3, 3), group=4, pads=[1, 0, 2, 1])
    yield Case("Conv", floats(5, 4, 3, 3), strides=[2, 2], pads=[0, 1, 1, 0])
    yield Case("Conv", floats(5, 4, 3, 2), strides=[2, 1], dilations=[1, 2])
    for pad in ("SAME_UPPER", "SAME_LOWER", "VALID"):
        yield Case("Conv", floats(5, 3, 3, 2), auto_pad=pad, strides=[2, 2], shape=ODD)
    yield Case("ConvTranspose", floats(4, 2, 3, 3), floats(2), strides=[2, 2])
    yield Case(
        "ConvTranspose",
        floats(4, 2, 3, 3),
        strides=[2, 2],
        pads=[1, 0, 0, 1],
        output_padding=[1, 1],
        group=2,
    )
    yield Case(
        "ConvTranspose", floats(4, 2, 3, 3), strides=[2, 2], output_shape=[12, 12]
    )
    # pooling
    for op in ("MaxPool", "AveragePool"):
        yield Case(op, kernel_shape=[2, 2], strides=[2, 2])
        yield Case(op, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
        yield Case(op, kernel_shape=[3, 2], strides=[2, 1], pads=[0, 1, 1, 0])
        yield Case(
            op, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, shape=(2, 3, 8, 6)
        )
        yield Case(op, kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER")
        yield Case(op, kernel_shape=[3, 3], auto_pad="SAME_LOWER", shape=ODD)
    yield Case("MaxPool", kernel_shape=[2, 2], dilations=[2, 2])
    yield Case("AveragePool", kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1)
    yield Case("GlobalAveragePool")
    yield Case("GlobalMaxPool")
    yield Case("GlobalLpPool")
    yield Case("LpPool", kernel_shape=[2, 2], strides=[2, 2])
    # norms
    stats = floats(4), floats(4), floats(4), floats(4, low=0.5)
    yield Case("BatchNormalization", *stats, epsilon=1e-3)
    yield Case("InstanceNormalization", floats(4), floats(4))
    yield Case("GroupNormalization", floats(4), floats(4), num_groups=2)
    yield Case("LayerNormalization", floats(6), floats(6))
    yield Case("LayerNormalization", floats(4, 6, 6), axis=1, epsilon=1e-3)
    yield Case("LRN", size=3, alpha=0.1)
    yield Case("LRN", size=5, alpha=0.1, beta=0.5, bias=2.0)
    yield Case("LpNormalization", axis=1, p=1)
    # resizing
    for transform in (
        "half_pixel",
        "asymmetric",
        "align_corners",
        "pytorch_half_pixel",
    ):
        for mode in ("linear", "cubic"):
            for sizes in (ints(2, 4, 9, 4), ints(2, 4, 3, 12)):
                yield Case(
                    "Resize",
                    *(None, None, sizes),
                    mode=mode,
                    coordinate_transformation_mode=transform,
                )
    for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"):
        yield Case(
            "Resize",
            *(None, np.asarray([1, 1, 1.5, 0.5], np.float32)),
            nearest_mode=rounding,
        )
    yield Case(
        "Resize",
        *(None, np.asarray([1, 1, 2, 2], np.float32)),
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    for mode in ("linear", "cubic"):
        yield Case("Resize", None, None, ints(2, 4, 3, 4), mode=mode, antialias=1)
    yield Case("Resize", None, None, ints(9, 4), mode="linear", axes=[2, 3])
    yield Case(
        "Resize",
        *(None, None, ints(2, 4, 9, 4)),
        mode="cubic",
        exclude_outside=1,
        cubic_coeff_a=-0.5,
    )
    yield Case("Resize", np.asarray([1, 1, 2, 2], np.float32), opset=10)
    yield Case("Resize", np.asarray([1, 1, 2, 2], np.float32), opset=10, mode="linear")
    yield Case("Upsample", np.asarray([1, 1, 2, 2], np.float32), opset=9)
    yield Case("Upsample", scales=[1.0, 1.0, 2.0, 2.0], opset=7)


CASES = list(cases())
# Newer than the runtime's kernels for plain floats, or only of constants: below.
ELSEWHERE = {
    *("Attention", "DequantizeLinear", "RMSNormalization", "Swish", "Gemm"),
    *("And", "Or", "Xor", "Not", "ConstantOfShape", "EyeLike", "NonZero", "OneHot"),
    *("Range", "Shape", "Size", "ConcatFromSequence", "SequenceAt"),
    *("SequenceConstruct", "SplitToSequence"),
}


def test_every_operator_has_a_case():
    tested = {f"onnx.{case.op}" for case in CASES} | {f"onnx.{op}" for op in ELSEWHERE}
    assert set(operators.TABLE) <= tested


@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_the_runtime(case, tmp_path):
    x = np.random.default_rng(1).uniform(case.low, case.high, case.shape)
    x = x.astype(np.float32)
    made = case.model()
    wanted = onnx_models.reference(made, x)
    # The file fixes its batch for the runtime's sake; the graph is read for any.
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    path = onnx_models.saved(tmp_path, made)
    got = onnx_models.evaluate(path, x)
    np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-5)


def test_operators_that_the_runtime_lacks_agree_with_the_reference():
    """In ONNX's own evaluator, in NumPy."""
    from onnx.reference import ReferenceEvaluator

    rng = np.random.default_rng(2)
    x = rng.normal(size=(2, 3, 4, 8)).astype(np.float32)
    k, v = (rng.normal(size=(2, 3, 5, 8)).astype(np.float32) for _ in range(2))
    mask = rng.normal(size=(4, 5)).astype(np.float32)
    joined = rng.normal(size=(2, 5, 24)).astype(np.float32)
    nodes = {
        "Swish": ([], {"alpha": 0.7}, 24),
        "RMSNormalization": ([floats(8)], {}, 23),
        "Attention": ([k, v, mask], {"scale": 0.3}, 23),
    }
    for op, (extra, attributes, opset) in nodes.items():
        names = [f"w{i}" for i in range(len(extra))]
        made = onnx_models.model(
            [onnx_models.node(op, ["x", *names], ["y"], **attributes)],
            dict(zip(names, extra, strict=True)),
            image=x.shape,
            outputs=(("y", None),),
            opset=opset,
        )
        wanted = ReferenceEvaluator(made).run(None, {"x": x})[0]
        got = operators.TABLE[f"onnx.{op}"](jnp.asarray(x), *extra, **attributes)
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5, err_msg=op)
    heads = {"q_num_heads": 3, "kv_num_heads": 3}
    by_heads = onnx_layers.attention(
        *(jnp.asarray(t.transpose(0, 2, 1, 3).reshape(2, -1, 24)) for t in (x, k, v)),
        **heads,
    )
    apart = onnx_layers.attention(jnp.asarray(x), k, v)
    np.testing.assert_allclose(
        by_heads, np.asarray(apart).transpose(0, 2, 1, 3).reshape(2, 4, 24), rtol=1e-5
    )
    causal = onnx_layers.attention(
        jnp.asarray(joined), joined, joined, is_causal=1, **heads
    )
    first = onnx_layers.attention(
        jnp.asarray(joined[:, :1]), *[joined[:, :1]] * 2, **heads
    )
    np.testing.assert_allclose(causal[:, :1], first, rtol=1e-5)


def test_sequences(tmp_path):
    """As PyTorch writes ``chunk`` and ``stack``."""
    nodes = [
        onnx_models.node("SplitToSequence", ["x", "half"], ["s"], axis=1),
        onnx_models.node("SequenceAt", ["s", "one"], ["a"]),
        onnx_models.node("SequenceAt", ["s", "zero"], ["b"]),
        onnx_models.node("SequenceConstruct", ["a", "b"], ["t"]),
        onnx_models.node("ConcatFromSequence", ["t"], ["j"], axis=1, new_axis=1),
        onnx_models.node("Flatten", ["j"], ["y"]),
    ]
    weights = {"half": ints(2)[0], "one": ints(1)[0], "zero": ints(0)[0]}
    made = onnx_models.model(nodes, weights, image=MAP, outputs=(("y", ("n", 144)),))
    x = floats(*MAP)
    got = onnx_models.evaluate(onnx_models.saved(tmp_path, made), x)
    np.testing.assert_array_equal(got, onnx_models.reference(made, x))
    rows = operators.split_to_sequence(jnp.asarray(x), axis=2, keepdims=0)
    assert len(rows) == 6 and rows[0].shape == (2, 4, 6)
    uneven = operators.split_to_sequence(jnp.asarray(x), [1, 3], 1)
    assert [part.shape[1] for part in uneven] == [1, 3]


def test_sizes_stay_numbers():
    """What depends on no image is known while tracing, whatever is done to it."""
    from free_jax.models.operators.onnx import TABLE

    def run(x):
        sizes = TABLE["onnx.Shape"](x)
        assert TABLE["onnx.Size"](x) == x.size
        rows = TABLE["onnx.Gather"](sizes, 2)
        half = TABLE["onnx.Div"](rows, 2)
        assert half == 3 and np.ndim(half) == 0
        count = TABLE["onnx.Unsqueeze"](TABLE["onnx.Mul"](half, [2])[0], [0])
        wanted = TABLE["onnx.Concat"](
            TABLE["onnx.Slice"](sizes, [0], [2]), count, axis=0
        )
        assert wanted.tolist() == [2, 4, 6]
        line = TABLE["onnx.Range"](0, half, 1)
        assert line.tolist() == [0, 1, 2]
        table = TABLE["onnx.ConstantOfShape"]([2], 7)
        assert table.tolist() == [7, 7]
        assert TABLE["onnx.Not"](TABLE["onnx.And"]([True], [False])).tolist() == [True]
        assert TABLE["onnx.Or"]([True], [False]).tolist() == [True]
        assert TABLE["onnx.Xor"]([True], [True]).tolist() == [False]
        assert TABLE["onnx.NonZero"]([0, 3, 0, 2]).tolist() == [[1, 3]]
        assert TABLE["onnx.EyeLike"](np.zeros((2, 2))).tolist() == [[1, 0], [0, 1]]
        weights = np.asarray([[2, 4], [6, 8]], np.int8)
        numbers = TABLE["onnx.DequantizeLinear"](weights, [0.5, 2.0], [0, 2], axis=0)
        assert numbers.tolist() == [[1, 2], [8, 12]]
        hot = TABLE["onnx.OneHot"]([1, 0], 2, [0.0, 1.0])
        gemm = TABLE["onnx.Gemm"](x[:, 0, 0], hot, None, transA=1)
        assert gemm.shape == (6, 2)
        return TABLE["onnx.Reshape"](x, TABLE["onnx.Concat"](wanted, [-1], axis=0))

    x = jax.ShapeDtypeStruct((2, 4, 6, 6), jnp.float32)
    assert jax.eval_shape(run, x).shape == (2, 4, 6, 6)
