"""Programs: what makes two networks one, how they are run, and what is refused."""

import base64
import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

import free_jax.zoo as Z
from free_jax.errors import InputError
from free_jax.interop.programs import canonical, fill
from free_jax.interop.raw_graph import Node, RawGraph, Ref
from free_jax.models import program_text
from free_jax.types import Teachers
from free_jax.zoo.network import make_network

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def array(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape).astype(np.float32)


def photographs(*shape):
    return jnp.asarray(array(*shape, seed=9))


def a_graph(classes=5, *, seed=0, in_place=False, pooled="adaptive", kind=np.float32):
    """A convolution, a batch norm, a residual, a linear head; in several spellings."""
    x, relu = Ref("images"), "aten.relu_.default" if in_place else "aten.relu.default"
    weights = {
        "p_head_w": array(classes, 4, seed=seed + 5),
        "p_head_b": array(classes, seed=seed + 6),
        "p_conv": array(4, 3, 3, 3, seed=seed),
        "p_scale": array(4, seed=seed + 1),
        "p_bias": array(4, seed=seed + 2),
        "b_mean": array(4, seed=seed + 3),
        "b_var": np.exp(array(4, seed=seed + 4)),
    }
    keys = {name: name[2:] for name in weights}
    norm = [Ref(name) for name in ("p_scale", "p_bias", "b_mean", "b_var")]
    nodes = [
        Node("aten.sym_size.int", (x, 0), {}, "n"),
        Node("aten.conv2d.default", (x, Ref("p_conv"), None, [1, 1], [1, 1]), {}, "a"),
        Node(
            "aten.batch_norm.default",
            (Ref("a"), *norm, False, 0.1, 1e-5, True),
            {},
            "b",
        ),
        Node(relu, (Ref("b"),), {}, "c"),
        Node("aten.add.Tensor", (Ref("c"), Ref("a")), {}, "d"),
    ]
    if pooled == "mean":
        nodes += [Node("aten.mean.dim", (Ref("d"), [-1, -2]), {}, "flat")]
    else:
        pool = "aten.adaptive_avg_pool2d.default"
        nodes += [Node(pool, (Ref("d"), [1, 1]), {}, "e")]
        if pooled == "view":
            view = (Ref("e"), [Ref("n"), 4])
            nodes += [Node("aten.view.default", view, {}, "flat")]
        else:
            nodes += [Node("aten.flatten.using_ints", (Ref("e"), 1), {}, "flat")]
    if pooled == "mean":
        turned = Node("aten.t.default", (Ref("p_head_w"),), {}, "t")
        product = (Ref("p_head_b"), Ref("flat"), Ref("t"))
        nodes += [turned, Node("aten.addmm.default", product, {}, "g")]
    else:
        linear = (Ref("flat"), Ref("p_head_w"), Ref("p_head_b"))
        nodes += [Node("aten.linear.default", linear, {}, "g")]
    nodes += [Node("aten.softmax.int", (Ref("g"), -1), {}, "out")]
    weights = {name: value.astype(kind) for name, value in weights.items()}
    return RawGraph("images", tuple(nodes), "out", weights, keys)


def network(program, **kwargs):
    return make_network(
        "graph",
        num_classes=program.num_classes,
        image_shape=(16, 16, 3),
        program=program.text,
        gives=program.gives,
        **kwargs,
    )


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 7},
        {"classes": 9},
        {"in_place": True},
        {"pooled": "mean"},
        {"pooled": "view"},
        {"kind": np.float16},
    ],
)
def test_equal_architectures_are_one_program(other):
    program, variables = canonical(a_graph())
    again, others = canonical(a_graph(**other))
    assert again.text == program.text
    assert again.num_classes == other.get("classes", 5)
    for leaf in jax.tree.leaves(others):
        assert leaf.dtype == np.float32
    if "seed" not in other and "classes" not in other:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, 2e-3), variables, others
        )


def test_other_architectures_are_other_programs():
    program, _ = canonical(a_graph())
    graph = a_graph()
    nodes = [
        n._replace(args=(*n.args[:3], [2, 2])) if n.out == "a" else n
        for n in graph.nodes
    ]
    assert canonical(graph._replace(nodes=tuple(nodes)))[0].text != program.text


def test_program_says_what_it_gives():
    program, variables = canonical(a_graph())
    assert program.output == "probabilities"
    assert program.gives == {"gradients", "features", "moments"}
    assert program.leaves["params/head/kernel"] == "head_w"
    assert program.leaves["batch_stats/n000/var"] == "var"
    assert variables["params"]["head"]["kernel"].shape == (4, 5)
    assert len(program.text) < 600


def by_hand(graph, images, norm):
    """The network of `a_graph` with NumPy, in double precision; logits and moments."""
    w = {name: value.astype(np.float64) for name, value in graph.weights.items()}
    x = np.pad(np.asarray(images, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    h, width = images.shape[1:3]
    a = sum(
        x[:, i : i + h, j : j + width] @ w["p_conv"][:, :, i, j].T
        for i in range(3)
        for j in range(3)
    )
    mean, var = a.mean((0, 1, 2)), a.var((0, 1, 2))
    m, v = (mean, var) if norm == "batch" else (w["b_mean"], w["b_var"])
    b = (a - m) / np.sqrt(v + 1e-5) * w["p_scale"] + w["p_bias"]
    features = (np.maximum(b, 0) + a).mean((1, 2))
    return features @ w["p_head_w"].T + w["p_head_b"], mean, var


@pytest.mark.parametrize("batch", [None, 1])
@pytest.mark.parametrize("norm", ["running", "batch"])
def test_graph_computes_what_it_says(norm, batch):
    graph = a_graph()
    program, variables = canonical(graph, batch=batch)
    net = network(program, **PLAIN)
    images = photographs(4, 16, 16, 3)
    logits, mean, var = by_hand(graph, images, norm)
    found, moments = jax.jit(lambda v, x: net.apply_with_moments(v, x, norm=norm))(
        variables, images
    )
    np.testing.assert_allclose(found, logits, 1e-5, 1e-5)
    assert jax.tree.structure(moments) == jax.tree.structure(variables["batch_stats"])
    np.testing.assert_allclose(moments["n000"]["mean"], mean, 1e-5, 1e-5)
    np.testing.assert_allclose(moments["n000"]["var"], var, 1e-5, 1e-5)
    features = toy.apply(net, variables, images, norm=norm, features=True)
    assert features.shape == (4, 4)
    np.testing.assert_allclose(
        net.head(variables["params"], features), logits, 1e-5, 1e-5
    )


def test_graph_maps_over_teachers_and_images(key):
    program, _ = canonical(a_graph())
    net = network(program)
    trees = [canonical(a_graph(seed=seed))[1] for seed in (0, 7)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
    images = jax.random.uniform(key, (3, 16, 16, 3))

    @jax.jit
    def gradient(variables, images):
        return jax.grad(lambda x: net.apply(variables, x).var())(images)

    many = jax.jit(jax.vmap(gradient, (0, None)))(stacked, images)
    for i, tree in enumerate(trees):
        np.testing.assert_allclose(many[i], gradient(tree, images), 1e-4, 1e-6)
    single = jax.jit(jax.vmap(lambda x: net.apply(trees[0], x[None])[0]))(images)
    np.testing.assert_allclose(single, toy.apply(net, trees[0], images), 1e-5, 1e-5)


def test_graph_starts_and_is_described(key):
    program, variables = canonical(a_graph())
    net = network(program)
    fresh = jax.jit(net.init)(key)
    assert jax.tree.map(np.shape, fresh) == jax.tree.map(np.shape, variables)
    assert np.all(fresh["params"]["w001"] == 1) and not np.any(fresh["params"]["w002"])
    again = make_network(**json.loads(json.dumps(net.as_dict())), gives=net.gives)
    assert again == net
    half = network(program, dtype="bfloat16")
    images = jax.random.uniform(key, (2, 16, 16, 3))
    out = toy.apply(half, variables, images)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, toy.apply(net, variables, images), atol=0.2)


def test_zoo_of_graphs_is_saved_and_loaded(tmp_path):
    program, variables = canonical(a_graph())
    stacked = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], variables)
    group = Z.ZooGroup(
        network(program), Teachers(stacked, jnp.arange(5)[None]), np.array([0.5])
    )
    zoo = Z.Zoo((group,), tuple("abcde"))
    Z.save_zoo(zoo, tmp_path / "zoo")
    again = Z.load_zoo(tmp_path / "zoo")
    assert again.networks[0].kwargs == group.network.kwargs
    jax.tree.map(
        np.testing.assert_array_equal, again.groups[0].teachers.variables, stacked
    )


def test_sibling_is_filled_by_keys():
    program, _ = canonical(a_graph())
    graph = a_graph(classes=3, seed=4)
    state = {graph.keys[name]: value for name, value in graph.weights.items()}
    variables = fill(program, state, "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, variables, canonical(graph)[1])
    del state["conv"]
    state["mean"] = state["mean"][:3]
    with pytest.raises(
        InputError, match=r"model.safetensors.*lacks conv; mean is \[3\]"
    ):
        fill(program, state, "model.safetensors")


def test_constants_stay_in_the_program():
    nodes = (
        Node("aten.index.Tensor", (Ref("x"), [None, Ref("table")]), {}, "a"),
        Node("aten.mul.Tensor", (Ref("a"), Ref("slope")), {}, "b"),
        Node("aten.add.Tensor", (Ref("b"), Ref("shift")), {}, "c"),
        Node("aten.amax.default", (Ref("c"), [2, 3]), {}, "out"),
    )
    weights = {
        "table": np.array([2, 0], np.int64),
        "slope": np.float32([3.0]),
        "shift": np.float64(0.5),
    }
    graph = RawGraph("x", nodes, "out", weights, {"table": "t", "slope": "prelu"})
    program, variables = canonical(graph)
    assert program.leaves == {"params/w000": "prelu"}
    assert program.num_classes == 2 and program.gives == {"gradients"}
    images = photographs(1, 16, 16, 3)
    out = network(program, **PLAIN).apply(variables, images)
    np.testing.assert_allclose(out, 3 * images.max((1, 2))[:, [2, 0]] + 0.5, 1e-6)
    with pytest.raises(InputError, match="without a linear head"):
        network(program).apply(variables, images, features=True)


def test_in_place_changes_reach_later_uses():
    add = Node("aten.add_.Tensor", (Ref("a"), 1), {}, "b")
    nodes = (
        Node("aten.amax.default", (Ref("x"), [2, 3]), {}, "a"),
        add,
        Node("aten.mul.Tensor", (Ref("a"), 2), {}, "out"),
    )
    program, variables = canonical(RawGraph("x", nodes, "out", {}, {}))
    images = photographs(2, 16, 16, 3)
    out = network(program, **PLAIN).apply(variables, images)
    np.testing.assert_allclose(out, 2 * (images.max((1, 2)) + 1), 1e-6)
    view = Node("aten.select.int", (Ref("a"), 1, 0), {}, "v")
    changed = (
        nodes[0],
        view,
        Node("aten.zero_.default", (Ref("v"),), {}, "z"),
        nodes[2],
    )
    with pytest.raises(InputError, match="in place"):
        canonical(RawGraph("x", changed, "out", {}, {}))


def test_all_unknown_operators_are_named():
    nodes = (
        Node("aten.fold.default", (Ref("x"),), {}, "a"),
        Node("custom.op", (Ref("a"),), {}, "b"),
    )
    with pytest.raises(InputError, match=r"aten.fold.default, custom.op"):
        canonical(RawGraph("x", nodes, "b", {}, {}))


def test_images_that_do_not_fit_are_said():
    nodes = (Node("aten.reshape.default", (Ref("x"), [-1, 7]), {}, "out"),)
    with pytest.raises(InputError, match=r"operation 0 of the graph, aten\.reshape"):
        canonical(RawGraph("x", nodes, "out", {}, {}), image_shape=(16, 16, 3))


def test_constants_beyond_measure_are_refused():
    nodes = (
        Node("aten.full.default", ([1 << 20, 1 << 20], 1.0), {}, "a"),
        Node("aten.add.Tensor", (Ref("x"), Ref("a")), {}, "out"),
    )
    with pytest.raises(InputError, match="a constant of 1099511627776 numbers"):
        canonical(RawGraph("x", nodes, "out", {}, {}), image_shape=(16, 16, 3))


def _text(change) -> str:
    plain = json.loads(zlib.decompress(base64.b85decode(canonical(a_graph())[0].text)))
    change(plain)
    return base64.b85encode(zlib.compress(json.dumps(plain).encode())).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not a program",
        "\u00e9" * 40,
        _text(lambda p: None)[:-9],
        _text(lambda p: p.update(version=99)),
        _text(lambda p: p.pop("nodes")),
        _text(lambda p: p["nodes"].append(["os.system", [], {}])),
        _text(lambda p: p["nodes"].insert(0, ["aten.relu.default", ["v3"], {}])),
        _text(lambda p: p["nodes"][0][1].append({"code": "x"})),
        _text(lambda p: p["shapes"].update(w000=[-4])),
        _text(lambda p: p["shapes"].update({"../w": [4]})),
        _text(lambda p: p["constants"].update(c0=["f4", [1 << 30], ""])),
        _text(lambda p: p["nodes"].append([7, [[[[[[[[[1]]]]]]]]], {}])),
        _text(lambda p: p.update(output="v99")),
        _text(lambda p: p.update(nodes=[["aten.relu.default", ["x"], {}]] * 30_000)),
        base64.b85encode(zlib.compress(b"[" * 900_000)).decode(),
        base64.b85encode(zlib.compress(b" " * 50_000_000)).decode(),
    ],
)
def test_bad_texts_are_refused_in_a_line(text):
    with pytest.raises(InputError, match="not a program"):
        program_text.read(text)
