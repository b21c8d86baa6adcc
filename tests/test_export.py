"""Torch modules and .pt2 files become the same programs; what cannot is said."""

import json
import logging
import warnings
import zipfile

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
F = torch.nn.functional

from free_jax.errors import InputError  # noqa: E402
from free_jax.interop import program_library  # noqa: E402
from free_jax.interop.batches import program_of  # noqa: E402
from free_jax.interop.export import export_module  # noqa: E402
from free_jax.interop.pt2 import read_pt2  # noqa: E402
from free_jax.models.graph import Graph  # noqa: E402

SHAPE = (3, 12, 12)


class Small(torch.nn.Module):
    """In-place writes, a shuffle, tied layers, a token, a table that is not saved."""

    def __init__(self, classes=4):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 3, 2, 1)
        self.norm = torch.nn.BatchNorm2d(8)
        self.tied = torch.nn.Conv2d(8, 8, 1)
        self.again = self.tied
        self.token = torch.nn.Parameter(torch.randn(1, 1, 8))
        self.register_buffer("table", torch.arange(8.0), persistent=False)
        self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
        self.drop = torch.nn.Dropout(0.5)
        self.head = torch.nn.Linear(8, classes)
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        x = F.relu(self.norm(self.first(x)), inplace=True)
        x += self.again(self.tied(x))
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        x = x.flatten(2).transpose(1, 2) + self.table
        x = torch.cat([self.token.expand(n, -1, -1), x], 1)
        x = self.attention(x, x, x, need_weights=False)[0]
        return self.head(self.drop(x[:, 0])).softmax(-1)


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture(scope="module")
def exported(small):
    return program_of(
        export_module(small, SHAPE, source="small"), (12, 12, 3), source=""
    )


def saved(module, path, *, batch=2, free=True, decomposed=False):
    """The module as people save it."""
    number = ({0: torch.export.Dim("n")},) if free else None
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        images = torch.zeros(batch, *SHAPE)
        program = torch.export.export(module, (images,), dynamic_shapes=number)
        if decomposed:
            program = program.run_decompositions({})
        torch.export.save(program, str(path))
    logging.disable(before)
    return path


def outputs(program, variables, images):
    network = Graph(program.num_classes, program.text)
    images = jax.numpy.asarray(images).transpose(0, 2, 3, 1)
    return network.apply(variables, images, norm="running")


def test_a_module_and_its_program_agree(small, exported):
    program, variables = exported
    images = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)
    with torch.no_grad():
        expected = small(torch.tensor(images)).log().numpy()
    found = jax.nn.log_softmax(outputs(program, variables, images))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert program.output == "probabilities"
    assert program.gives == {"gradients", "features", "moments"}
    # Weights by the keys of the state_dict; the table belongs to the program.
    assert set(program.leaves.values()) <= set(small.state_dict())


@pytest.mark.parametrize("decomposed", [False, True])
def test_a_saved_program_is_that_of_the_module(small, exported, decomposed, tmp_path):
    graph = read_pt2(saved(small, tmp_path / "small.pt2", decomposed=decomposed))
    program, variables = program_of(graph, (12, 12, 3), source="small.pt2")
    assert program == exported[0]
    jax.tree.map(np.testing.assert_array_equal, variables, exported[1])


class Patches(torch.nn.Module):
    """A token beside patches, shapes by number: what `expand` and `view` fix."""

    def __init__(self):
        super().__init__()
        self.patch = torch.nn.Conv2d(3, 8, 4, 4)
        self.token = torch.nn.Parameter(torch.randn(1, 1, 8))
        self.scale = torch.nn.Parameter(torch.randn(8))
        self.head = torch.nn.Linear(16, 5)

    def forward(self, x):
        x = self.patch(x) * self.scale.reshape(1, -1, 1, 1)
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        heads = x.view(x.shape[0], 10, 2, 4).permute(0, 2, 1, 3)
        x = F.scaled_dot_product_attention(heads, heads, heads)
        x = x.transpose(1, 2).reshape(x.shape[0], 10, 8)
        return self.head(torch.cat([x[:, 0], x.mean(1)], 1))


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_number_of_images_is_freed(batch, tmp_path):
    module = Patches().eval()
    free, _ = program_of(
        export_module(module, SHAPE, source=""), (12, 12, 3), source=""
    )
    path = saved(module, tmp_path / "fixed.pt2", free=False, batch=batch)
    graph = read_pt2(path)
    assert graph.fixed_batch == batch
    assert program_of(graph, (12, 12, 3), source="")[0].text == free.text


def test_numbers_of_images_that_cannot_be_freed(small, exported, tmp_path):
    graph = read_pt2(saved(small, tmp_path / "one.pt2", free=False, batch=1))
    program, variables = program_of(graph, (12, 12, 3), source="one.pt2")
    images = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)
    np.testing.assert_allclose(
        outputs(program, variables, images), outputs(*exported, images), atol=1e-5
    )
    graph = read_pt2(saved(small, tmp_path / "four.pt2", free=False, batch=4))
    with pytest.raises(
        InputError, match=r"four.pt2: takes 4 images at a time.*dynamic_shapes"
    ):
        program_of(graph, (12, 12, 3), source="four.pt2")


def test_half_precision_is_read_as_float32(tmp_path):
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(432, 2)).bfloat16()
    path = tmp_path / "half.pt2"
    program = torch.export.export(module, (torch.zeros(2, *SHAPE).bfloat16(),))
    torch.export.save(program, str(path))
    graph = read_pt2(path)
    assert {value.dtype for value in graph.weights.values()} == {np.dtype(np.float32)}
    weight = next(v for v in graph.weights.values() if v.ndim == 2)
    np.testing.assert_array_equal(weight, module[1].weight.detach().float().numpy())


class Branch(torch.nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))


class Boxes(torch.nn.Module):
    def forward(self, x):
        return {"boxes": x[:, :, :2], "masks": x}


@pytest.mark.parametrize(
    "module, said",
    [
        (Branch(), "branch on the values of images"),
        (Boxes(), r"no classifier, its results are of shape \[images, 3, 2, 12\]"),
        (torch.nn.Linear(5, 2), "torch.export cannot trace it"),
    ],
)
def test_modules_that_are_no_classifiers(module, said):
    with pytest.raises(InputError, match=f"odd: .*{said}") as error:
        export_module(module, SHAPE, source="odd")
    assert "\n" not in str(error.value)


def edited(path, target, change=None, *, drop=(), add=None, compress=False):
    """A copy of an archive whose graph was changed by `change`."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if change is not None and name.endswith(change[0]):
                content = json.loads(data)
                change[1](content)
                data = json.dumps(content).encode()
            if not any(name.endswith(end) for end in drop):
                how = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
                new.writestr(name, data, how)
        for name, data in (add or {}).items():
            new.writestr(name, data)
    return target


def _first(content):
    return content["graph_module"]["graph"]["nodes"][0]


def _weights(content):
    return next(iter(content["config"].values()))


MODEL, CONFIG = "models/model.json", "model_weights_config.json"
DAMAGE = {
    "another schema": (
        (MODEL, lambda c: c["schema_version"].update(major=9)),
        "export it again with torch",
    ),
    "an operator of its own": (
        (MODEL, lambda c: _first(c).update(target="torch.ops.mine.run.default")),
        "not one of PyTorch's own",
    ),
    "a graph inside": (
        (MODEL, lambda c: _first(c).update(target="torch.ops.higher_order.cond")),
        "a graph within the graph",
    ),
    "a pickled weight": (
        (CONFIG, lambda c: _weights(c).update(use_pickle=True)),
        "pickled, which is never read",
    ),
    "a path outside": (
        (CONFIG, lambda c: _weights(c).update(path_name="../../../../etc/passwd")),
        "cannot be read",
    ),
    "a giant of few bytes": (
        (
            CONFIG,
            lambda c: _weights(c)["tensor_meta"].update(
                sizes=[{"as_int": 10**12}], strides=[{"as_int": 0}]
            ),
        ),
        "shorter than its shape",
    ),
    "a negative offset": (
        (
            CONFIG,
            lambda c: _weights(c)["tensor_meta"].update(storage_offset={"as_int": -8}),
        ),
        "cannot be read",
    ),
    "no nodes": ((MODEL, lambda c: c["graph_module"].pop("graph")), "cannot be read"),
    "a list for a graph": (
        (MODEL, lambda c: c.update(graph_module=[1])),
        "cannot be read",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_and_foreign_archives(small, name, tmp_path):
    change, said = DAMAGE[name]
    path = saved(small, tmp_path / "good.pt2")
    with pytest.raises(InputError, match=said) as error:
        read_pt2(edited(path, tmp_path / "bad.pt2", change))
    assert "\n" not in str(error.value)


def test_archives_of_another_kind(small, tmp_path):
    good, bad = saved(small, tmp_path / "good.pt2"), tmp_path / "bad.pt2"
    with pytest.raises(InputError, match="compiled code"):
        read_pt2(edited(good, bad, add={"good/data/aotinductor/model/x.so": b"ELF"}))
    with pytest.raises(InputError, match="compressed"):
        read_pt2(edited(good, bad, compress=True))
    with pytest.raises(InputError, match="without models/model"):
        read_pt2(edited(good, bad, drop=["model.json"]))
    with pytest.raises(InputError, match="has no weights"):
        read_pt2(edited(good, bad, (CONFIG, lambda c: c["config"].clear())))
    bad.write_bytes(good.read_bytes()[:1000])
    with pytest.raises(InputError, match="export the module again"):
        read_pt2(bad)
    with pytest.raises(InputError, match="cannot be read"):
        read_pt2(tmp_path / "none.pt2")


def test_exported_in_training_mode(tmp_path):
    path = saved(Small().train(), tmp_path / "train.pt2")
    with pytest.raises(InputError, match=r"training mode.*\.eval\(\)"):
        read_pt2(path)


def test_a_kept_program_is_found_by_its_weights(small, exported, tmp_path):
    program, _ = exported
    shapes = {key: tuple(value.shape) for key, value in small.state_dict().items()}
    config = {"architecture": "small", "model_args": {"depth": 2, "num_classes": 4}}

    def find(config=config, shapes=shapes, size=(12, 12)):
        return program_library.find(
            "timm", config, shapes, image_size=size, cache_dir=tmp_path / "kept"
        )

    assert find() is None
    program_library.keep(
        "timm",
        config,
        shapes,
        program,
        image_size=(12, 12),
        cache_dir=tmp_path / "kept",
    )
    assert find() == program
    sibling = {**shapes, "head.weight": (9, 8), "head.bias": (9,)}
    assert find(shapes=sibling) == program  # another number of classes
    assert find(config={**config, "model_args": {"depth": 3}}) is None
    assert find(shapes={**shapes, "first.weight": (8, 3, 5, 5)}) is None
    assert find(shapes={**shapes, "more.weight": (8,)}) is None
    assert find(size=(24, 24)) is None
    for file in (tmp_path / "kept").iterdir():
        file.write_text(file.read_text()[:-300])
    assert find() is None  # damaged: as good as not there


def test_a_folder_that_cannot_be_written_keeps_nothing(small, exported, tmp_path):
    (tmp_path / "kept").write_text("a file")
    shapes = {key: tuple(value.shape) for key, value in small.state_dict().items()}
    for look in (program_library.keep, program_library.find):
        program = [exported[0]] if look is program_library.keep else []
        look("torchvision", {}, shapes, *program, cache_dir=tmp_path / "kept")


def test_shipped_programs_are_read():
    files = sorted(program_library.SHIPPED.glob("*.json"))
    entries = {f.stem: program_library.decode(f.read_text()) for f in files}
    assert len(entries) >= 20
    assert sum(f.stat().st_size for f in files) < 300_000
    for entry in entries.values():
        shapes = program_library._shapes_in_file(entry.program)
        shapes = {k: tuple(abs(n) for n in shape) for k, shape in shapes.items()}
        found = program_library.find(
            entry.kind, entry.config, shapes, image_size=entry.image_size
        )
        assert found is not None and found.text == entry.program.text
    texts = {name: entry.program.text for name, entry in entries.items()}
    assert texts["torchvision-resnet18"] == texts["huggingface-resnet-18"]
