"""Networks of transformers, timm and torchvision, in the environment for converting."""

import argparse
import json
import pathlib

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
for package in ("torchvision", "timm", "transformers"):
    pytest.importorskip(package)

from free_jax.errors import InputError  # noqa: E402
from free_jax.interop import hub, program_library  # noqa: E402
from free_jax.interop.batches import program_of  # noqa: E402
from free_jax.interop.export import export_module  # noqa: E402
from free_jax.interop.frameworks import (  # noqa: E402
    huggingface_module,
    timm_module,
    torchvision_module,
)
from free_jax.models.graph import Graph  # noqa: E402

pytestmark = [
    pytest.mark.convert,
    # The packages' own.
    pytest.mark.filterwarnings("ignore"),
]
HUB = pathlib.Path(__file__).resolve().parents[1].parent / "shared" / "hub"
TEACHERS = {
    "mobilenet_v1_0.25_traffic_signs": "model.safetensors",
    "resnet-tiny-things": "model.safetensors",
    "vit-small-patch4-32": "model.safetensors",
    "convnext-femto-fp16": "model.safetensors",
    "mobilenet_v2_0.35_64": "pytorch_model.bin",
    "swin-tiny-window4-32": "model-0000?-of-00003.safetensors",
    "test_resnet.objects10": "model.safetensors",
    "convnext_atto.grey_scenes": "model.safetensors",
    "resnet18-cifar-stem": "resnet18_cifar.pth",
    "resnet18-imagenet-example": "model_best.pth.tar",
    "mobilenetv3-lightning": "*.ckpt",
    "vgg11_bn-compiled": "vgg11_bn.pth",
    "timm-train-checkpoint-ema": "checkpoint-22.pth.tar",
}


def contents(folder: pathlib.Path, pattern: str):
    """Weights without wrappers, and what else the file holds."""
    if pattern.endswith("safetensors"):
        from safetensors.torch import load_file

        state = {}
        for file in sorted(folder.glob(pattern)):
            state |= load_file(file)
        content = state
    else:
        (file,) = folder.glob(pattern)
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(file, weights_only=True, map_location="cpu")
        state = content.get("state_dict_ema", content.get("state_dict", content))
    for prefix in ("module.", "_orig_mod.", "model."):
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): v for key, v in state.items()}
    state = {k: (v.float() if v.is_floating_point() else v) for k, v in state.items()}
    return {key: value.numpy() for key, value in state.items()}, content


def module_of(name: str):
    """The torch module of a teacher, and its weights."""
    state, content = contents(HUB / name, TEACHERS[name])
    file = HUB / name / "config.json"
    if file.exists():
        config = json.loads(file.read_text())
        make = huggingface_module if "architectures" in config else timm_module
        return make(config, state, name), state
    if "args" in content:
        args = vars(content["args"])
        model_args = {**args["model_kwargs"], "num_classes": args["num_classes"]}
        config = {"architecture": args["model"], "model_args": model_args}
        return timm_module(config, state, name), state
    return torchvision_module(state, name)[0], state


@pytest.mark.shared
@pytest.mark.parametrize("name", TEACHERS)
def test_teachers_become_programs(name):
    module, state = module_of(name)
    reference = np.load(HUB / name / "reference.npz")
    image = reference["input_of_first"]
    image = image if image.ndim == 4 else image[None]
    graph = export_module(module, image.shape[1:], source=name)
    shape = (*image.shape[2:], image.shape[1])
    program, variables = program_of(graph, shape, source=name)
    # Every weight is a tensor of the file, by its key there.
    assert set(program.leaves.values()) <= set(state)
    network = Graph(program.num_classes, program.text)
    found = network.apply(
        variables, jax.numpy.asarray(image.transpose(0, 2, 3, 1)), norm="running"
    )
    expected = reference["logits"][:1]
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def randomised(module):
    """Statistics and scales of a network that was trained, as far as it matters."""
    generator = torch.Generator().manual_seed(1)
    for key, value in module.state_dict().items():
        if "running_var" in key:
            value.uniform_(0.5, 2, generator=generator)
        elif "running_mean" in key:
            value.normal_(0, 0.1, generator=generator)
        elif "layer_scale" in key or key == "heads.head.weight":
            value.normal_(0, 1, generator=generator)
    return module.eval()


def numbers(module):
    return {key: value.numpy().copy() for key, value in module.state_dict().items()}


def changed(module, **parts):
    for name, part in parts.items():
        parent, _, child = name.rpartition("__")
        setattr(module.get_submodule(parent.replace("__", ".")), child, part)
    return module


def _families():
    from torchvision import models
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt
    from torchvision.models.densenet import DenseNet
    from torchvision.models.efficientnet import EfficientNet, _efficientnet_conf
    from torchvision.models.mobilenetv3 import MobileNetV3, _mobilenet_v3_conf
    from torchvision.models.regnet import BlockParams, RegNet
    from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
    from torchvision.models.shufflenetv2 import ShuffleNetV2
    from torchvision.models.swin_transformer import (
        PatchMergingV2,
        SwinTransformer,
        SwinTransformerBlockV2,
    )
    from torchvision.models.vision_transformer import VisionTransformer

    linear, sequence, relu = torch.nn.Linear, torch.nn.Sequential, torch.nn.ReLU
    classes = {"num_classes": 7}

    def small_stem():
        stem = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        return changed(
            models.resnet18(**classes), conv1=stem, maxpool=torch.nn.Identity()
        )

    def mobilenet_v3(arch, width):
        setting, last = _mobilenet_v3_conf(arch, width_mult=width)
        return MobileNetV3(setting, last, **classes)

    def efficientnet(width, depth):
        arch = "efficientnet_b0"
        setting, last = _efficientnet_conf(arch, width_mult=width, depth_mult=depth)
        return EfficientNet(setting, 0.2, last_channel=last, **classes)

    def swin(**options):
        return SwinTransformer([2, 2], 32, [2, 2], [2, 4], [4, 4], **classes, **options)

    def regnet(ratio):
        params = BlockParams.from_init_params(13, 24, 36, 2.5, 8, se_ratio=ratio)
        return RegNet(params, **classes)

    second = {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2}
    convnext = [CNBlockConfig(24, 48, 1), CNBlockConfig(48, None, 2)]
    head = sequence(linear(512, 9), relu(), torch.nn.Dropout(), linear(9, 7))
    return {
        "resnet18": lambda: models.resnet18(**classes),
        "resnet18 of a 3x3 stem": small_stem,
        "resnet18 of one channel": lambda: changed(
            models.resnet18(**classes),
            conv1=torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False),
        ),
        "resnet18, head dropped out": lambda: changed(
            models.resnet18(), fc=sequence(torch.nn.Dropout(), linear(512, 7))
        ),
        "resnet18, head of two": lambda: changed(models.resnet18(), fc=head),
        "resnet [1, 1, 1, 1]": lambda: ResNet(BasicBlock, [1, 1, 1, 1], **classes),
        "resnext50_32x4d": lambda: models.resnext50_32x4d(**classes),
        "resnet [2, 2, 2, 2] of bottleneck": lambda: ResNet(
            Bottleneck, [2, 2, 2, 2], groups=8, width_per_group=4, **classes
        ),
        "densenet [6, 6, 6]": lambda: DenseNet(12, (6, 6, 6), 24, **classes),
        "mobilenet_v2": lambda: models.mobilenet_v2(width_mult=0.1, **classes),
        "mobilenet_v3_small": lambda: mobilenet_v3("mobilenet_v3_small", 0.35),
        "mobilenet_v3_large": lambda: mobilenet_v3("mobilenet_v3_large", 0.3),
        "efficientnet_b0": lambda: efficientnet(0.3, 1.0),
        "shufflenet_v2": lambda: ShuffleNetV2([4, 8, 4], [12, 24, 48, 96, 128], 7),
        "squeezenet1_1": lambda: models.squeezenet1_1(**classes),
        "mnasnet": lambda: models.mnasnet0_5(**classes),
        "googlenet": lambda: models.googlenet(init_weights=False, **classes),
        "regnet_x": lambda: regnet(None),
        "regnet_y": lambda: regnet(0.25),
        "convnext [1, 2]": lambda: ConvNeXt(convnext, **classes),
        "vit of 3 layers": lambda: VisionTransformer(32, 4, 3, 3, 192, 96, **classes),
        "swin [2, 2]": swin,
        "swin_v2 [2, 2]": lambda: swin(**second),
    }


FAMILIES = _families()


@pytest.mark.parametrize("name", FAMILIES)
def test_torchvision_by_names_and_shapes(name):
    torch.manual_seed(0)
    original = randomised(FAMILIES[name]())
    state = numbers(original)
    module, said = torchvision_module(state, "unnamed")
    assert said["family"].startswith(name.split(",")[0].split(" of ")[0][:12])
    channels = 1 if "one channel" in name else 3
    side = said.get("image_size", 64)
    images = torch.randn(2, channels, side, side)
    with torch.no_grad():
        expected, found = original(images), module(images)
    expected = getattr(expected, "logits", expected)
    torch.testing.assert_close(found, expected)
    assert ("stem" in said) == ("3x3" in name)
    assert ("head" in said) == ("head of two" in name)


def test_torchvision_in_words():
    from torchvision import models

    state = numbers(models.resnet18())
    with pytest.raises(InputError, match="weights are of resnet18, not of resnet50"):
        torchvision_module(state, "it", family="resnet50")
    unknown = "it: a checkpoint of an unknown network; name it in"
    with pytest.raises(InputError, match=unknown):
        torchvision_module({"a.weight": np.zeros((3, 3))}, "it")
    with pytest.raises(InputError, match=r"layer3\.0\.bn1\.weight"):
        torchvision_module(
            {k: v for k, v in state.items() if k != "layer3.0.bn1.weight"}, "it"
        )
    wide = {**state, "layer2.0.conv1.weight": np.zeros((128, 60, 3, 3), np.float32)}
    with pytest.raises(InputError, match="its layers do not join as in torchvision"):
        torchvision_module(wide, "it")
    mlp = {k: v for k, v in state.items() if not k.startswith("fc")}
    mlp |= {"fc.conv.weight": np.zeros((3, 512, 1, 1), np.float32)}
    with pytest.raises(InputError, match=r"its head .* code"):
        torchvision_module(mlp, "it")


@pytest.fixture(scope="module")
def vit():
    import transformers

    config = transformers.ViTConfig(
        image_size=8,
        patch_size=4,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=3,
    )
    module = transformers.ViTForImageClassification(config)
    return {**config.to_dict(), "architectures": [type(module).__name__]}, numbers(
        module
    )


def test_configurations_that_contradict_the_weights(vit):
    config, state = vit
    huggingface_module(config, state, "it")
    cases = [
        ({"hidden_size": 16}, "it: .*is .* in the weights and .* by config.json"),
        ({"num_hidden_layers": 3}, "asks for .* which the weights do not have"),
        ({"num_hidden_layers": 1}, "the weights hold vit.*, which the network"),
        ({"num_hidden_layers": 10**5}, "there are only .* tensors"),
        ({"id2label": {"0": "a"}, "label2id": {"a": 0}}, "classifier.weight is"),
        ({"hidden_act": "no such"}, "no network can be made of config.json"),
        ({"hidden_size": 10**9}, "hidden_size 1000000000, which is no size"),
        ({"hidden_size": 10**5}, "describes a network of .* numbers|in the weights"),
    ]
    for fields, said in cases:
        with pytest.raises(InputError, match=said) as error:
            huggingface_module({**config, **fields}, state, "it")
        assert "\n" not in str(error.value)


def test_models_that_are_no_image_classifiers(vit):
    config, state = vit
    cases = [
        (
            {"architectures": ["DetrForObjectDetection"]},
            "Detr.* is no image classifier",
        ),
        ({"architectures": ["BertForSequenceClassification"]}, "no image classifier"),
        ({"architectures": None}, "does not say what the model is"),
        ({"architectures": ["MineForImageClassification"]}, "has no Mine"),
        ({"model_type": "swin"}, "has no ViTForImageClassification of type 'swin'"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        (
            {
                "architectures": ["MineForImageClassification"],
                "auto_map": {"AutoModel": "mine.Mine"},
            },
            "code of its own .* name it in trust_code",
        ),
    ]
    for fields, said in cases:
        with pytest.raises(InputError, match=said):
            huggingface_module({**config, **fields}, state, "it")


def test_timm_by_its_arguments():
    import timm

    state = numbers(timm.create_model("test_resnet", num_classes=4, in_chans=1))
    config = {"architecture": "test_resnet", "num_classes": 4}
    grey = {**config, "model_args": {"in_chans": 1}}
    module = timm_module(grey, state, "it")
    with torch.no_grad():
        assert module(torch.zeros(1, 1, 32, 32)).shape == (1, 4)
    cases = [
        (config, "is .* in the weights and .* by config.json"),
        ({**grey, "architecture": "hf-hub:somebody/model"}, "names no architecture"),
        ({**grey, "architecture": "no_such_net"}, "has no model 'no_such_net'"),
        ({**grey, "model_args": {"no": 1}}, "no network can be made of config.json"),
    ]
    for wrong, said in cases:
        with pytest.raises(InputError, match=said):
            timm_module(wrong, state, "it")
    # What would read or fetch other files is not taken from a file.
    fetches = {"pretrained": True, "checkpoint_path": "/etc/passwd", "in_chans": 1}
    timm_module({**config, "model_args": fetches}, state, "it")


def test_timm_by_the_name_that_a_checkpoint_says(tmp_path):
    import timm

    made = timm.create_model("test_resnet", num_classes=3)
    content = {"arch": "test_resnet", "epoch": 3}
    averaged = {f"module.{k}": v for k, v in made.state_dict().items()}
    zeros = {k: torch.zeros_like(v) for k, v in averaged.items()}
    torch.save(
        {**content, "state_dict": zeros, "state_dict_ema": averaged},
        tmp_path / "named.pth.tar",
    )
    # A name that timm does not have says nothing.
    odd = {"arch": "our_best", "state_dict": {"a.weight": torch.zeros(3, 3, 3, 3)}}
    torch.save(odd, tmp_path / "odd.pth")
    named, odd = hub.read_folder(
        tmp_path, hub.HubOptions(guess=True, check=True, cache_dir="")
    )
    assert named.used and named.recognised == "test_resnet (timm)", named.message
    assert named.sources["network"] == "named.pth.tar:arch"
    assert named.network_difference < 1e-5
    assert not odd.used and "family: timm/NAME" in odd.message


def test_timm_within_transformers():
    import timm

    made = numbers(timm.create_model("test_resnet", num_classes=3))
    state = {f"timm_model.{key}": value for key, value in made.items()}
    config = {
        "architecture": "test_resnet",
        "architectures": ["TimmWrapperForImageClassification"],
        "model_type": "timm_wrapper",
        "num_classes": 3,
        "label_names": ["a", "b", "c"],
        "do_pooling": True,
    }
    module = huggingface_module(config, state, "it")
    graph = export_module(module, (3, 32, 32), source="it")
    assert set(graph.keys.values()) <= set(state)
    program, _ = program_of(graph, (32, 32, 3), source="it")
    plain = timm_module(config, made, "it")
    expected, _ = program_of(
        export_module(plain, (3, 32, 32), source="it"), (32, 32, 3), source="it"
    )
    assert program.text == expected.text


@pytest.mark.parametrize("name", ["torchvision-resnet18", "torchvision-vgg11_bn"])
def test_shipped_programs_are_those_of_today(name):
    from torchvision import models

    shipped = (program_library.SHIPPED / f"{name}.json").read_text()
    program = program_library.decode(shipped).program
    module = models.get_model(name.removeprefix("torchvision-"), num_classes=9)
    graph = export_module(module, (3, 64, 64), source=name)
    assert program_of(graph, (64, 64, 3), source=name)[0].text == program.text
