"""Graphs of many architectures as one zoo, and all batch norms of a densenet."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from free_jax import objectives, zoo
from free_jax.interop import hub, program_library
from free_jax.interop.hub import HubOptions
from free_jax.interop.programs import canonical
from free_jax.interop.raw_graph import Node, RawGraph, Ref
from free_jax.inversion.objective import Objective, white_box
from free_jax.parallel import make_mesh, map_tasks
from free_jax.types import Teachers
from free_jax.zoo.network import make_network

SIDE, CLASSES = 16, 3


class Builder:
    """Writes down a graph operation by operation, with random weights."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.weights, self.nodes = {}, []

    def weight(self, *shape, positive=False):
        value = self.rng.normal(size=shape).astype(np.float32)
        name = f"p{len(self.weights)}"
        self.weights[name] = np.exp(value / 3) if positive else value / 2
        return Ref(name)

    def __call__(self, op, *args):
        out = f"o{len(self.nodes)}"
        self.nodes.append(Node(f"aten.{op}", args, {}, out))
        return Ref(out)

    def conv(self, x, outputs, inputs, size=3, stride=1, groups=1):
        kernel = self.weight(outputs, inputs // groups, size, size)
        lattice = ([stride] * 2, [size // 2] * 2, [1, 1], groups)
        return self("conv2d.default", x, kernel, None, *lattice)

    def norm(self, x, channels):
        scale, bias, mean = (self.weight(channels) for _ in range(3))
        var = self.weight(channels, positive=True)
        moments = (scale, bias, mean, var, False, 0.1, 1e-5, True)
        return self("relu.default", self("batch_norm.default", x, *moments))

    def done(self, x, channels, axes=(-1, -2)):
        x = self("mean.dim", x, list(axes))
        head = self.weight(CLASSES, channels), self.weight(CLASSES)
        return self.graph(self("linear.default", x, *head))

    def graph(self, output):
        keys = {name: name for name in self.weights}
        return RawGraph("x", tuple(self.nodes), output.name, self.weights, keys)


def residual(seed):
    b = Builder(seed)
    x = b.conv(Ref("x"), 4, 3)
    return b.done(b("add.Tensor", x, b.norm(b.conv(x, 4, 4), 4)), 4)


def dense(seed):
    """A stem, two layers that add channels to all before them, a norm at the end."""
    b = Builder(seed)
    x = b.conv(Ref("x"), 4, 3)
    for channels in (4, 6):
        x = b("cat.default", [x, b.conv(b.norm(x, channels), 2, channels)], 1)
    return b.done(b.norm(x, 8), 8)


def inverted(seed):
    """A wide depthwise convolution between narrow ones."""
    b = Builder(seed)
    x = b.norm(b.conv(Ref("x"), 6, 3, size=1), 6)
    x = b("hardswish.default", b.norm(b.conv(x, 6, 6, stride=2, groups=6), 6))
    return b.done(b.conv(x, 4, 6, size=1), 4)


def transformer(seed):
    """Patches that attend to one another; no batch norm."""
    b = Builder(seed)
    kernel = b.weight(6, 3, 4, 4)
    x = b("conv2d.default", Ref("x"), kernel, None, [4, 4], [0, 0])
    x = b("transpose.int", b("flatten.using_ints", x, 2), 1, 2)
    x = b("layer_norm.default", x, [6], b.weight(6), b.weight(6))
    x = b("scaled_dot_product_attention.default", x, x, x)
    return b.done(x, 6, axes=(1,))


def fully_convolutional(seed):
    """Without a linear head."""
    b = Builder(seed)
    x = b.conv(b.norm(b.conv(Ref("x"), 4, 3, stride=2), 4), CLASSES, 4)
    return b.graph(b("mean.dim", x, [2, 3]))


ARCHITECTURES = {
    residual: 4,
    dense: 4,
    inverted: 4,
    transformer: 3,
    fully_convolutional: 3,
}


def teacher(make, seed):
    program, variables = canonical(make(seed), image_shape=(SIDE, SIDE, 3))
    network = make_network(
        "graph",
        num_classes=program.num_classes,
        image_shape=(SIDE, SIDE, 3),
        program=program.text,
        gives=program.gives,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
    )
    names = tuple(f"class {seed + i}" for i in range(CLASSES))
    return zoo.Teacher(f"{make.__name__}/{seed}", network, variables, names)


def photographs(n=4):
    images = np.random.default_rng(5).uniform(size=(n, SIDE, SIDE, 3))
    return jnp.asarray(images, jnp.float32)


@pytest.fixture(scope="module")
def mixed():
    """18 graphs of five architectures, the architectures in turn."""
    wanted = [(i, make) for make, count in ARCHITECTURES.items() for i in range(count)]
    wanted.sort(key=lambda pair: pair[0])
    return [teacher(make, seed) for seed, (_, make) in enumerate(wanted)]


def test_eighteen_graphs_stack_and_are_saved_and_loaded(mixed, tmp_path):
    made = zoo.assemble(mixed).zoo
    assert made.num_teachers == 18 and made.num_classes == 20
    assert [g.num_teachers for g in made.groups] == list(ARCHITECTURES.values())
    by_source = {one.source: one for one in mixed}
    for group in made.groups:
        for i, source in enumerate(group.sources):
            stacked = jax.tree.map(lambda x, i=i: x[i], group.teachers.variables)
            own = by_source[source].variables
            jax.tree.map(np.testing.assert_array_equal, stacked, own)
    zoo.save_zoo(made, tmp_path / "zoo")
    again = zoo.load_zoo(tmp_path / "zoo")
    assert again.networks == made.networks and again.sources == made.sources
    assert again.class_names == made.class_names
    for ours, theirs in zip(again.groups, made.groups, strict=True):
        jax.tree.map(np.testing.assert_array_equal, ours.teachers, theirs.teachers)


def asked(network, images, variables):
    """What inversion takes of a teacher: image gradients, and a distance of moments."""

    def loss(x):
        logits, moments = network.apply_with_moments(variables, x)
        distance = objectives.moment_matching(moments, variables["batch_stats"])
        return jnp.square(logits).sum() + distance, (logits, distance)

    gradient, (logits, distance) = jax.grad(loss, has_aux=True)(images)
    return gradient, logits, distance


@pytest.mark.skipif(len(jax.devices()) < 8, reason="needs 8 (fake) devices")
def test_eighteen_graphs_are_split_over_a_mesh(mixed):
    made, images = zoo.assemble(mixed).zoo, photographs()
    mesh = make_mesh({"task": 8})

    def answers(images, groups, **how):
        """Of all groups, teachers of each split over devices: 4 or 3 on 8."""
        return [
            map_tasks(functools.partial(asked, network), **how)(images, variables)
            for network, variables in zip(made.networks, groups, strict=True)
        ]

    groups = [group.teachers.variables for group in made.groups]
    split = jax.jit(functools.partial(answers, mesh=mesh))(images, groups)
    assert len(split[0][0].sharding.device_set) == 8
    whole = jax.jit(functools.partial(answers, local="vmap"))(images, groups)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5),
        split,
        whole,
    )


def by_hand(graph, images):
    """Moments before each batch norm of `dense`, with NumPy in double precision."""
    w = [value.astype(np.float64) for value in graph.weights.values()]

    def conv(x, kernel):
        x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return sum(
            x[:, i : i + SIDE, j : j + SIDE] @ kernel[:, :, i, j].T
            for i in range(3)
            for j in range(3)
        )

    def norm(x, scale, bias, mean, var):
        return np.maximum((x - mean) / np.sqrt(var + 1e-5) * scale + bias, 0)

    x, seen = conv(np.asarray(images, np.float64), w[0]), []
    for first in (1, 6):
        seen.append((x.mean((0, 1, 2)), x.var((0, 1, 2))))
        new = conv(norm(x, *w[first : first + 4]), w[first + 4])
        x = np.concatenate([x, new], -1)
    return [*seen, (x.mean((0, 1, 2)), x.var((0, 1, 2)))]


def test_statistics_matching_reads_all_batch_norms_of_a_dense_network():
    one, images, graph = teacher(dense, 3), photographs(), dense(3)
    moments = jax.jit(one.network.apply_with_moments)(one.variables, images)[1]
    expected = by_hand(graph, images)
    assert sorted(moments) == ["n000", "n001", "n002"]
    kept = list(graph.weights.values())
    distance = 0.0
    for name, first, (mean, var) in zip(
        sorted(moments), (1, 6, 11), expected, strict=True
    ):
        np.testing.assert_allclose(moments[name]["mean"], mean, 1e-4, 1e-5)
        np.testing.assert_allclose(moments[name]["var"], var, 1e-4, 1e-5)
        distance += np.linalg.norm(mean - kept[first + 2])
        distance += np.linalg.norm(var - kept[first + 3])
    # The loss of inversion, everything else in it turned off.
    only = Objective(cross_entropy=0, crop_padding=0, flip=False)
    gradient_of = jax.jit(white_box(only, one.network))
    teachers = Teachers(one.variables, jnp.arange(CLASSES))
    labels = jnp.zeros(len(images), int)
    loss, _, gradient = gradient_of(jax.random.key(0), images, labels, teachers, None)
    np.testing.assert_allclose(loss, distance, rtol=1e-4)
    assert np.any(gradient)


def test_densenet121_gives_the_moments_of_its_121_batch_norms():
    file = program_library.SHIPPED / "torchvision-densenet121.json"
    program = program_library.decode(file.read_text()).program
    network = make_network(
        "graph",
        num_classes=10,
        image_shape=(32, 32, 3),
        program=program.text,
        gives=program.gives,
    )
    # Stem; two norms a layer, of all channels so far and of 128; one a transition.
    channels, sizes = 64, [64]
    for layers in (6, 12, 24, 16):
        for _ in range(layers):
            sizes += [channels, 128]
            channels += 32
        sizes += [channels]
        channels //= 2
    assert len(sizes) == 121 and sizes[-1] == 1024
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    logits, moments = jax.eval_shape(network.apply_with_moments, shapes, images)
    assert logits.shape == (2, 10)
    assert [moments[name]["mean"].shape for name in sorted(moments)] == [
        (size,) for size in sizes
    ]
    assert jax.tree.structure(moments) == jax.tree.structure(shapes["batch_stats"])


def resnet18(rng):
    """Weights of a torchvision ResNet-18, key by key, and the classes' names."""
    state = {}

    def conv(key, outputs, inputs, size):
        state[key] = (outputs, inputs, size, size)

    def norm(key, channels):
        for part in ("weight", "bias", "running_mean", "running_var"):
            state[f"{key}.{part}"] = (channels,)

    conv("conv1.weight", 64, 3, 7)
    norm("bn1", 64)
    before = 64
    for stage, width in enumerate((64, 128, 256, 512), 1):
        for block in (0, 1):
            at = f"layer{stage}.{block}"
            conv(f"{at}.conv1.weight", width, before, 3)
            norm(f"{at}.bn1", width)
            conv(f"{at}.conv2.weight", width, width, 3)
            norm(f"{at}.bn2", width)
            if before != width:
                conv(f"{at}.downsample.0.weight", width, before, 1)
                norm(f"{at}.downsample.1", width)
            before = width
    # Of other classes than those that the shipped programs were made with.
    state["fc.weight"], state["fc.bias"] = (3, 512), (3,)
    # Few numbers, over and over: what is compared is where they end up.
    return {
        key: np.resize(rng.uniform(0.5, 1.5, 997), shape).astype(np.float16)
        for key, shape in state.items()
    }


def as_hugging_face(key):
    """The same weight's key in a ResNetForImageClassification."""
    key = re.sub(r"^conv1\.", "resnet.embedder.embedder.convolution.", key)
    key = re.sub(r"^bn1\.", "resnet.embedder.embedder.normalization.", key)
    key = re.sub(r"^fc\.", "classifier.1.", key)

    def stage(found):
        return f"resnet.encoder.stages.{int(found[1]) - 1}.layers.{found[2]}."

    key = re.sub(r"^layer(\d)\.(\d)\.", stage, key)
    key = re.sub(r"downsample\.0\.", "shortcut.convolution.", key)
    key = re.sub(r"downsample\.1\.", "shortcut.normalization.", key)
    key = re.sub(r"conv(\d)\.", lambda m: f"layer.{int(m[1]) - 1}.convolution.", key)
    return re.sub(r"bn(\d)\.", lambda m: f"layer.{int(m[1]) - 1}.normalization.", key)


def test_resnet18_of_torchvision_and_of_hugging_face_are_one_group(tmp_path):
    state = resnet18(np.random.default_rng(0))
    (tmp_path / "face").mkdir()
    save_file(state, tmp_path / "resnet18.safetensors")
    renamed = {as_hugging_face(key): value for key, value in state.items()}
    save_file(renamed, tmp_path / "face/model.safetensors")
    config = {
        "architectures": ["ResNetForImageClassification"],
        "model_type": "resnet",
        "hidden_sizes": [64, 128, 256, 512],
        "depths": [2, 2, 2, 2],
        "layer_type": "basic",
        "id2label": {"0": "cat", "1": "dog", "2": "cow"},
    }
    (tmp_path / "face/config.json").write_text(json.dumps(config))
    (tmp_path / "teachers.yaml").write_text(
        "defaults: {size: 32, mean: 0.5, std: 0.5, class_names: [dog, cat, cow]}"
    )
    made = hub.read_zoo(tmp_path, HubOptions(cache_dir=""))
    (group,) = made.groups
    assert group.sources == ("face", "resnet18.safetensors")
    stacked = group.teachers.variables
    assert len(stacked["batch_stats"]) == 20
    for leaf in jax.tree.leaves(stacked):
        np.testing.assert_array_equal(leaf[0], leaf[1])
    np.testing.assert_array_equal(
        stacked["params"]["head"]["kernel"][0], state["fc.weight"].T
    )
