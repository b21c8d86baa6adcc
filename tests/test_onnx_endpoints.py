"""Classifiers in .onnx files as black boxes, as other people export them."""

import asyncio

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
onnx_models = pytest.importorskip("onnx_models")
import onnx  # noqa: E402
from onnx import TensorProto  # noqa: E402
from onnx_models import linear_model, node, reference  # noqa: E402

from experiments.inputs import endpoints  # noqa: E402
from free_jax import InputError  # noqa: E402
from free_jax import remote as remote_lib  # noqa: E402


def pictures(count=3):
    rng = np.random.default_rng(5)
    return rng.uniform(size=(count, 8, 8, 3)).astype(np.float32)


def nchw(images):
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def spec(output="logits", **change):
    declared = remote_lib.EndpointSpec("x", 5, (8, 8, 3), output)
    return declared._replace(**change)


def asked(client, images):
    """Its logits, and its identity."""

    async def all_of_it():
        await client.open()
        answer = await client.ask(images)
        await client.close()
        return remote_lib.to_logits(client.spec, answer, len(images))

    return asyncio.run(all_of_it()), client.identity


def refused(client):
    with pytest.raises(InputError) as caught:
        asyncio.run(client.open())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def softmax(logits):
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def with_weights_beside(folder):
    file = folder / "model.onnx"
    onnx.save_model(
        linear_model(),
        file,
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=0,
    )
    return file


def test_weights_beside_the_file_are_found_and_identify_it(tmp_path):
    file = with_weights_beside(tmp_path)
    x = pictures()
    got, identity = asked(remote_lib.OnnxFile(spec(), file), x)
    np.testing.assert_allclose(got, reference(linear_model(), nchw(x)), rtol=1e-5)
    data = tmp_path / "model.onnx.data"
    content = bytearray(data.read_bytes())
    content[-6] ^= 1
    data.write_bytes(content)
    _, other = asked(remote_lib.OnnxFile(spec(), file), x)
    assert other != identity
    data.unlink()
    assert "'model.onnx.data' are missing" in refused(remote_lib.OnnxFile(spec(), file))


def test_one_file_is_known_as_before(tmp_path):
    """So that answers that were paid for are found again."""
    file = onnx_models.saved(tmp_path, linear_model())
    _, identity = asked(remote_lib.OnnxFile(spec(), file), pictures())
    import hashlib
    import json

    digest = hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest()
    assert json.loads(identity) == ["x", digest, "logits", 0]


def test_weights_outside_of_the_folder_are_refused(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    file = with_weights_beside(folder)
    stored = onnx.load(file, load_external_data=False)
    for tensor in stored.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../secret"
    (tmp_path / "secret").write_bytes(bytes(10_000))
    file.write_bytes(stored.SerializeToString())
    assert "outside of its folder" in refused(remote_lib.OnnxFile(spec(), file))


def test_half_precision_is_fed_half_precision(tmp_path):
    made = linear_model(kind=TensorProto.FLOAT16)
    for tensor in made.graph.initializer:
        half = onnx.numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(onnx.numpy_helper.from_array(half, tensor.name))
    made.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    file = onnx_models.saved(tmp_path, made)
    x = pictures()
    got, _ = asked(remote_lib.OnnxFile(spec(), file), x)
    np.testing.assert_allclose(got, reference(linear_model(), nchw(x)), atol=2e-2)


@pytest.mark.parametrize("passed_on", [(), ("Identity",), ("Cast", "Flatten")])
def test_a_softmax_inside_is_found_where_no_output_is_declared(
    tmp_path, capsys, passed_on
):
    tail = [node("Softmax", ["z"], ["t0"])]
    for i, op in enumerate(passed_on):
        attributes = {"to": 1} if op == "Cast" else {}
        tail.append(node(op, [f"t{i}"], [f"t{i + 1}"], **attributes))
    tail.append(node("Identity", [f"t{len(passed_on)}"], ["y"]))
    file = onnx_models.saved(tmp_path, linear_model(tail=tail))
    x = pictures()
    logits = reference(linear_model(), nchw(x))
    client = remote_lib.OnnxFile(spec(), file, guess_output=True)
    got, identity = asked(client, x)
    np.testing.assert_allclose(softmax(got), softmax(logits), atol=1e-5)
    assert "comes out of a softmax; taken as probabilities" in capsys.readouterr().err
    assert client.spec.output == "probabilities" and "probabilities" in identity
    assert "write output: probabilities" in refused(remote_lib.OnnxFile(spec(), file))
    declared, same = asked(remote_lib.OnnxFile(spec("probabilities"), file), x)
    np.testing.assert_array_equal(declared, got)
    assert same == identity


def test_a_distribution_is_found_by_its_answers(tmp_path, capsys):
    """A softmax that is written down by its parts."""
    tail = [
        node("Exp", ["z"], ["t0"]),
        node("ReduceSum", ["t0", "last"], ["t1"]),
        node("Div", ["t0", "t1"], ["y"]),
    ]
    made = linear_model(tail=tail, weights={"last": np.asarray([1])})
    file = onnx_models.saved(tmp_path, made)
    x = pictures()
    got, _ = asked(remote_lib.OnnxFile(spec(), file, guess_output=True), x)
    logits = reference(linear_model(), nchw(x))
    np.testing.assert_allclose(softmax(got), softmax(logits), atol=1e-5)
    assert "its answers sum to one" in capsys.readouterr().err
    with pytest.raises(ValueError, match="add output: probabilities"):
        asked(remote_lib.OnnxFile(spec(), file), x)


def several(names, **said):
    first, second = names
    return linear_model(
        tail=[node("Softmax", ["z"], [first]), node("Identity", ["z"], [second])],
        outputs=((first, ("n", 5)), (second, ("n", 5))),
        **said,
    )


@pytest.mark.parametrize(
    "names", [("probabilities", "logits"), ("scores", "output"), ("one", "two")]
)
def test_several_outputs_are_chosen_by_name(tmp_path, names):
    file = onnx_models.saved(tmp_path, several(names))
    x = pictures()
    logits = reference(linear_model(), nchw(x))
    got, identity = asked(remote_lib.OnnxFile(spec(), file, guess_output=True), x)
    np.testing.assert_allclose(got, logits, rtol=1e-5)
    assert names[1] in identity
    got, _ = asked(remote_lib.OnnxFile(spec("probabilities"), file), x)
    np.testing.assert_allclose(softmax(got), softmax(logits), atol=1e-5)


def test_several_outputs_are_chosen_by_width_or_asked_for(tmp_path):
    x = pictures()
    made = linear_model(outputs=(("e", ("n", 4)), ("y", ("n", 5))))
    file = onnx_models.saved(tmp_path, made)
    got, _ = asked(remote_lib.OnnxFile(spec(), file), x)
    logits = reference(linear_model(), nchw(x))
    np.testing.assert_allclose(got, logits, rtol=1e-5)
    tail = [node("Identity", ["z"], ["one"]), node("Neg", ["z"], ["two"])]
    made = linear_model(tail=tail, outputs=(("one", ("n", 5)), ("two", ("n", 5))))
    file = onnx_models.saved(tmp_path, made)
    assert "add output_name" in refused(remote_lib.OnnxFile(spec(), file))
    got, _ = asked(remote_lib.OnnxFile(spec(), file, output_name="two"), x)
    np.testing.assert_allclose(got, -logits, rtol=1e-5)
    wrong = remote_lib.OnnxFile(spec(), file, output_name="three")
    assert "has no output 'three' but one, two" in refused(wrong)


def test_shapes_that_do_not_fit_are_said(tmp_path):
    file = onnx_models.saved(tmp_path, linear_model())
    larger = remote_lib.OnnxFile(spec(image_shape=(9, 9, 3)), file)
    assert "not images of 9x9x3; correct image_size" in refused(larger)
    more = remote_lib.OnnxFile(spec(num_classes=6), file)
    assert "has 5 outputs but 6 class names" in refused(more)
    fixed = onnx_models.saved(tmp_path, linear_model(image=(4, 3, 8, 8)))
    assert "exactly 4 images at once" in refused(remote_lib.OnnxFile(spec(), fixed))
    file.write_bytes(b"nothing")
    assert "no model that can be run" in refused(remote_lib.OnnxFile(spec(), file))
    free = onnx_models.saved(tmp_path, linear_model(image=("n", 3, "h", "w")))
    x = pictures()
    got, _ = asked(remote_lib.OnnxFile(spec(), free), x)
    np.testing.assert_allclose(got, reference(linear_model(), nchw(x)), rtol=1e-5)


def test_the_list_of_endpoints_says_which_output(tmp_path, capsys):
    size = {"image": ("n", 3, 16, 16)}
    onnx_models.saved(tmp_path, linear_model(tail=[node("Softmax", ["z"])], **size))
    onnx_models.saved(tmp_path, several(("one", "two"), **size), "several.onnx")
    listed = tmp_path / "apis.yaml"
    listed.write_text(
        "defaults: {image_size: 16, class_names: [a, b, c, d, e]}\n"
        "endpoints:\n"
        "  - {onnx: model.onnx}\n"
        "  - {onnx: several.onnx, output_name: two}\n"
    )
    with endpoints.opened(str(listed), str(tmp_path), "toys") as zoo:
        network = zoo.groups[0].network
        assert network.num_classes == 5
    assert (
        "endpoint model: output 'y' comes out of a softmax" in capsys.readouterr().err
    )
