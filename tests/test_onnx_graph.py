"""Reading classifiers from .onnx files: what is read, guessed and refused."""

import pathlib

import numpy as np
import pytest

onnx_models = pytest.importorskip("onnx_models")
import onnx  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402
from onnx_models import answer, linear_model, model, node, read, reference  # noqa: E402

from free_jax.errors import InputError  # noqa: E402
from free_jax.interop.onnx_graph import read_onnx  # noqa: E402
from free_jax.interop.onnx_names import parse_names  # noqa: E402
from free_jax.interop.programs import canonical  # noqa: E402
from free_jax.models.operators import onnx as operators  # noqa: E402

SHARED = pathlib.Path(__file__).resolve().parents[1].parent / "shared"


def pictures(count=3, size=8, channels=3):
    rng = np.random.default_rng(5)
    return rng.uniform(size=(count, size, size, channels)).astype(np.float32)


def nchw(images):
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def same(got, wanted, tolerance=1e-5):
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)


def test_a_plain_classifier(tmp_path):
    made = linear_model()
    got = read(tmp_path, made)
    assert got.image_shape == (8, 8, 3) and got.fixed_batch is None
    assert (got.layout, got.range, got.class_names) == ("NCHW", 1, None)
    x = pictures()
    same(answer(got, x), reference(made, nchw(x)))
    program, variables = canonical(got.graph)
    assert program.gives == {"gradients", "features", "moments"}
    assert program.output == "logits" and program.num_classes == 5
    assert variables["params"]["head"]["kernel"].shape == (4, 5)
    assert variables["batch_stats"]["n000"]["mean"].shape == (4,)


def test_any_number_of_classes_is_the_same_program(tmp_path):
    texts = [
        canonical(read(tmp_path, linear_model(classes)).graph)[0].text
        for classes in (5, 7)
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("opset", [11, 21])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_a_softmax_is_cut_and_said(tmp_path, op, opset):
    made = linear_model(tail=[node(op, ["z"], ["y"])], opset=opset)
    got = read(tmp_path, made)
    program, _ = canonical(got.graph)
    assert (
        program.output
        == {
            "Softmax": "probabilities",
            "LogSoftmax": "log-probabilities",
        }[op]
    )
    x = pictures()
    said = answer(got, x)
    wanted = reference(made, nchw(x))
    shifted = np.exp(said - said.max(1, keepdims=True))
    shifted /= shifted.sum(1, keepdims=True)
    same(shifted, wanted if op == "Softmax" else np.exp(wanted))


def test_a_head_of_matmul_and_add_is_a_head(tmp_path):
    rng = np.random.default_rng(0)
    weights = {
        "kernel": rng.normal(size=(3, 5)).astype(np.float32),
        "bias": rng.normal(size=5).astype(np.float32),
    }
    made = model(
        [
            node("GlobalAveragePool", ["x"], ["a"]),
            node("Flatten", ["a"], ["b"]),
            node("MatMul", ["b", "kernel"], ["c"]),
            node("Add", ["bias", "c"], ["y"]),
        ],
        weights,
    )
    got = read(tmp_path, made)
    program, variables = canonical(got.graph)
    assert "features" in program.gives
    same(variables["params"]["head"]["kernel"], weights["kernel"])
    same(answer(got, pictures()), reference(made, nchw(pictures())))


def test_half_precision_is_read_as_single(tmp_path):
    made = linear_model(kind=TensorProto.FLOAT16)
    for tensor in made.graph.initializer:
        half = onnx.numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(onnx.numpy_helper.from_array(half, tensor.name))
    made.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    got = read(tmp_path, made)
    assert "float16" in got.sources["precision"]
    x = pictures()
    wanted = reference(made, nchw(x).astype(np.float16))
    same(answer(got, x), wanted.astype(np.float32), 5e-3)
    assert (
        canonical(got.graph)[0].text
        == canonical(read(tmp_path, linear_model()).graph)[0].text
    )


def test_grey_levels_in_nhwc_with_preprocessing_inside(tmp_path):
    weights = {
        "half": np.float32(127.5),
        "mean": np.asarray([0.1, 0.2, 0.3], np.float32).reshape(3, 1, 1),
        "std": np.asarray([0.4, 0.5, 0.6], np.float32).reshape(3, 1, 1),
        "size": np.asarray([1, 3, 8, 8], np.int64),
    }
    plain = linear_model(opset=18, weights=weights, image=("n", 16, 16, 3))
    before = [
        node("Transpose", ["x"], ["pre_t"], perm=[0, 3, 1, 2]),
        node("Cast", ["pre_t"], ["pre_f"], to=1),
        node("Slice", ["pre_f", "start", "end", "axes"], ["pre_s"]),
        node("Div", ["pre_s", "half"], ["pre_d"]),
        node("Sub", ["pre_d", "mean"], ["pre_m"]),
        node("Div", ["pre_m", "std"], ["pre_p"]),
    ]
    nodes = [*before, *plain.graph.node]
    nodes[len(before)].input[0] = "pre_p"
    del plain.graph.node[:]
    plain.graph.node.extend(nodes)
    for name, value in (("start", [2, 2]), ("end", [10, 10]), ("axes", [2, 3])):
        tensor = onnx_models.tensor(np.asarray(value, np.int64), name)
        plain.graph.initializer.append(tensor)
    plain.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    got = read(tmp_path, plain)
    assert (got.layout, got.range, got.image_shape) == ("NHWC", 255, (16, 16, 3))
    levels = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    same(answer(got, levels.astype(np.float32)), reference(plain, levels), 1e-4)
    # The same on floats: the range is guessed from the first step.
    plain.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    assert read(tmp_path, plain).range == 255
    assert "guessed" in read(tmp_path, plain).sources["range"]


NAMES = ("ant", "bee", "cat", "dog", "eel")


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("names", "{0: 'ant', 1: 'bee', 2: 'cat', 3: 'dog', 4: 'eel'}"),
        ("labels", '["ant", "bee", "cat", "dog", "eel"]'),
        ("classes", "ant\nbee\ncat\ndog\neel\n"),
        ("Class_Names", "ant, bee,cat,dog, eel"),
        ("id2label", '{"1": "bee", "0": "ant", "2": "cat", "4": "eel", "3": "dog"}'),
        ("class_to_idx", '{"bee": 1, "ant": 0, "cat": 2, "eel": 4, "dog": 3}'),
    ],
)
def test_names_of_classes(tmp_path, key, text):
    got = read(tmp_path, linear_model(metadata={key: text}))
    assert got.class_names == NAMES
    assert key.lower() in got.sources["class_names"]


@pytest.mark.parametrize(
    ("text", "size"), [("[12, 8]", (12, 8)), ("16", (16, 16)), ("large", (0, 0))]
)
def test_sizes_that_the_input_leaves_free(tmp_path, text, size):
    made = linear_model(image=("n", 3, "h", "w"), metadata={"imgsz": text})
    assert read(tmp_path, made).image_shape == (*size, 3)


def test_names_that_do_not_fit_are_said(tmp_path):
    got = read(tmp_path, linear_model(metadata={"names": "ant,bee"}))
    assert got.class_names is None
    assert "2 names for 5 outputs" in got.sources["class_names"]


@given(st.text(max_size=60))
def test_any_text_is_names_or_none(text):
    names = parse_names(text)
    assert names is None or (len(names) > 1 and all(isinstance(n, str) for n in names))


def test_several_outputs(tmp_path):
    def two(first, second, widths=(5, 5), kinds=(1, 1)):
        made = linear_model(
            tail=[
                node("Softmax", ["z"], ["y"])
                if first == "y"
                else node("Softmax", ["z"], [first]),
                node("Identity", ["z"], [second]),
            ],
            outputs=(
                (first, ("n", widths[0]), kinds[0]),
                (second, ("n", widths[1]), kinds[1]),
            ),
        )
        return made

    x = pictures()
    logits = reference(linear_model(), nchw(x))
    for names in (("probabilities", "logits"), ("scores", "output"), ("one", "two")):
        got = read(tmp_path, two(*names))
        assert got.sources["output"].startswith(names[1])
        same(answer(got, x), logits)
    named = read(tmp_path, two("one", "two"), output="one")
    assert canonical(named.graph)[0].output == "probabilities"
    with pytest.raises(InputError, match="has no output 'three'; it has one"):
        read(tmp_path, two("one", "two"), output="three")
    tail = [node("Identity", ["z"], ["one"]), node("Neg", ["z"], ["two"])]
    alike = linear_model(tail=tail, outputs=(("one", ("n", 5)), ("two", ("n", 5))))
    with pytest.raises(
        InputError, match=r"which output is it: one .*two .*output_name"
    ):
        read(tmp_path, alike)
    embedding = linear_model(
        tail=[node("Softmax", ["z"])], outputs=(("e", ("n", 4)), ("y", ("n", 5)))
    )
    assert read(tmp_path, embedding).sources["output"].startswith("y")
    features = linear_model(outputs=(("e", ("n", 4)), ("y", ("n", 5))))
    got = read(tmp_path, features, classes=5)
    assert got.sources["output"].startswith("y")
    label = linear_model(
        tail=[node("Identity", ["z"]), node("ArgMax", ["z"], ["label"], axis=1)],
        outputs=(("label", ("n", 1), TensorProto.INT64), ("y", ("n", 5))),
    )
    assert read(tmp_path, label).sources["output"].startswith("y")


def test_one_image_at_a_time(tmp_path):
    """Where reshapes name one image; with a class token and attention."""
    rng = np.random.default_rng(3)

    def weight(*shape):
        return rng.normal(size=shape).astype(np.float32)

    weights = {
        "patch": weight(12, 3, 4, 4),
        "token": weight(1, 1, 12),
        "place": weight(1, 5, 12),
        "qkv": weight(12, 36) / 4,
        "w": weight(12, 5),
        "b": weight(5),
    }
    for name, value in {
        "s0": [1, 12, 4],
        "s1": [1, 5, 3, 2, 6],
        "s2": [1, 5, 12],
        "axis0": [0],
        "sizes": [1, 3, 8, 8],
    }.items():
        weights[name] = np.asarray(value, np.int64)
    for i in range(3):
        weights[f"i{i}"] = np.asarray(i)
    nodes = [
        node("Resize", ["x", "", "", "sizes"], ["r"], mode="linear"),
        node("Conv", ["r", "patch"], ["a"], strides=[4, 4]),
        node("Reshape", ["a", "s0"], ["c"]),
        node("Transpose", ["c"], ["d"], perm=[0, 2, 1]),
        node("Concat", ["token", "d"], ["e"], axis=1),
        node("Add", ["e", "place"], ["f"]),
        node("MatMul", ["f", "qkv"], ["g"]),
        node("Reshape", ["g", "s1"], ["h"]),
        node("Transpose", ["h"], ["k"], perm=[2, 0, 3, 1, 4]),
        *(node("Gather", ["k", f"i{i}"], [f"k{i}"], axis=0) for i in range(3)),
        node("Transpose", ["k1"], ["kt"], perm=[0, 1, 3, 2]),
        node("MatMul", ["k0", "kt"], ["m"]),
        node("Softmax", ["m"], ["n"], axis=-1),
        node("MatMul", ["n", "k2"], ["o"]),
        node("Transpose", ["o"], ["p"], perm=[0, 2, 1, 3]),
        node("Reshape", ["p", "s2"], ["q"]),
        node("Gather", ["q", "i0"], ["s"], axis=1),
        node("Gemm", ["s", "w", "b"], ["y"]),
    ]
    made = model(nodes, weights, image=(1, 3, 16, 16), outputs=(("y", (1, 5)),))
    got = read(tmp_path, made)
    assert got.fixed_batch == 1
    x = pictures(3, 16)
    wanted = np.concatenate([reference(made, nchw(one[None])) for one in x])
    same(answer(got, x), wanted, 1e-4)


def test_what_might_mix_images_is_run_one_at_a_time(tmp_path):
    made = linear_model(
        image=(1, 3, 8, 8),
        outputs=(("y", (1, 5)),),
        tail=[node("Softmax", ["z"], ["y"], axis=0)],
    )
    made.graph.node[-1].CopyFrom(node("Sub", ["z", "top"], ["y"]))
    made.graph.node.insert(6, node("ReduceMax", ["z"], ["top"], keepdims=0))
    got = read(tmp_path, made)
    assert got.fixed_batch == 1
    x = pictures()
    wanted = np.concatenate([reference(made, nchw(one[None])) for one in x])
    same(answer(got, x), wanted, 1e-4)


def test_constants_are_computed_while_reading(tmp_path):
    """Shapes of weights, and weights kept as integers with a scale."""
    rng = np.random.default_rng(0)
    weights = {
        "small": rng.integers(-100, 100, (5, 3)).astype(np.int8),
        "scale": np.full(5, 0.01, np.float32),
        "zero": np.zeros(5, np.int8),
        "bias": np.ones(1, np.float32),
    }
    made = model(
        [
            node("DequantizeLinear", ["small", "scale", "zero"], ["w"], axis=0),
            node("Transpose", ["w"], ["wt"]),
            node("Shape", ["scale"], ["sh"]),
            node("Expand", ["bias", "sh"], ["b"]),
            node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=0),
            node("Gemm", ["m", "wt", "b"], ["y"]),
        ],
        weights,
        opset=17,
    )
    got = read(tmp_path, made)
    assert [n.op for n in got.graph.nodes] == ["onnx.ReduceMean", "onnx.Gemm"]
    x = pictures()
    same(answer(got, x), reference(made, nchw(x)))


def test_functions_are_written_out(tmp_path):
    double = helper.make_function(
        "local",
        "Twice",
        ["a"],
        ["b"],
        [node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 21)],
    )
    tail = [helper.make_node("Twice", ["z"], ["y"], domain="local")]
    made = linear_model(tail=tail, functions=[double])
    same(answer(read(tmp_path, made), pictures()), reference(made, nchw(pictures())))
    itself = helper.make_function(
        "local",
        "Twice",
        ["a"],
        ["b"],
        [helper.make_node("Twice", ["a"], ["b"], domain="local")],
        [helper.make_opsetid("", 21)],
    )
    with pytest.raises(InputError, match="'Twice' calls itself"):
        read(tmp_path, linear_model(tail=tail, functions=[itself]))
    many = [
        helper.make_function(
            "local",
            f"F{i}",
            ["a"],
            ["b"],
            [
                helper.make_node(f"F{i + 1}", ["a"], [f"c{j}"], domain="local")
                for j in range(9)
            ]
            + [node("Add", ["c0", "c1"], ["b"])]
            if i < 8
            else [node("Add", ["a", "a"], ["b"])],
            [helper.make_opsetid("", 21), helper.make_opsetid("local", 1)],
        )
        for i in range(9)
    ]
    tail = [helper.make_node("F0", ["z"], ["y"], domain="local")]
    with pytest.raises(InputError, match="more than 20000 nodes"):
        read(tmp_path, linear_model(tail=tail, functions=many))


def with_external(folder, made, location="model.onnx.data", **change):
    """The model with its weights in another file, as PyTorch writes it today."""
    onnx.save_model(
        made,
        folder / "model.onnx",
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=0,
    )
    stored = onnx.load(folder / "model.onnx", load_external_data=False)
    for tensor in stored.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
            elif entry.key in change:
                entry.value = str(change[entry.key])
    return onnx_models.saved(folder, stored)


def test_weights_beside_the_file(tmp_path):
    path = with_external(tmp_path, linear_model())
    got = read_onnx(path, inside=tmp_path)
    x = pictures()
    same(answer(got, x), reference(linear_model(), nchw(x)))


@pytest.mark.parametrize(
    ("location", "change", "message"),
    [
        ("gone.data", {}, "gone.data, which is missing"),
        ("../secret.data", {}, "outside of the model's folder"),
        ("/etc/passwd", {}, "outside of the model's folder"),
        ("C:\\secret", {}, "outside of the model's folder"),
        ("link.data", {}, "outside of the model's folder"),
        ("", {}, "not named"),
        (".", {}, "missing"),
        ("model.onnx.data", {"offset": 10**9}, "which has only"),
        ("model.onnx.data", {"offset": -4}, "which has only"),
        ("model.onnx.data", {"offset": "x"}, "at no known place"),
        ("model.onnx.data", {"length": 10**12}, "which has only"),
        ("model.onnx.data", {"length": 3}, "is damaged"),
    ],
)
def test_weights_elsewhere_are_refused(tmp_path, location, change, message):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.data").write_bytes(bytes(100_000))
    (folder / "link.data").symlink_to(tmp_path / "secret.data")
    path = with_external(folder, linear_model(), location, **change)
    with pytest.raises(InputError, match=message):
        read_onnx(path, inside=folder)


def detector():
    return linear_model(outputs=(("c", ("n", 4, 8)),))


REFUSED = [
    (
        lambda: model([node("Relu", ["x"])], outputs=(("y", ("n", 3, 8, 8)),)),
        "detector",
    ),
    (detector, "detector or a segmenter"),
    (lambda: linear_model(image=("n", 192)), "a batch of images has four axes"),
    (lambda: linear_model(opset=6), "opset 6; 7 to 24"),
    (
        lambda: linear_model(
            tail=[node("ArgMax", ["z"], axis=1)],
            outputs=(("y", ("n", 1), TensorProto.INT64),),
        ),
        "type 7, not of floats",
    ),
    (
        lambda: linear_model(tail=[node("NonMaxSuppression", ["z"])]),
        "NonMaxSuppression",
    ),
    (
        lambda: linear_model(
            tail=[helper.make_node("FusedGemm", ["z"], ["y"], domain="com.microsoft")]
        ),
        "com.microsoft.FusedGemm.*without a runtime's optimisations",
    ),
    (lambda: linear_model(tail=[node("QLinearMatMul", ["z"] * 8)]), "quantised"),
    (lambda: linear_model(kind=TensorProto.INT64), "images are floats or uint8"),
    (lambda: linear_model(image=(8, 3, 8, 8)), "takes exactly 8 images"),
    (lambda: linear_model(image=("n", 5, 8, 7)), "node 0|no images|does not fit"),
    (lambda: linear_model(tail=[node("Relu", ["nothing"])]), "reads 'nothing'"),
    (
        lambda: linear_model(tail=[node("Add", ["fc.bias", "fc.bias"])]),
        "depends on no image",
    ),
    (
        lambda: linear_model(
            tail=[node("Tile", ["z", "often"])],
            weights={"often": np.asarray([1, 2**40], np.int64)},
        ),
        "value of shape",
    ),
    (
        lambda: linear_model(
            tail=[
                node("ConstantOfShape", ["huge"], ["k"]),
                node("Add", ["z", "k"]),
            ],
            weights={"huge": np.asarray([2**20, 2**20], np.int64)},
        ),
        "value of shape",
    ),
    (lambda: linear_model(tail=[node("Cast", ["z"], to=8)]), "ONNX type 8"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_refused_in_one_line(tmp_path, make, message):
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, make())
    assert "model.onnx" in str(caught.value) and "\n" not in str(caught.value)


def test_branches_and_several_inputs_are_refused(tmp_path):
    body = helper.make_graph(
        [node("Relu", ["z"], ["o"])],
        "g",
        [],
        [helper.make_tensor_value_info("o", 1, ("n", 5))],
    )
    condition = {"c": np.asarray(True)}
    tail = [node("If", ["c"], then_branch=body, else_branch=body)]
    with pytest.raises(InputError, match=r"branches or loops \(If\)"):
        read(tmp_path, linear_model(tail=tail, weights=condition))
    made = linear_model()
    made.graph.input.append(helper.make_tensor_value_info("mask", 1, ("n", 7)))
    with pytest.raises(InputError, match=r"2 inputs \(x nx3x8x8, mask nx7\)"):
        read(tmp_path, made)


def test_what_is_no_model_is_refused(tmp_path):
    for content in (b"", b"no model", b"PK\x03\x04" + bytes(100), bytes(1000)):
        path = tmp_path / "x.onnx"
        path.write_bytes(content)
        with pytest.raises(InputError, match="no ONNX model"):
            read_onnx(path, inside=tmp_path)
    with pytest.raises(InputError, match="No such file"):
        read_onnx(tmp_path / "gone.onnx", inside=tmp_path)


SMALL = linear_model(
    tail=[node("Softmax", ["z"])], metadata={"names": "a,b,c,d,e"}, image=("n", 3, 4, 4)
).SerializeToString()


@settings(max_examples=120)
@given(
    st.lists(
        st.tuples(
            st.integers(0, len(SMALL) - 1),
            st.integers(0, 255),
            st.sampled_from(["set", "drop", "add", "cut"]),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_damaged_bytes_are_refused_or_read(tmp_path_factory, changes):
    content = bytearray(SMALL)
    for place, value, how in changes:
        place = min(place, len(content) - 1)
        if how == "set":
            content[place] = value
        elif how == "drop":
            del content[place : place + 1 + value % 5]
        elif how == "add":
            content[place:place] = bytes([value]) * (1 + value % 3)
        else:
            del content[max(place, 50) :]
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(bytes(content))
    try:
        got = read_onnx(path, inside=path.parent)
        canonical(got.graph, batch=got.fixed_batch)
    except InputError as error:
        assert "\n" not in str(error)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("folder", "file"),
    [
        pytest.param("lcnet-onnx-17-batch1", "model.onnx", marks=pytest.mark.slow),
        pytest.param(
            "resnet10-onnx-20-softmax", "classifier.onnx", marks=pytest.mark.slow
        ),
    ],
)
def test_published_models_agree(folder, file):
    from PIL import Image

    folder = SHARED / "hub" / folder
    stored = np.load(folder / "reference.npz")
    softmax = "softmax" in folder.name
    size, crop = (52, 48) if softmax else (64, 64)
    mean = [0.5] * 3 if softmax else [0.485, 0.456, 0.406]
    std = [0.5] * 3 if softmax else [0.229, 0.224, 0.225]
    edge = (size - crop) // 2
    images = [
        np.asarray(
            Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)
        )
        for image in stored["images"]
    ]
    x = np.stack(images)[:, edge : edge + crop, edge : edge + crop] / np.float32(255)
    x = (x - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    same(nchw(x)[:1], stored["input_of_first"], 1e-6)
    got = read_onnx(folder / file, inside=folder)
    assert got.fixed_batch == (None if softmax else 1)
    assert got.image_shape == (crop, crop, 3)
    same(answer(got, x), stored["logits"], 1e-5)
    if softmax:
        assert got.class_names is not None and got.class_names[0] == "bridge"
        program, variables = canonical(got.graph)
        assert "moments" in program.gives and len(variables["batch_stats"]) == 12


NUMBERS = (0, 1, -1, 2, 7, 2**31, -(2**31), 2**40, 2**63 - 1, -(2**63))


def changed(made: onnx.ModelProto, rng) -> onnx.ModelProto:
    """A model in which one thing is of the right kind and wrong."""
    graph = made.graph
    some = graph.node[rng.integers(len(graph.node))]
    names = [t.name for t in graph.initializer] + [n.output[0] for n in graph.node]
    number = int(rng.choice(np.asarray(NUMBERS)))
    how = rng.integers(8)
    if how == 0:
        some.op_type = rng.choice(list(operators.TABLE)).removeprefix("onnx.")
    elif how == 1 and some.input:
        some.input[rng.integers(len(some.input))] = rng.choice([*names, "x", ""])
    elif how == 2:
        name = rng.choice(["axis", "pads", "strides", "group", "perm", "alpha", "to"])
        lists = [number, int(rng.integers(-3, 4)), 1, 1][: rng.integers(1, 5)]
        value = lists if rng.random() < 0.6 else number
        attribute = helper.make_attribute(str(name), value)
        some.attribute.append(attribute)
    elif how == 3 and len(some.attribute):
        attribute = some.attribute[rng.integers(len(some.attribute))]
        attribute.i = number
        attribute.ints[:] = [
            number if rng.random() < 0.3 else i for i in attribute.ints
        ]
    elif how == 4:
        tensor = graph.initializer[rng.integers(len(graph.initializer))]
        if rng.random() < 0.5 and len(tensor.dims):
            tensor.dims[rng.integers(len(tensor.dims))] = number
        else:
            tensor.data_type = int(rng.integers(0, 25))
    elif how == 5:
        slot = (graph.input, graph.output)[rng.integers(2)][0].type.tensor_type
        slot.shape.dim[rng.integers(len(slot.shape.dim))].dim_value = number
    elif how == 6:
        tensor = graph.initializer[rng.integers(len(graph.initializer))]
        if tensor.data_type == TensorProto.INT64:
            values = onnx.numpy_helper.to_array(tensor).copy()
            values.reshape(-1)[rng.integers(values.size)] = number
            fresh = onnx.numpy_helper.from_array(values, tensor.name)
            tensor.CopyFrom(fresh)
    else:
        made.opset_import[0].version = int(rng.integers(7, 25))
    return made


def rich_model() -> onnx.ModelProto:
    """Shape arithmetic, slices, resizing and padding before a classifier."""
    made = linear_model()
    before = [
        node("Shape", ["x"], ["r1"]),
        node("Gather", ["r1", "rows"], ["r2"], axis=0),
        node("Concat", ["n_c", "r2"], ["r3"], axis=0),
        node("Resize", ["x", "", "", "to"], ["r4"], mode="linear"),
        node("Pad", ["r4", "sides"], ["r5"]),
        node("Slice", ["r5", "start", "end", "axes"], ["r6"]),
        node("MaxPool", ["r6"], ["r7"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Reshape", ["r7", "shape"], ["r8"]),
        node("Split", ["r8", "parts"], ["r9", "r10"], axis=1),
        node("Concat", ["r9", "r10"], ["r11"], axis=1),
    ]
    for name, value in {
        "rows": [2, 3], "n_c": [2, 3], "to": [2, 3, 16, 16], "shape": [0, 3, -1, 8],
        "sides": [0, 0, 1, 1, 0, 0, 1, 1], "start": [1, 1], "end": [17, 17],
        "axes": [2, 3], "parts": [1, 2],
    }.items():  # fmt: skip
        value = np.asarray(value, np.int64)
        made.graph.initializer.append(onnx_models.tensor(value, name))
    nodes = [*before, *made.graph.node]
    nodes[len(before)].input[0] = "r11"
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made


@pytest.mark.parametrize("seed", range(60))
def test_wrong_fields_are_refused_or_read(tmp_path, seed):
    rng = np.random.default_rng(seed)
    path = onnx_models.saved(tmp_path, changed(rich_model(), rng))
    try:
        got = read_onnx(path, inside=tmp_path)
        canonical(got.graph, image_shape=got.image_shape, batch=got.fixed_batch)
    except InputError as error:
        assert "\n" not in str(error)
