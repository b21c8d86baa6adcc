"""A torchvision classifier from the names and shapes of its weights.

A state_dict says which layers there are and how wide each is, not how they are joined.
So a family is recognised by its keys, a network of that family is made with as many
blocks as the keys show, and `resize` gives every layer the width that its weights have:
people narrow these networks, change the first layer for small images and replace the
head.  What keys and shapes cannot show is assumed as torchvision has it; where there is
a sign that it differs, it is guessed, and said.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from free_jax.errors import InputError
from free_jax.interop.frameworks import loading
from free_jax.interop.frameworks.resize import fit_head, fit_to_weights, try_once

if TYPE_CHECKING:
    import torch

Shapes = dict[str, tuple[int, ...]]
Found = tuple[str, Callable[[], Any], dict[str, Any]]  # name, maker, what is to be said

# Classifiers for training only.
_AUXILIARY = re.compile(r"^(aux1|aux2|AuxLogits)\.")
# Key that only this kind has -> networks with the keys of which it is compared.
_BY_NAME = {
    "stage2.0.branch1.0.weight": ("shufflenet_v2_x1_0",),
    "inception3a.branch1.conv.weight": ("googlenet",),
    "Mixed_5b.branch1x1.conv.weight": ("inception_v3",),
    "features.3.squeeze.weight": ("squeezenet1_0", "squeezenet1_1"),
    "features.1.0.block.0.0.weight": tuple(
        [f"efficientnet_b{i}" for i in range(8)]
        + [f"efficientnet_v2_{size}" for size in "sml"]
    ),
    "features.1.block.0.0.weight": ("mobilenet_v3_small", "mobilenet_v3_large"),
    "features.1.conv.0.0.weight": ("mobilenet_v2",),
    "layers.8.0.layers.0.weight": ("mnasnet1_0",),
    "features.10.weight": ("alexnet",),
    "blocks.0.layers.0.layers.MBconv.layers.conv_a.0.weight": ("maxvit_t",),
}


def torchvision_module(
    state: Mapping[str, np.ndarray], source: str, family: str | None = None
) -> "tuple[torch.nn.Module, dict[str, Any]]":
    """The classifier whose weights these are, in inference.

    Args:
      state: key -> array; prefixes of wrappers (``module.``) taken off.
      source: what error messages call the model.
      family: the network's name if it is known, "resnet18" or "resnet"; others are
        refused then.

    Returns:
      The module, and what was recognised: ``family``, and where it applies
      ``image_size`` (the only one that fits), ``stem``, ``head`` and ``heads`` with
      "(guessed ..)" where the weights do not say.

    Raises:
      InputError: an unknown network, or not the one that `family` says.
    """
    models = loading.package("torchvision.models", source)
    state = {key: value for key, value in state.items() if not _AUXILIARY.match(key)}
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    found = _find(models, shapes)
    if found is None:
        raise InputError(
            f"{source}: a checkpoint of an unknown network; name it in teachers.yaml "
            "if it is timm's (family: timm/NAME), else its code is needed: code: in "
            "teachers.yaml with --trust_code"
        )
    name, make, said = found
    if family is not None and not name.startswith(family):
        raise InputError(
            f"{source}: its weights are of {name}, not of {family} (family:)"
        )
    import torch

    with torch.device("meta"):
        module = loading.build(make, source, "its weights")
    said = {"family": name, **said}
    said |= fit_head(module, shapes, source)
    said |= fit_to_weights(module, shapes)
    module = module.to_empty(device="cpu").eval()
    loading.load(module, state, source, name)
    try_once(module, state, said.get("image_size"), source)
    return module, said


def _find(models: Any, shapes: Shapes) -> Found | None:
    """The family, by a key that only this family has."""
    if "layer1.0.conv1.weight" in shapes and "conv1.weight" in shapes:
        return _resnet(models, shapes)
    if "features.denseblock1.denselayer1.conv1.weight" in shapes:
        return _densenet(models, shapes)
    if "encoder.layers.encoder_layer_0.mlp.0.weight" in shapes:
        return _vit(models, shapes)
    if "features.1.0.attn.qkv.weight" in shapes:
        return _swin(models, shapes)
    if "features.1.0.layer_scale" in shapes:
        return _convnext(models, shapes)
    if "trunk_output.block1.block1-0.f.b.0.weight" in shapes:
        return _regnet(models, shapes)
    for key, names in _BY_NAME.items():
        if key in shapes:
            found = _by_name(models, shapes, names)
            if found is not None:
                return found
    return _vgg(models, shapes)


def _count(shapes: Shapes, pattern: str) -> int:
    """How many numbers a place in the keys takes: 0, 1, .. n - 1."""
    found = {int(m[1]) for m in map(re.compile(pattern).match, shapes) if m}
    return len(found)


def _by_name(models: Any, shapes: Shapes, names: tuple[str, ...]) -> Found | None:
    """The network of torchvision with the same keys, the head aside.

    Of several, the one of the same widths, the first of those.
    """
    import torch

    body = _body(shapes)
    found = []
    for name in names:
        options: dict[str, Any] = {"weights": None}
        if name in ("googlenet", "inception_v3"):
            options |= {"aux_logits": False, "init_weights": False}

        def make(name=name, options=options):
            return models.get_model(name, **options)

        with torch.device("meta"):
            state = loading.build(make, name, name).state_dict()
        if _body(state) == body:
            other = sum(tuple(state[key].shape) != shapes[key] for key in body)
            found.append((other, name, make))
            if not other:
                break  # The others need not be built.
    if not found:
        return None
    other, name, make = min(found, key=lambda entry: entry[0])
    kind = re.sub(r"_?x?1_0$", "", name) if other else name
    return kind, make, {"image_size": 224} if name == "maxvit_t" else {}


def _body(keys: Any) -> set[str]:
    """Keys without the head's and without counters, which some files leave out."""
    return {
        key
        for key in keys
        if not re.match(r"(fc|classifier|heads?)\.", key)
        and not key.endswith("num_batches_tracked")
    }


def _resnet(models: Any, shapes: Shapes) -> Found | None:
    """ResNet, wide ResNet and ResNeXt: kind and number of the blocks."""
    deep = "layer1.0.conv3.weight" in shapes
    stages = _count(shapes, r"layer(\d+)\.0\.conv1\.weight")
    depths = [_count(shapes, rf"layer{i + 1}\.(\d+)\.conv1\.weight") for i in range(4)]
    if stages != 4 or 0 in depths or "bn1.weight" not in shapes:
        return None
    resnet = models.resnet
    block = resnet.Bottleneck if deep else resnet.BasicBlock
    named: dict[Any, str] = {
        (False, (2, 2, 2, 2)): "resnet18",
        (False, (3, 4, 6, 3)): "resnet34",
        (True, (3, 4, 6, 3)): "resnet50",
        (True, (3, 4, 23, 3)): "resnet101",
        (True, (3, 8, 36, 3)): "resnet152",
    }
    kind = "bottleneck" if deep else "basic"
    name = named.get((deep, tuple(depths)), f"resnet {depths} of {kind} blocks")
    wide = shapes["layer1.0.conv2.weight"][:2] if deep else ()
    more: dict[Any, str] = {
        (128, 128): "wide_{}_2",
        (128, 4): "{}_32x4d",
        (256, 8): "{}_32x8d",
    }
    if wide in more:
        name = more[wide].format(
            name if wide[1] == 128 else name.replace("net", "next")
        )
    return name, lambda: resnet.ResNet(block, depths), {}


def _densenet(models: Any, shapes: Shapes) -> Found | None:
    first = "features.denseblock1.denselayer1"
    growth = shapes[f"{first}.conv2.weight"][0]
    blocks = _count(shapes, r"features\.denseblock(\d+)\.denselayer1\.conv1\.weight")
    config = [
        _count(shapes, rf"features\.denseblock{i + 1}\.denselayer(\d+)\.conv1\.weight")
        for i in range(blocks)
    ]
    named: dict[Any, str] = {
        (6, 12, 24, 16): "densenet121",
        (6, 12, 36, 24): "densenet161",
        (6, 12, 32, 32): "densenet169",
        (6, 12, 48, 32): "densenet201",
    }
    options = {
        "growth_rate": growth,
        "block_config": tuple(config),
        "num_init_features": shapes[f"{first}.norm1.weight"][0],
        "bn_size": shapes[f"{first}.conv1.weight"][0] // growth,
    }
    name = named.get(tuple(config), f"densenet {config}")
    return name, lambda: models.densenet.DenseNet(**options), {}


def _vgg(models: Any, shapes: Shapes) -> Found | None:
    """VGG: places of the convolutions tell where it pools."""
    convolutions = {
        int(m[1]): shape
        for key, shape in shapes.items()
        if (m := re.fullmatch(r"features\.(\d+)\.weight", key)) and len(shape) == 4
    }
    places = sorted(convolutions)
    if (
        not places
        or places[0] != 0
        or any(s[2:] != (3, 3) for s in convolutions.values())
    ):
        return None
    norm = f"features.{places[0] + 1}.running_mean" in shapes
    plan: list[int | str] = []
    for place, following in zip(places, [*places[1:], None], strict=True):
        plan.append(convolutions[place][0])
        step = 3 if norm else 2  # convolution, (batch norm,) ReLU
        if following is None or following == place + step + 1:
            plan.append("M")
        elif following != place + step:
            return None
    vgg = models.vgg
    layers = vgg.make_layers(plan, batch_norm=norm)
    if _body(f"features.{key}" for key in layers.state_dict()) != _body(shapes):
        return None
    pools = [sum(p != "M" for p in plan), plan.count("M")]
    sizes: dict[Any, int] = {(8, 5): 11, (10, 5): 13, (13, 5): 16, (16, 5): 19}
    named = sizes.get(tuple(pools))
    size = f"{named}" if named else f" of {pools[0]} convolutions"
    name = f"vgg{size}" + ("_bn" if norm and named else "")

    def make():
        return vgg.VGG(vgg.make_layers(plan, batch_norm=norm), init_weights=False)

    return name, make, {}


def _convnext(models: Any, shapes: Shapes) -> Found | None:
    stages = []
    while f"features.{2 * len(stages) + 1}.0.layer_scale" in shapes:
        stages.append(2 * len(stages) + 1)
    widths = [shapes[f"features.{i}.0.layer_scale"][0] for i in stages]
    depths = [_count(shapes, rf"features\.{i}\.(\d+)\.layer_scale") for i in stages]
    setting = models.convnext.CNBlockConfig
    blocks = [
        setting(width, following, depth)
        for width, following, depth in zip(
            widths, [*widths[1:], None], depths, strict=True
        )
    ]
    named: dict[Any, str] = {
        (96, (3, 3, 9, 3)): "convnext_tiny",
        (96, (3, 3, 27, 3)): "convnext_small",
        (128, (3, 3, 27, 3)): "convnext_base",
        (192, (3, 3, 27, 3)): "convnext_large",
    }
    name = named.get((widths[0], tuple(depths)), f"convnext {depths}")
    return name, lambda: models.convnext.ConvNeXt(blocks), {}


def _vit(models: Any, shapes: Shapes) -> Found | None:
    if "conv_proj.weight" not in shapes:
        return None
    width, _, patch, _ = shapes["conv_proj.weight"]
    side = math.isqrt(shapes["encoder.pos_embedding"][1] - 1)
    layers = _count(shapes, r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.0\.weight")
    if width % 64:
        return None
    options = {
        "image_size": side * patch,
        "patch_size": patch,
        "num_layers": layers,
        "num_heads": width // 64,
        "hidden_dim": width,
        "mlp_dim": shapes["encoder.layers.encoder_layer_0.mlp.0.weight"][0],
    }
    said: dict[str, Any] = {"image_size": side * patch}
    published: dict[Any, str] = {
        (768, 12): "vit_b",
        (1024, 24): "vit_l",
        (1280, 32): "vit_h",
    }
    name = published.get((width, layers))
    if name is None:
        said["heads"] = f"{width // 64} (guessed as 64 numbers a head)"
    elif name == "vit_h":
        options["num_heads"] = 16
    name = f"{name}_{patch}" if name else f"vit of {layers} layers, width {width}"
    return name, lambda: models.vision_transformer.VisionTransformer(**options), said


def _swin(models: Any, shapes: Shapes) -> Found | None:
    stages = []
    while f"features.{2 * len(stages) + 1}.0.attn.qkv.weight" in shapes:
        stages.append(2 * len(stages) + 1)
    depths = [
        _count(shapes, rf"features\.{i}\.(\d+)\.attn\.qkv\.weight") for i in stages
    ]
    second = "features.1.0.attn.logit_scale" in shapes
    swin = models.swin_transformer
    if second:
        heads = [shapes[f"features.{i}.0.attn.logit_scale"][0] for i in stages]
        window = (shapes["features.1.0.attn.relative_coords_table"][1] + 1) // 2
        extra = {
            "block": swin.SwinTransformerBlockV2,
            "downsample_layer": swin.PatchMergingV2,
        }
    else:
        table = "attn.relative_position_bias_table"
        heads = [shapes[f"features.{i}.0.{table}"][1] for i in stages]
        window = (math.isqrt(shapes[f"features.1.0.{table}"][0]) + 1) // 2
        extra = {}
    width, _, patch, _ = shapes["features.0.0.weight"]
    options = {
        "patch_size": [patch, patch],
        "embed_dim": width,
        "depths": depths,
        "num_heads": heads,
        "window_size": [window, window],
        "mlp_ratio": shapes["features.1.0.mlp.0.weight"][0] / width,
        **extra,
    }
    kind = "swin_v2" if second else "swin"
    named: dict[Any, str] = {(96, 6): "_t", (96, 18): "_s", (128, 18): "_b"}
    size = named.get((width, depths[2] if len(depths) > 2 else 0), f" {depths}")
    return f"{kind}{size}", lambda: swin.SwinTransformer(**options), {}


def _regnet(models: Any, shapes: Shapes) -> Found | None:
    stages = _count(shapes, r"trunk_output\.block(\d+)\.")
    first = [f"trunk_output.block{i + 1}.block{i + 1}-0.f" for i in range(stages)]
    depths = [
        _count(shapes, rf"trunk_output\.block{i + 1}\.block\d+-(\d+)\.")
        for i in range(stages)
    ]
    widths = [shapes[f"{block}.c.0.weight"][0] for block in first]
    inner = [shapes[f"{block}.a.0.weight"][0] for block in first]
    squeezed = f"{first[0]}.se.fc1.weight" in shapes
    params = models.regnet.BlockParams(
        depths=depths,
        widths=widths,
        group_widths=[shapes[f"{block}.b.0.weight"][1] for block in first],
        bottleneck_multipliers=[a / b for a, b in zip(inner, widths, strict=True)],
        strides=[2] * stages,
        se_ratio=0.25 if squeezed else None,
    )
    kind = "regnet_y" if squeezed else "regnet_x"
    stem = shapes["stem.0.weight"][0]
    name = f"{kind} {depths}"
    return name, lambda: models.regnet.RegNet(params, stem_width=stem), {}
