"""Graphs in a folder of models: ONNX, torch.export, TorchScript; one zoo of them."""

import hub_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from free_jax.interop import hub
from free_jax.interop.hub import HubOptions
from free_jax.zoo import load_zoo, save_zoo

torch = pytest.importorskip("torch")
nn = torch.nn


def network(seed=0, classes=4):
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, classes),
    )
    net[1].running_mean.uniform_(-0.5, 0.5)
    net[1].running_var.uniform_(0.5, 2)
    return net.eval()


def as_onnx(net, path, **kwargs):
    pytest.importorskip("onnx")
    torch.onnx.export(
        net,
        (torch.zeros(2, 3, 32, 32),),
        str(path),
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": {0: "n"}, "y": {0: "n"}},
        do_constant_folding=False,
        training=torch.onnx.TrainingMode.PRESERVE,
        dynamo=False,
        **kwargs,
    )


def as_pt2(net, path):
    images = torch.export.Dim("n", min=1, max=64)
    exported = torch.export.export(
        net, (torch.zeros(2, 3, 32, 32),), dynamic_shapes=({0: images},)
    )
    torch.export.save(exported, str(path))


def logits(net, images, mean, std):
    seen = (images - np.float32(mean)) / np.float32(std)
    with torch.no_grad():
        return net(torch.tensor(seen.transpose(0, 3, 1, 2))).numpy()


@pytest.mark.filterwarnings("ignore")
def test_graphs_of_all_kinds_become_one_zoo(tmp_path):
    models = tmp_path / "models"
    nets = {}
    for seed, (name, write) in enumerate(
        [("a.onnx", as_onnx), ("b.pt2", as_pt2), ("c.pt2", as_pt2)]
    ):
        (models / name[0]).mkdir(parents=True)
        nets[name[0]] = network(seed)
        write(nets[name[0]], models / name[0] / name)
    nets["d"] = network(7)
    (models / "d").mkdir()
    torch.jit.save(
        torch.jit.script(nets["d"]),
        str(models / "d/d.pt"),
        _extra_files={"labels.txt": "p\nq\nr\ns"},
    )
    (models / "a/labels.txt").write_text("p\nq\nr\ncat")
    (models / "teachers.yaml").write_text(hub_files.TABLE)
    cards = {c.path: c for c in hub.read_folder(models, HubOptions(cache_dir=""))}
    assert not cards["d"].used and cards["d"].kind == "torchscript"
    options = HubOptions(cache_dir="", trust_code=("d",), check=True)
    cards = {c.path: c for c in hub.read_folder(models, options)}
    images = np.random.default_rng(0).uniform(size=(3, 32, 32, 3)).astype(np.float32)
    for name, card in cards.items():
        assert card.used, (name, card.message)
        assert card.sources["size"] in ("teachers.yaml",)
        ours = jax.jit(card.network.apply)(
            jax.tree.map(jnp.asarray, card.variables), jnp.asarray(images)
        )
        theirs = logits(nets[name], images, hub_files.MEAN, hub_files.STD)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
        assert "moments" in card.network.gives and "features" in card.network.gives
    assert cards["d"].network_difference < 1e-5
    assert cards["d"].class_names == tuple("pqrs")
    assert cards["d"].sources["class_names"] == "d.pt:extra/labels.txt"
    zoo = hub.read_zoo(models, options)
    assert [g.num_teachers for g in zoo.groups] == [2, 2], "equal programs stack"
    assert zoo.num_classes == 5 + 8
    save_zoo(zoo, tmp_path / "zoo")
    again = load_zoo(tmp_path / "zoo")
    assert again.networks == zoo.networks and again.sources == zoo.sources


@pytest.mark.filterwarnings("ignore")
def test_sizes_are_read_from_graphs_and_damage_is_said(tmp_path):
    as_onnx(network(), tmp_path / "a.onnx")
    as_pt2(network(1), tmp_path / "b.pt2")
    (tmp_path / "c.onnx").write_bytes((tmp_path / "a.onnx").read_bytes()[:900])
    (tmp_path / "d.pt2").write_bytes((tmp_path / "b.pt2").read_bytes()[:900])
    (tmp_path / "e.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    cards = hub.read_folder(tmp_path, HubOptions(guess=True, cache_dir=""))
    a, b, c, d, e = cards
    for card, name in ((a, "a.onnx"), (b, "b.pt2")):
        assert card.preprocessing.size == (32, 32), card.message
        assert card.sources["size"].startswith(name)
    for card in (c, d, e):
        assert not card.used and "\n" not in card.message
    assert "git lfs pull" in e.message
