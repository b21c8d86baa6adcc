"""A model for others: what is written, read again, runs elsewhere, and is refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
import toy

import free_jax as fj
from experiments import export_model
from free_jax import model_io, release
from free_jax.errors import InputError
from free_jax.interop.hub.licence import licence_of
from free_jax.models import ResNet
from free_jax.release import card
from free_jax.release.onnx_writers import WRITERS, Builder
from free_jax.types import Teachers
from free_jax.zoo import Zoo, ZooGroup, load_zoo, merge, save_zoo
from free_jax.zoo.assembly import Teacher, assemble
from free_jax.zoo.pool import subset

runtime = pytest.importorskip("onnxruntime")

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (5, 16, 20, 3)).astype(np.uint8)
RAGGED = np.asarray([0, 2, 7, 10], np.int32)
HOSTILE = "<script>alert(1)</script> [a](javascript:b) | `c` **d**\n# e"


def random_variables(network):
    """Numbers of the sizes that trained ones have, statistics included."""
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        name = path[-1].key
        if name == "kernel":
            values = rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))
        elif name in ("scale", "var"):
            values = rng.uniform(0.5, 1.5, leaf.shape)
        else:
            values = rng.normal(size=leaf.shape) / 5
        return jnp.asarray(values, leaf.dtype)

    shapes = jax.eval_shape(network.init, jax.random.key(0))
    return jax.tree_util.tree_map_with_path(draw, shapes)


def a_model(columns=None, *, whitening=0.5, shape=IMAGES.shape[1:], **fields):
    """A Conv4 of random numbers, statistics and descriptions."""
    network = fj.make_network(
        "conv4",
        num_classes=10,
        image_shape=shape,
        mean=(0.4, 0.5, 0.6)[: shape[2]],
        std=(0.2, 0.3, 0.25)[: shape[2]],
        width=4,
        **fields,
    )
    variables, rng = random_variables(network), np.random.default_rng(1)
    number = 2 if columns is None else len(columns) - 1
    how = {
        "weights": jnp.linspace(0, 1, number),
        "temperature": jnp.float32(1.5),
    }
    if columns is not None:
        how["columns"] = jnp.asarray(columns)
    if whitening:
        how["mean"] = jnp.asarray(rng.normal(size=10), jnp.float32)
        how["whitening"] = jnp.asarray(rng.normal(size=(10, 10)), jnp.float32)
    if whitening == "leading":
        how["whitening"] = how["whitening"][:, :3]
        how["outside"] = jnp.float32(1.7)
    return network, {**variables, "descriptions": how}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model with notes, and the folder that it was exported to."""
    network, variables = a_model(RAGGED)
    teachers = [
        {
            "source": source,
            "network": "conv4",
            "num_classes": classes,
            "classes": [f"class {i}" for i in range(classes - 1)] + [HOSTILE],
            "trust": 0.5,
            "licence": licence,
        }
        for source, classes, licence in (
            ("oaks/resnet", 2, "apache-2.0"),
            (HOSTILE, 5, ""),
            ("old", 3, None),
        )
    ]
    notes = {
        "algorithm": "panel",
        "seed": 3,
        "steps": 7,
        "teachers": teachers,
        "measured": {
            "table": "5-way, 600 episodes\n\n| 45.1 +- 0.4 |\n```\n<b>out</b>",
            "result": {"config_hash": "c0ffee", "versions": {"jax": "9.8.7"}},
        },
    }
    folder = tmp_path_factory.mktemp("export") / "to_others"
    release.export(folder, network, variables, notes)
    return network, variables, notes, folder


def described(network, variables, images):
    return np.asarray(fj.distilled.embed(network, variables, jnp.asarray(images)))


def same(ours, theirs):
    ours, theirs = model_io.flat(ours), model_io.flat(theirs)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.dtype == theirs[name].dtype, name
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


def test_what_is_written_is_read_again(exported, tmp_path):
    network, variables, notes, folder = exported
    found, read, said = fj.load_model(folder)
    assert found == network and said == notes
    same(variables, read)
    # The run's own file, and its folder, are the same model.
    fj.save_model(tmp_path / "model.npz", network, variables, **notes)
    for path in (tmp_path, tmp_path / "model.npz"):
        found, read, said = fj.load_model(path)
        assert found == network and said == notes
        same(variables, read)
    np.testing.assert_array_equal(
        described(network, read, IMAGES),
        described(network, variables, IMAGES),
    )


def ran(model, images):
    session = runtime.InferenceSession(model.SerializeToString())
    (value,) = session.run(None, {"images": images})
    return value


@pytest.mark.parametrize(
    "columns, fields",
    [
        (None, {}),
        (RAGGED, {"bgr": True}),
        (RAGGED, {"whitening": 0, "global_pool": True}),
        (RAGGED, {"whitening": "leading"}),
        (None, {"whitening": 0, "shape": (17, 33, 1)}),
    ],
    ids=["equal", "ragged, blue first", "not whitened", "leading", "grey, odd sides"],
)
def test_onnx_describes_as_the_model_does(columns, fields):
    network, variables = a_model(columns, **fields)
    h, w, c = network.image_shape
    images = RNG.integers(0, 256, (5, h, w, c)).astype(np.uint8)
    wanted = described(network, variables, images)
    assert np.ptp(wanted, axis=0).max() > 1e-2  # the images are told apart
    model = release.onnx_model(network, variables)
    for number in (5, 1):
        rows = ran(model, images[:number])
        np.testing.assert_allclose(rows, wanted[:number], atol=1e-4)
    floats = release.onnx_model(network, variables, "float")
    rows = ran(floats, images.astype(np.float32) / 255)
    np.testing.assert_allclose(rows, wanted, atol=1e-4)
    # Batch norm has statistics: an image's row does not depend on the others.
    assert {node.op_type for node in model.graph.node} >= {"BatchNormalization"}


def test_a_row_of_zeros_stays_one():
    network, variables = a_model()
    head = variables["params"]["head"]
    variables["params"]["head"] = jax.tree.map(jnp.zeros_like, head)
    wanted = described(network, variables, IMAGES)
    rows = ran(release.onnx_model(network, variables), IMAGES)
    np.testing.assert_allclose(rows, wanted, atol=1e-4)


def test_a_meta_learned_model_gives_its_features(tmp_path):
    network, variables = a_model()
    params = {"params": variables["params"]}
    wanted = network.apply(params, jnp.asarray(IMAGES), norm="batch", features=True)
    release.export(tmp_path / "out", network, params, format="onnx")
    model = onnx.load(str(tmp_path / "out" / "model.onnx"))
    assert [value.name for value in model.graph.output] == ["features"]
    np.testing.assert_allclose(ran(model, IMAGES), wanted, atol=1e-4)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["output"] == {"kind": "features", "size": 4, "whitened": False}
    assert "moments of the images" in config["formula"]["features"]
    with pytest.raises(InputError, match=r"model\.safetensors is missing"):
        fj.load_model(tmp_path / "out")
    # The other format of the same model joins it; the former stays.
    release.export(tmp_path / "out", network, params)
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {"model.onnx", "model.safetensors", "config.json", "README.md"}
    same(params, fj.load_model(tmp_path / "out")[1])
    page = (tmp_path / "out" / "README.md").read_text()
    assert "onnxruntime" in page and "fj.load_model" in page
    # Another model does not.
    release.export(tmp_path / "out", *a_model())
    assert not (tmp_path / "out" / "model.onnx").exists()


@pytest.mark.parametrize("depth", [10, 50])
def test_resnets_are_written(depth):
    """Every array of the network but the head's is used once."""
    network = fj.make_network(f"resnet{depth}", num_classes=4, image_shape=(16, 16, 3))
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    rng = np.random.default_rng(2)
    variables = jax.tree.map(
        lambda x: (0.1 * rng.standard_normal(x.shape) ** 2).astype(np.float32), shapes
    )
    build = Builder()
    WRITERS[ResNet](build, network.module, variables, "images")
    ops = [node.op_type for node in build.nodes]
    kernels = [leaf for leaf in jax.tree.leaves(shapes["params"]) if leaf.ndim == 4]
    assert ops.count("Conv") == len(kernels)
    assert ops.count("Relu") == {10: 2 * 4, 50: 3 * 16}[depth]
    used = sum(np.prod(c.dims) for c in build.constants)
    head = variables["params"]["head"]
    every = sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert used == every - sum(leaf.size for leaf in jax.tree.leaves(head))


def test_resnet_computes_as_the_model_does():
    network = fj.make_network("resnet10", num_classes=4, image_shape=(16, 16, 3))
    how = {"weights": jnp.ones(2), "temperature": jnp.float32(0.5)}
    variables = random_variables(network) | {"descriptions": how}
    images = jnp.asarray(IMAGES[:2, :, :16])
    wanted = jax.jit(lambda x: fj.distilled.embed(network, variables, x))(images)
    assert np.ptp(wanted, axis=0).max() > 1e-2
    rows = ran(release.onnx_model(network, variables), np.asarray(images))
    np.testing.assert_allclose(rows, wanted, atol=1e-4)


def a_graph():
    """A network that only a program describes."""
    from free_jax.interop.programs import canonical
    from free_jax.interop.raw_graph import Node, RawGraph, Ref

    weights = {
        "kernel": RNG.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "head_w": RNG.normal(size=(5, 4)).astype(np.float32),
        "head_b": RNG.normal(size=5).astype(np.float32),
    }
    conv = (Ref("images"), Ref("kernel"), None, [1, 1], [1, 1])
    nodes = (
        Node("aten.conv2d.default", conv, {}, "a"),
        Node("aten.relu.default", (Ref("a"),), {}, "b"),
        Node("aten.mean.dim", (Ref("b"), [-1, -2]), {}, "c"),
        Node(
            "aten.linear.default",
            (Ref("c"), Ref("head_w"), Ref("head_b")),
            {},
            "out",
        ),
    )
    raw = RawGraph("images", nodes, "out", weights, {name: name for name in weights})
    program, variables = canonical(raw)
    network = fj.make_network(
        "graph",
        num_classes=5,
        image_shape=(16, 16, 3),
        program=program.text,
        gives=program.gives,
    )
    how = {
        "weights": np.asarray([0.5, 1], np.float32),
        "temperature": np.float32(2),
        "columns": np.asarray([0, 2, 5], np.int32),
    }
    variables = {**variables, "descriptions": how}
    return network, jax.tree.map(jnp.asarray, variables)


def test_other_networks_go_through_jax2onnx_or_are_refused(tmp_path, monkeypatch):
    import sys

    network, variables = a_graph()
    release.export(tmp_path / "weights", network, variables)
    found, read, _ = fj.load_model(tmp_path / "weights")
    assert found == network
    same(variables, read)
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(InputError, match=r'pip install "free_jax\[export\]"'):
        release.export(tmp_path / "out", network, variables, format="onnx")
    assert not (tmp_path / "out").exists()


def test_other_networks_through_jax2onnx():
    pytest.importorskip("jax2onnx")
    network, variables = a_graph()
    images = IMAGES[:, :, :16].copy()
    wanted = described(network, variables, images)
    model = release.onnx_model(network, variables)
    for number in (5, 2):
        rows = ran(model, images[:number])
        np.testing.assert_allclose(rows, wanted[:number], atol=1e-4)


def test_config_says_how(exported):
    network, _, _, folder = exported
    config = json.loads((folder / "config.json").read_text())
    assert fj.make_network(**config["network"]).num_classes == network.num_classes
    assert [head["columns"] for head in config["heads"]] == [[0, 2], [2, 7], [7, 10]]
    assert [head["trust"] for head in config["heads"]] == [0, 0.5, 1]
    steps = ["normalise", "describe", "whiten", "classify", "adapt"]
    assert list(config["formula"]) == steps
    assert config["input"]["height"], config["input"]["width"] == (16, 20)


def test_the_formula_in_numbers(exported):
    """The config's own words in NumPy, from the logits on."""
    network, variables, _, folder = exported
    config = json.loads((folder / "config.json").read_text())
    how = jax.tree.map(np.asarray, variables["descriptions"])
    rows = 0
    for view in (IMAGES, IMAGES[:, :, ::-1]):
        z = np.asarray(network.apply(variables, jnp.asarray(view)), np.float64)
        parts = []
        for head in config["heads"]:
            first, end = head["columns"]
            p = np.exp(z[:, first:end] / config["temperature"])
            p /= p.sum(1, keepdims=True)
            parts.append(head["trust"] * (p - 1 / (end - first)))
        rows += np.concatenate(parts, 1) / 2
    rows /= np.linalg.norm(rows, axis=1, keepdims=True) + 1e-8
    rows = (rows - how["mean"]) @ how["whitening"]
    wanted = described(network, variables, IMAGES)
    np.testing.assert_allclose(rows, wanted, atol=1e-4)


def test_card_says_what_it_was_made_from_and_measured(exported):
    page = (exported[3] / "README.md").read_text()
    for text in ("oaks/resnet", "apache-2.0 (1), not stated (1), not recorded (1)",
                 "45.1 +- 0.4", "c0ffee", "9.8.7", "3 classifiers"):  # fmt: skip
        assert text in page, text
    # What strangers wrote neither marks up nor leaves its cell or block.
    outside = "\n".join(page.split("````")[::2])
    assert "<script" not in page and "<b>" not in outside
    assert "[a](javascript" not in page and "\n# e" not in page
    rows = [line for line in page.splitlines() if "alert" in line]
    assert rows and all(line.startswith("|") for line in rows)
    bars = {line.replace("\\|", "").count("|") for line in rows}
    assert bars == {6}
    config = config_of(exported)
    assert "licence" in card.model_card("x", config)
    assert "was guessed" not in card.model_card("x", config)
    guessed = {**config, "notes": {**config["notes"], "guessed": True}}
    assert "was guessed (zoo.guess)" in card.model_card("x", guessed)


def config_of(exported):
    return json.loads((exported[3] / "config.json").read_text())


def test_a_model_that_says_little_has_a_card_too(tmp_path):
    release.export(tmp_path / "out", *a_model())
    page = (tmp_path / "out" / "README.md").read_text()
    assert page.count("Not recorded with the model.") == 2
    assert "Nothing was measured" in page


def refused(capsys, *arguments):
    assert export_model.main(arguments) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1, line
    return line


def test_the_command(exported, tmp_path, capsys):
    network, variables, notes, _ = exported
    run = tmp_path / "run"
    run.mkdir()
    told = {key: value for key, value in notes.items() if key != "measured"}
    fj.save_model(run / "model.npz", network, variables, **told)
    (run / "table.md").write_text("5-way: 12.3 %\n")
    (run / "result.json").write_text('{"format": 2, "seed": 3, "curve": [1]}')
    for path in (run, run / "model.npz"):
        target = tmp_path / f"out {path.name}"
        assert export_model.main([f"--model={path}", f"--target={target}"]) == 0
        measured = fj.load_model(target)[2]["measured"]
        assert measured == {"table": "5-way: 12.3 %\n", "result": {"seed": 3}}
    # An exported model is exported further, with what was measured.
    further = [f"--model={target}", f"--target={tmp_path / 'further'}"]
    assert export_model.main([*further, "--format=onnx", "--input=float"]) == 0
    assert "12.3 %" in (tmp_path / "further" / "README.md").read_text()
    (run / "result.json").write_text("{")
    line = refused(capsys, f"--model={run}", f"--target={tmp_path / 'other'}")
    assert "result.json" in line


def test_bad_input_is_one_line(exported, tmp_path, capsys):
    folder = exported[3]
    model, target = f"--model={folder}", f"--target={tmp_path / 'out'}"
    assert "choose safetensors" in refused(capsys, model, target, "--format=h5")
    assert "--input goes with" in refused(capsys, model, target, "--input=float")
    onnx_too = (model, target, "--format=onnx", "--input=int4")
    assert "choose uint8 or float" in refused(capsys, *onnx_too)
    assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    line = refused(capsys, model, f"--target={tmp_path / 'full'}")
    assert "thesis.tex" in line
    line = refused(capsys, model, f"--target={tmp_path / 'full' / 'thesis.tex'}")
    assert "is a file" in line
    line = refused(capsys, f"--model={tmp_path / 'full'}", target)
    assert "not a model saved by free_jax" in line
    refused(capsys, f"--model={tmp_path / 'nowhere'}", target)
    refused(capsys, f"--model={tmp_path / 'full' / 'thesis.tex'}", target)


def copied(exported, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in exported[3].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize(
    "change, message",
    [
        ({"version": 2}, "format version 2, this free_jax reads 1; update"),
        ({"version": "x"}, "format version x"),
        ({"format": "other"}, "not a model saved by free_jax"),
        ({"network": {"name": "conv9"}}, "not a model saved by free_jax"),
        ({"notes": None, "network": None}, "not a model saved by free_jax"),
    ],
)
def test_other_configs_are_refused(exported, tmp_path, change, message):
    folder = copied(exported, tmp_path)
    config = config_of(exported) | change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=message) as caught:
        fj.load_model(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a: a.pop("params/conv1/kernel"), r"params/conv1/kernel is missing"),
        (lambda a: a.update(odd=np.zeros(1)), r"odd is not of this network"),
        (
            lambda a: a.update({"params/head/bias": np.zeros(9, np.float32)}),
            r"params/head/bias has shape \(9,\), expected \(10,\)",
        ),
        (lambda a: a.pop("descriptions/mean"), r"descriptions/mean is missing"),
        (
            lambda a: a.update({"descriptions/columns": np.zeros(3, np.int32)}),
            r"descriptions/columns has shape \(3,\), expected \(4,\)",
        ),
    ],
)
def test_other_weights_are_refused(exported, tmp_path, change, message):
    from safetensors.numpy import load_file, save_file

    folder = copied(exported, tmp_path)
    arrays = load_file(folder / "model.safetensors")
    change(arrays)
    save_file(arrays, folder / "model.safetensors")
    with pytest.raises(InputError, match=message):
        fj.load_model(folder)


def test_damaged_weights_are_refused(exported, tmp_path):
    folder = copied(exported, tmp_path)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(InputError, match="is damaged"):
        fj.load_model(folder)


def test_a_later_npz_is_refused(tmp_path, monkeypatch):
    network, variables = a_model()
    monkeypatch.setattr(model_io, "VERSION", 2)
    fj.save_model(tmp_path / "model.npz", network, variables)
    monkeypatch.undo()
    with pytest.raises(InputError, match="format version 2"):
        fj.load_model(tmp_path)


def a_zoo(names, licences, sources=()):
    network = toy.ARCH
    number = len(licences or sources)
    ids = jnp.tile(jnp.arange(network.num_classes), (number, 1))
    teachers = toy.random_teachers(network, number)
    teachers = Teachers(teachers.variables, ids)
    group = ZooGroup(
        network, teachers, np.full(number, 0.5), "", tuple(sources), tuple(licences)
    )
    return Zoo((group,), tuple(names))


def test_licences_go_with_their_teachers(tmp_path):
    names = [f"class {i}" for i in range(toy.ARCH.num_classes)]
    first = a_zoo(names, ("mit", ""), ("a", "b"))
    joined = merge([first, a_zoo(names, (), ("c",)), a_zoo(names, ("gpl-3.0",), "d")])
    assert joined.groups[0].licences == ("mit", "", "", "gpl-3.0")
    save_zoo(joined, tmp_path / "zoo")
    kept = load_zoo(tmp_path / "zoo")
    assert kept.groups[0].licences == ("mit", "", "", "gpl-3.0")
    assert subset(kept, 2).groups[0].licences == ("mit", "")
    made = release.made_from(kept, {"descriptions": {"weights": [0.25, 1]}}, [1, 3])
    assert [(each["source"], each["trust"], each["licence"]) for each in made] == [
        ("b", 0.25, ""),
        ("d", 1, "gpl-3.0"),
    ]
    assert made[0]["classes"] == names and made[0]["accuracy"] == 0.5
    json.dumps(made, allow_nan=False)
    assert release.made_from(a_zoo(names, (), ("c",)))[0]["licence"] is None
    with pytest.raises(InputError, match="3 licences for 2 teachers"):
        dataclasses.replace(first.groups[0], licences=("a", "b", "c"))


def test_assembled_teachers_keep_their_licences():
    network = toy.ARCH
    variables = jax.tree.map(
        lambda x: np.zeros(x.shape, x.dtype),
        jax.eval_shape(network.init, jax.random.key(0)),
    )
    names = tuple(f"class {i}" for i in range(network.num_classes))
    teachers = [
        Teacher("a", network, variables, names, licence="mit"),
        Teacher("b", network, variables, names, guessed="mean, std"),
    ]
    zoo = assemble(teachers).zoo
    assert zoo.groups[0].licences == ("mit", "")
    assert zoo.groups[0].guesses == ("", "mean, std")


def test_what_was_guessed_stands_beside_its_teacher(exported, tmp_path):
    names = [f"class {i}" for i in range(toy.ARCH.num_classes)]
    first, second = a_zoo(names, ("mit", "")), a_zoo(names, ("mit",))
    said = dataclasses.replace(first.groups[0], guesses=("", "mean, std"))
    joined = merge([Zoo((said,), first.class_names), second])
    save_zoo(joined, tmp_path / "zoo")
    made = release.made_from(load_zoo(tmp_path / "zoo"))
    assert [each["guessed"] for each in made] == ["", "mean, std", ""]
    assert release.made_from(second)[0]["guessed"] is None
    config = config_of(exported)
    notes = {**config["notes"], "teachers": made}
    page = card.model_card("x", {**config, "notes": notes}).splitlines()
    rows = [
        line.split("|")[-2].strip() for line in page if line.startswith("| teacher")
    ]
    assert rows == ["", "mean, std", ""]
    assert not any("guess" in line for line in card.model_card("x", config).split())


@pytest.mark.parametrize(
    "readme, config, licence, source",
    [
        ("---\nlicense: mit\n---\n# x", {"license": "bsd"}, "mit", "README.md"),
        ("---\nlicense: [mit, bsd]\n---\n", None, "mit, bsd", "README.md"),
        ("---\nlicense: other\nlicense_name: own\n---\n", None, "own", "README.md"),
        ("license: mit", {"license": "bsd-3"}, "bsd-3", "config.json"),
        (None, {"pretrained_cfg": {"license": "a"}}, "a", "config.json:pretrained_cfg"),
        ("---\nlicense: {x\n---\n", {"license": 7}, None, None),
        ("---\nlicense: mit\n", None, None, None),
        ("---\n- license\n---\nlicense: mit", ["license"], None, None),
    ],
)
def test_licence_of_files(tmp_path, readme, config, licence, source):
    if readme is not None:
        (tmp_path / "README.md").write_text(readme)
    found = licence_of(tmp_path, config, tmp_path)
    assert (found and found.value) == licence
    assert found is None or found.source == f"{source}:license"


def test_a_readme_elsewhere_is_not_looked_at(tmp_path):
    (tmp_path / "secret.md").write_text("---\nlicense: mit\n---\n")
    models = tmp_path / "models"
    models.mkdir()
    (models / "README.md").symlink_to(tmp_path / "secret.md")
    assert licence_of(models, None, models) is None


@pytest.mark.parametrize("leading", [False, True])
def test_numbers_are_stated_once(tmp_path, leading):
    network, variables = a_model(RAGGED, whitening="leading" if leading else 1)
    release.export(tmp_path, network, variables, {})
    same(variables, fj.load_model(tmp_path)[1])
    config = json.loads((tmp_path / "config.json").read_text())
    for change, what in [
        ({"temperature": 3.0}, "temperature"),
        (
            {"heads": [*config["heads"][:-1], config["heads"][-1] | {"trust": 0.3}]},
            "tr",
        ),
    ]:
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(InputError, match=f"differ in the {what}"):
            fj.load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config)[:-1])
    with pytest.raises(InputError, match="no valid JSON"):
        fj.load_model(tmp_path)
