"""Weights of the released PyTorch codes: parity, round trips, files, bad input."""

import csv
import functools
import io
import json
import pathlib
import subprocess
import sys
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import convert_zoo
from experiments.inputs import conversion
from free_jax import interop
from free_jax.errors import InputError
from free_jax.interop.torch_folder import teacher_files
from free_jax.zoo import load_zoo, save_zoo
from free_jax.zoo.network import make_network

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
NAMES = tuple(f"class_{i}" for i in range(20))
MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
OPTIONS = dict(class_names=NAMES, mean=MEAN, std=STD)
SETTINGS = {
    10: (False, (1, 1, 1, 1)),
    18: (False, (2, 2, 2, 2)),
    34: (False, (3, 4, 6, 3)),
    50: (True, (3, 4, 6, 3)),
    101: (True, (3, 4, 23, 3)),
}


class TorchConvBlock(nn.Module):
    def __init__(self, cin, cout):
        super().__init__()
        self.C = nn.Conv2d(cin, cout, 3, padding=1)
        self.BN = nn.BatchNorm2d(cout)
        self.trunk = nn.Sequential(self.C, self.BN, nn.ReLU(), nn.MaxPool2d(2))

    def forward(self, x):
        return self.trunk(x)


def torch_conv4(way=5, width=32, size=32, global_pool=False):
    blocks = [TorchConvBlock(3 if i == 0 else width, width) for i in range(4)]
    grid = 1 if global_pool else size // 16
    pool = [nn.AdaptiveMaxPool2d(1)] if global_pool else []
    net = nn.Module()
    head = nn.Linear(width * grid * grid, way)
    net.trunk = nn.Sequential(*blocks, *pool, nn.Flatten(), head)
    net.forward = net.trunk.forward
    return net


class TorchBlock(nn.Module):
    def __init__(self, cin, cout, stride, bottleneck):
        super().__init__()
        self.bottleneck = bottleneck
        if bottleneck:
            mid = cout // 4
            self.C1 = nn.Conv2d(cin, mid, 1, bias=False)
            self.C2 = nn.Conv2d(mid, mid, 3, stride, padding=1)
            self.C3 = nn.Conv2d(mid, cout, 1, bias=False)
            self.BN1, self.BN2 = nn.BatchNorm2d(mid), nn.BatchNorm2d(mid)
            self.BN3 = nn.BatchNorm2d(cout)
        else:
            self.C1 = nn.Conv2d(cin, cout, 3, stride, padding=1, bias=False)
            self.C2 = nn.Conv2d(cout, cout, 3, padding=1, bias=False)
            self.BN1, self.BN2 = nn.BatchNorm2d(cout), nn.BatchNorm2d(cout)
        if cin != cout:
            self.shortcut = nn.Conv2d(cin, cout, 1, stride, bias=False)
            if not bottleneck:
                self.BNshortcut = nn.BatchNorm2d(cout)

    def forward(self, x):
        y = self.BN2(self.C2(F.relu(self.BN1(self.C1(x)))))
        if self.bottleneck:
            y = self.BN3(self.C3(F.relu(y)))
        if hasattr(self, "shortcut"):
            x = self.shortcut(x)
        if hasattr(self, "BNshortcut"):
            x = self.BNshortcut(x)
        return F.relu(x + y)


def torch_resnet(depth=10, way=5):
    bottleneck, stages = SETTINGS[depth]
    layers = [nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)]
    cin = 64
    for stage, count in enumerate(stages):
        cout = 64 * 2**stage * (4 if bottleneck else 1)
        for i in range(count):
            stride = 2 if stage and i == 0 else 1
            layers.append(TorchBlock(cin, cout, stride, bottleneck))
            cin = cout
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(cin, way)]
    net = nn.Module()
    net.trunk = nn.Sequential(*layers)
    net.forward = net.trunk.forward
    return net


def torch_generator(size=32, latent=16, width=8, labels=0):
    top, side = 2 * width, size // 4
    net = nn.Module()
    outputs = (width if labels else top) * side * side
    net.l1 = nn.Sequential(nn.Linear(latent, outputs))
    if labels:
        net.l2 = nn.Sequential(nn.Linear(labels, outputs))
    net.conv_blocks = nn.Sequential(
        nn.BatchNorm2d(top),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(top, top, 3, padding=1, bias=False),
        nn.BatchNorm2d(top),
        nn.LeakyReLU(0.2),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(top, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 3, 3, padding=1),
        nn.Sigmoid(),
    )

    def forward(z, y):
        x = net.l1(z)
        if labels:
            x = torch.cat([x, net.l2(F.one_hot(y, labels).float())], dim=1)
        return net.conv_blocks(x.view(-1, top, side, side))

    net.forward = forward
    return net


def shaken(net, seed=0):
    """Non-trivial affine parameters and running moments everywhere."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
            ):
                tensor.data.uniform_(low, high, generator=generator)
    return net.eval()


def numpy_state(net):
    return {k: v.detach().numpy().copy() for k, v in net.state_dict().items()}


def relative(ours, theirs):
    """Largest error relative to the largest logit, for each teacher [..., n, way]."""
    scale = np.abs(theirs).max(axis=(-2, -1))
    return np.abs(np.asarray(ours) - theirs).max(axis=(-2, -1)) / scale


def torch_logits(net, images):
    normal = (np.asarray(images) - np.float32(MEAN)) / np.float32(STD)
    with torch.no_grad():
        return net.forward(torch.tensor(normal.transpose(0, 3, 1, 2))).numpy()


def random_images(count, size):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.uniform(size=(count, size, size, 3)), jnp.float32)


@pytest.mark.parametrize(
    ("kwargs", "image_size"),
    [
        (dict(), 32),
        (dict(size=84), 84),
        (dict(width=8, way=3, size=48), 48),
        (dict(global_pool=True, width=8), 84),
    ],
)
def test_conv4_agrees_with_torch(kwargs, image_size):
    net = shaken(torch_conv4(**kwargs))
    state = numpy_state(net)
    found = interop.detect(state)
    assert found["name"] == "conv4" and found["way"] == kwargs.get("way", 5)
    assert found["kwargs"]["width"] == kwargs.get("width", 32)
    pooled = kwargs.get("global_pool", False)
    assert found["image_size"] == (None if pooled else image_size)
    arch = make_network(
        "conv4",
        num_classes=found["way"],
        image_shape=(image_size, image_size, 3),
        mean=MEAN,
        std=STD,
        **found["kwargs"],
    )
    images = random_images(3, image_size)
    variables = interop.from_state_dict(state, arch)
    logits = jax.jit(arch.apply)(variables, images)
    assert relative(logits, torch_logits(net, images)) < 1e-4


@pytest.mark.parametrize("depth", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_resnets_agree_with_torch(depth):
    net = shaken(torch_resnet(depth))
    state = numpy_state(net)
    assert interop.detect(state)["name"] == f"resnet{depth}"
    arch = make_network(
        f"resnet{depth}", num_classes=5, image_shape=(16, 16, 3), mean=MEAN, std=STD
    )
    images = random_images(2, 16)
    variables = interop.from_state_dict(state, arch)
    logits = jax.jit(arch.apply)(variables, images)
    assert relative(logits, torch_logits(net, images)) < 1e-4


@pytest.mark.parametrize(
    "name",
    [
        *("conv4", "resnet10", "resnet50"),
        *(
            pytest.param(f"resnet{depth}", marks=pytest.mark.slow)
            for depth in (18, 34, 101)
        ),
    ],
)
def test_round_trip_gives_every_key_torch_asks_for(name):
    net = torch_conv4() if name == "conv4" else torch_resnet(int(name[6:]))
    state = numpy_state(shaken(net))
    arch = make_network(name, num_classes=5, image_shape=(32, 32, 3))
    back = interop.to_state_dict(interop.from_state_dict(state, arch), arch)
    assert back.keys() == state.keys()
    for key, value in state.items():
        np.testing.assert_array_equal(back[key], value, err_msg=key)
    net.load_state_dict({k: torch.from_numpy(v) for k, v in back.items()})


def test_meta_models_without_statistics_go_back_to_torch():
    arch = make_network("conv4", num_classes=5, image_shape=(32, 32, 3), width=32)
    variables = interop.from_state_dict(numpy_state(torch_conv4()), arch)
    state = interop.to_state_dict({"params": variables["params"]}, arch)
    torch_conv4().load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
    assert (state["trunk.2.BN.running_var"] == 1).all()
    stacked = jax.tree.map(lambda x: x[None], variables)
    with pytest.raises(InputError, match=r"pick one teacher with zoo\.take"):
        interop.to_state_dict(stacked, arch)


@pytest.mark.parametrize("labels", [0, 5])
def test_generators_agree_with_torch_and_go_back(labels):
    net = shaken(torch_generator(labels=labels)).train()
    state = numpy_state(net)
    module, variables = interop.generator_from_state_dict(state)
    assert module.image_shape == (32, 32, 3) and module.num_classes == labels
    rng = np.random.default_rng(0)
    latents, y = jnp.asarray(rng.normal(size=(4, 16)), jnp.float32), jnp.arange(4)
    theirs = net.forward(torch.tensor(np.asarray(latents)), torch.arange(4))
    ours = jax.jit(module.apply)(variables, latents, y)
    np.testing.assert_allclose(
        ours, theirs.detach().numpy().transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-5
    )
    back = interop.generator_to_state_dict(variables, module)
    assert back.keys() == state.keys()
    net.load_state_dict({k: torch.from_numpy(v) for k, v in back.items()})
    for key, value in state.items():
        if "running" not in key:
            np.testing.assert_array_equal(back[key], value, err_msg=key)


# ---- files -----------------------------------------------------------------------


def small_net(seed=0, **kwargs):
    torch.manual_seed(seed)
    return shaken(torch_conv4(width=2, **kwargs), seed)


def save_teacher(path, seed=0, ids=(3, 1, 4, 0, 5), acc=None, net=None):
    content = {"teacher": (net or small_net(seed)).state_dict(), "specific": list(ids)}
    if acc is not None:
        content["acc"] = torch.tensor(acc)
    torch.save(content, path)


def safe_state(net):
    """What safetensors' `save_model` keeps: one of every pair of aliased tensors."""
    return {k: v for k, v in numpy_state(net).items() if k.count("trunk") == 1}


def test_all_layouts_of_files_are_read(tmp_path):
    import safetensors.numpy

    net = small_net()
    torch.save(net.state_dict(), tmp_path / "model_0.pth")
    save_teacher(tmp_path / "model_specific_0.pth")
    save_teacher(tmp_path / "model_specific_acc_0.pth", acc=81.25)
    safetensors.numpy.save_file(
        safe_state(net),
        tmp_path / "a.safetensors",
        metadata={"class_ids": "[3, 1, 4, 0, 5]", "accuracy": "0.8125"},
    )
    safetensors.numpy.save_file(safe_state(net), tmp_path / "b.safetensors")
    ids = [3, 1, 4, 0, 5]
    expected = {
        "model_0.pth": (None, None),
        "model_specific_0.pth": (ids, None),
        "model_specific_acc_0.pth": (ids, 0.8125),
        "a.safetensors": (ids, 0.8125),
        "b.safetensors": (None, None),
    }
    arch = make_network("conv4", num_classes=5, image_shape=(32, 32, 3), width=2)
    reference = interop.from_state_dict(numpy_state(net), arch)
    for name, (class_ids, accuracy) in expected.items():
        state, found_ids, found_accuracy = interop.read_checkpoint(tmp_path / name)
        assert (found_ids, found_accuracy) == (class_ids, accuracy)
        variables = interop.from_state_dict(state, arch)
        jax.tree.map(np.testing.assert_array_equal, variables, reference)


def test_folders_are_converted_in_natural_order_with_log_and_groups(tmp_path):
    for i in (0, 2, 10):
        save_teacher(tmp_path / f"model_specific_{i}.pth", seed=i, ids=range(i, i + 5))
    save_teacher(tmp_path / "model_specific_3.pth", net=small_net(3, global_pool=True))
    torch.save(small_net(11).state_dict(), tmp_path / "model_specific_11.pth")
    (tmp_path / "class_ids.json").write_text(
        json.dumps({"model_specific_11.pth": [9, 8, 7, 6, 5]})
    )
    (tmp_path / "log.tsv").write_text(
        "id\tclass_ids\theld_out_accuracy\n2\t2,3,4,5,6\t0.5\n10\t\t0.75\n"
    )
    (tmp_path / "notes.txt").write_text("not a teacher")
    steps = []
    zoo = interop.convert_folder(
        tmp_path,
        image_size=32,
        domain="toy",
        progress=lambda *step: steps.append(step),
        **OPTIONS,
    )
    assert steps == [(i + 1, 5) for i in range(5)]
    flat, pooled = zoo.groups
    assert flat.domain == "toy" and zoo.class_names == NAMES
    assert flat.teachers.class_ids[:, 0].tolist() == [0, 2, 10, 9]
    np.testing.assert_array_equal(flat.accuracy, [np.nan, 0.5, 0.75, np.nan])
    assert pooled.num_teachers == 1
    assert dict(pooled.network.kwargs) == {"width": 2, "global_pool": True}
    head = numpy_state(small_net(10))["trunk.5.bias"]
    np.testing.assert_array_equal(flat.teachers.variables["params"]["head"]["bias"][2],
                                  head)  # fmt: skip
    assert interop.convert_folder(tmp_path, limit=2, **OPTIONS).num_teachers == 2


def truncate(path):
    path.write_bytes(path.read_bytes()[:-300])


class Harmful:
    def __reduce__(self):
        return (open, (str(ROOT / "tests" / "never_written"), "w"))


def resave(change):
    """Writes a teacher whose state_dict `change` edited in place."""

    def write(path):
        state = small_net().state_dict()
        change(state)
        torch.save({"teacher": state, "specific": [3, 1, 4, 0, 5]}, path)

    return write


BAD_FILES = {
    "truncated": (lambda p: (save_teacher(p), truncate(p)), "truncated, damaged"),
    "empty": (lambda p: p.write_bytes(b""), "truncated, damaged"),
    "text": (lambda p: p.write_text("hello, this is no model"), "cannot be read"),
    "code": (lambda p: torch.save(Harmful(), p), "pickled code, which is never run"),
    "whole module": (lambda p: torch.save(nn.Linear(2, 2), p), "pickled code"),
    "list": (lambda p: torch.save([1, 2], p), "holds a list, not a teacher"),
    "optimizer": (lambda p: torch.save({"lr": 1.0}, p), "'lr' is no tensor"),
    "nothing": (lambda p: torch.save({}, p), "no teacher weights"),
    "other network": (
        lambda p: torch.save(nn.Linear(2, 2).state_dict(), p),
        r"not a teacher of a known architecture \(keys \['weight', 'bias'\]\)",
    ),
    "resnet of other depth": (
        lambda p: save_teacher(
            p,
            net=type(
                "N",
                (),
                {
                    "state_dict": lambda _: {
                        k: v
                        for k, v in torch_resnet(10).state_dict().items()
                        if "trunk.3" not in k
                    }
                },
            )(),
        ),
        r"known architecture \(3 residual blocks\)",
    ),
    "missing": (
        resave(
            lambda s: [s.pop(k) for k in ("trunk.1.C.bias", "trunk.1.trunk.0.bias")]
        ),
        "lacks trunk.1.C.bias for conv4",
    ),
    "extra": (
        resave(lambda s: s.update({"trunk.9.x": torch.zeros(1)})),
        "has unexpected trunk.9.x",
    ),
    "shape": (
        resave(
            lambda s: s.update(
                {k: torch.zeros(3) for k in ("trunk.1.C.bias", "trunk.1.trunk.0.bias")}
            )
        ),
        r"trunk.1.C.bias has shape \(3,\), expected \(2,\)",
    ),
    "copies": (
        resave(lambda s: s.update({"trunk.1.C.bias": torch.ones(2)})),
        "trunk.1.trunk.0.bias and trunk.1.C.bias must be copies",
    ),
    "no head": (
        resave(lambda s: s.pop("trunk.5.weight")),
        "no final linear layer trunk.5.weight or trunk.6.weight",
    ),
    "grid": (
        resave(lambda s: s.update({"trunk.5.weight": torch.zeros(5, 6)})),
        "no square map of 2 channels",
    ),
    "nan": (
        resave(lambda s: s["trunk.5.bias"].fill_(float("nan"))),
        "trunk.5.bias holds values that are not finite",
    ),
    "ids out of range": (
        lambda p: save_teacher(p, ids=(1, 2, 3, 20, -1)),
        r"class ids \[20, -1\] are out of range for 20",
    ),
    "ids repeated": (lambda p: save_teacher(p, ids=[1] * 5), "5 distinct ids"),
    "too few ids": (lambda p: save_teacher(p, ids=[1, 2]), "5 distinct ids"),
    "no ids": (
        lambda p: torch.save(small_net().state_dict(), p),
        "put class_ids.json beside it",
    ),
    "odd ids": (lambda p: save_teacher(p, ids=["a"]), "not a list of ints"),
    "accuracy": (lambda p: save_teacher(p, acc=812.0), "not in .0, 1."),
    "size": (
        lambda p: save_teacher(p, net=small_net(size=84)),
        "head fits images of about 84 pixels, not image_size=32",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_refused_in_one_line_naming_them(tmp_path, case):
    write, message = BAD_FILES[case]
    save_teacher(tmp_path / "model_1.pth")
    bad = tmp_path / "model_2.pth"
    write(bad)
    with pytest.raises(InputError, match=message) as error:
        interop.convert_folder(tmp_path, image_size=32, **OPTIONS)
    assert str(bad) in str(error.value) and "\n" not in str(error.value)
    assert not (ROOT / "tests" / "never_written").exists()


def test_bad_safetensors_are_refused(tmp_path):
    import safetensors.numpy

    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file(safe_state(small_net()), path, {"class_ids": "[1,"})
    with pytest.raises(InputError, match=r"a\.safetensors: cannot be read"):
        interop.read_checkpoint(path)
    safetensors.numpy.save_file(safe_state(small_net()), path)
    truncate(path)
    with pytest.raises(InputError, match=r"a\.safetensors: cannot be read"):
        interop.read_checkpoint(path)


def test_bad_folders_and_settings_are_refused(tmp_path):
    def refuse(message, **kwargs):
        with pytest.raises(InputError, match=message):
            interop.convert_folder(tmp_path / "zoo", **{**OPTIONS, **kwargs})

    refuse("zoo: no such folder")
    (tmp_path / "zoo").mkdir()
    refuse("holds no teachers; expected files")
    with pytest.raises(InputError, match="no such file"):
        interop.read_checkpoint(tmp_path / "zoo" / "model_0.pth")
    save_teacher(tmp_path / "zoo" / "model_0.pth")
    refuse("limit=0 leaves no teachers", limit=0)
    refuse("one value a channel", mean=(0.5,), std=(0.5,))
    save_teacher(tmp_path / "zoo" / "model_1.pth", net=small_net(way=3))
    refuse("model_1.pth: has 3 outputs but model_0.pth has 5")
    save_teacher(tmp_path / "zoo" / "model_1.pth", net=torch_resnet(10))
    refuse("resnet10 do not determine the image size; give image_size")
    (tmp_path / "zoo" / "model_1.pth").unlink()
    log = tmp_path / "zoo" / "log.tsv"
    log.write_text("id\tclass_ids\n0\t1,2,3,4,5\n")
    refuse("log.tsv has .1, 2, 3, 4, 5.; the log belongs to other files")
    log.write_text("id\theld_out_accuracy\n0\tgood\n")
    refuse("cannot be read; correct or remove log.tsv")
    log.write_text("name\n0\n")
    refuse("log.tsv: needs a column id")
    log.unlink()
    (tmp_path / "zoo" / "class_ids.json").write_text("{")
    refuse("class_ids.json: is no valid JSON")


def test_missing_torch_is_explained(tmp_path, monkeypatch):
    save_teacher(tmp_path / "model_0.pth")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r'pip install "free_jax\[torch\]"'):
        interop.read_checkpoint(tmp_path / "model_0.pth")


# ---- experiments/convert_zoo.py --------------------------------------------------


def test_cached_zoo_converts_once(tmp_path, monkeypatch):
    source, cache = tmp_path / "source", tmp_path / "cache"
    source.mkdir()
    save_teacher(source / "model_0.pth")
    first = conversion.cached_zoo(source, cache, NAMES, MEAN, STD, 32, "toy")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch", None)
        again = conversion.cached_zoo(source, cache, NAMES, MEAN, STD, 32, "toy")
    jax.tree.map(np.testing.assert_array_equal, first.teachers, again.teachers)
    assert len(list(cache.iterdir())) == 1
    save_teacher(source / "model_1.pth", seed=1)
    grown = conversion.cached_zoo(source, cache, NAMES, MEAN, STD, 32, "toy")
    assert grown.num_teachers == 2 and len(list(cache.iterdir())) == 2
    converted = next(iter(cache.iterdir()))
    direct = conversion.cached_zoo(converted, tmp_path / "none", NAMES, MEAN, STD)
    assert direct.class_names == NAMES and not (tmp_path / "none").exists()
    with pytest.raises(InputError, match="converted with 20 classes"):
        conversion.cached_zoo(converted, cache, NAMES[:9], MEAN, STD)


def test_runs_that_start_together_convert_without_harming_each_other(
    tmp_path, monkeypatch
):
    source, cache = tmp_path / "source", tmp_path / "cache"
    source.mkdir()
    save_teacher(source / "model_0.pth")
    convert = functools.partial(
        conversion.cached_zoo, source, cache, NAMES, MEAN, STD, 32, "toy"
    )
    written, others, real = [], [], conversion.save_zoo

    def save_beside_another_run(zoo, folder):
        written.append(folder)
        if len(written) == 1:
            others.append(convert())  # Starts and ends before this one is written.
        real(zoo, folder)

    monkeypatch.setattr(conversion, "save_zoo", save_beside_another_run)
    first = convert()
    assert len(set(written)) == 2
    jax.tree.map(np.testing.assert_array_equal, first.teachers, others[0].teachers)
    (left,) = cache.iterdir()
    assert load_zoo(left).num_teachers == 1 and left not in written


def test_what_an_interrupted_conversion_left_is_replaced(tmp_path):
    source, cache = tmp_path / "source", tmp_path / "cache"
    source.mkdir()
    save_teacher(source / "model_0.pth")
    conversion.cached_zoo(source, cache, NAMES, MEAN, STD, 32, "toy")
    (folder,) = cache.iterdir()
    (folder / "zoo.json").unlink()
    again = conversion.cached_zoo(source, cache, NAMES, MEAN, STD, 32, "toy")
    assert again.num_teachers == 1 and list(cache.iterdir()) == [folder]


def test_command_line_from_any_folder(tmp_path, capsys):
    source, data = tmp_path / "source", tmp_path / "data"
    source.mkdir()
    save_teacher(source / "model_0.pth", acc=50.0)
    command = [sys.executable, str(ROOT / "experiments" / "convert_zoo.py")]
    command += [f"--source={source}", "--target=out", "--data=cifar_fs"]
    command += [f"--data_path={data}"]
    assert convert_zoo.main(command[2:]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1
    assert str(data / "train") in printed
    for name in NAMES[::-1]:
        (data / "train" / name).mkdir(parents=True)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 x conv4 (32, 32, 3)" in done.stdout and "0.500 (1)" in done.stdout
    assert load_zoo(tmp_path / "out").class_names == tuple(sorted(NAMES))


# ---- the shared teachers ---------------------------------------------------------

shared = [
    pytest.mark.shared,
    pytest.mark.skipif(
        not (SHARED / "zoo").is_dir() or not (SHARED / "data").is_dir(),
        reason="no shared zoo",
    ),
]


class SharedImages:
    """Real training images by class, read from the archive without unpacking it."""

    def __init__(self):
        self.archive = tarfile.open(SHARED / "data" / "cifar_fs.tar")
        self.members = {}
        for member in self.archive:
            parts = member.name.split("/")
            if member.isfile() and len(parts) == 4 and parts[1] == "train":
                self.members.setdefault(parts[2], {})[parts[3]] = member
        self.names = tuple(sorted(self.members))

    def read(self, name, part):
        from PIL import Image

        files = sorted(self.members[name])[part]
        members = [self.members[name][file] for file in files]
        images = [Image.open(io.BytesIO(self.archive.extractfile(m).read()))
                  for m in members]  # fmt: skip
        return np.stack([np.asarray(im, np.float32) / 255 for im in images])


@pytest.fixture(scope="module")
def real_images():
    return SharedImages()


@pytest.fixture(scope="module")
def convert(real_images):
    zoos = {}

    def by_name(name):
        if name not in zoos:
            zoos[name] = interop.convert_folder(
                SHARED / "zoo" / name,
                class_names=real_images.names,
                mean=MEAN,
                std=STD,
                image_size=32,
                domain="cifar_fs",
            )
        return zoos[name]

    return by_name


NETS = {"cifar_fs_conv4": torch_conv4, "cifar_fs_resnet10": torch_resnet}


@pytest.mark.parametrize(
    "name",
    ["cifar_fs_conv4", pytest.param("cifar_fs_resnet10", marks=pytest.mark.slow)],
)
def test_every_shared_teacher_agrees_with_torch(name, convert, real_images):
    zoo = convert(name)
    arch, teachers = zoo.networks[0], zoo.teachers[0]
    images = np.concatenate(
        [real_images.read(c, slice(-1, None)) for c in real_images.names[::4]]
    )
    # One at a time: convolutions with other weights each are slow together.
    apply = jax.jit(arch.apply)
    rows = jax.tree.map(np.asarray, teachers.variables)
    ours = [
        apply(jax.tree.map(lambda x, i=i: x[i], rows), images)
        for i in range(len(teachers.class_ids))
    ]
    net, theirs = NETS[name](), []
    for i, file in enumerate(teacher_files(SHARED / "zoo" / name)):
        content = torch.load(file, weights_only=True)
        net.load_state_dict(content["teacher"])
        assert teachers.class_ids[i].tolist() == content["specific"]
        theirs.append(torch_logits(net.eval(), images))
    errors = relative(np.stack(ours), np.stack(theirs))
    print(f"\n{name}: {len(errors)} teachers, {len(images)} images, relative error "
          f"max {errors.max():.2e}, mean {errors.mean():.2e}")  # fmt: skip
    assert len(errors) == {"cifar_fs_conv4": 100, "cifar_fs_resnet10": 2}[name]
    assert errors.max() < 1e-4


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("cifar_fs_conv4", 3),
        pytest.param("cifar_fs_resnet10", 1, marks=pytest.mark.slow),
    ],
)
def test_held_out_accuracy_is_the_logged_one(name, count, convert, real_images):
    """Class ids, class order and normalisation are right, or this would be chance."""
    zoo = convert(name)
    group = zoo.groups[0]
    rows = csv.DictReader((SHARED / "zoo" / name / "log.tsv").open(), delimiter="\t")
    for i, row in zip(range(count), rows, strict=False):
        ids = group.teachers.class_ids[i].tolist()
        parts = [real_images.read(zoo.class_names[c], slice(480, None)) for c in ids]
        labels = np.repeat(np.arange(5), [len(part) for part in parts])
        variables = jax.tree.map(lambda x, i=i: x[i], group.teachers.variables)
        apply = jax.jit(group.network.apply)
        logits = apply(variables, jnp.concatenate(parts))
        accuracy = np.mean(np.argmax(logits, axis=1) == labels)
        print(f"\n{name} teacher {i}: {accuracy:.4f}, logged {group.accuracy[i]:.4f}")
        assert float(row["held_out_accuracy"]) == pytest.approx(group.accuracy[i])
        # The log has four decimals; one image of 600 may sit on the boundary.
        assert accuracy == pytest.approx(group.accuracy[i], abs=0.0018)


def test_shared_zoo_survives_saving(convert, tmp_path):
    zoo = convert("cifar_fs_conv4")
    save_zoo(zoo, tmp_path)
    again = load_zoo(tmp_path)
    assert again.networks == zoo.networks
    jax.tree.map(np.testing.assert_array_equal, again.teachers, zoo.teachers)


for _test in (
    test_every_shared_teacher_agrees_with_torch,
    test_held_out_accuracy_is_the_logged_one,
    test_shared_zoo_survives_saving,
):
    _test.pytestmark = [*getattr(_test, "pytestmark", []), *shared]
