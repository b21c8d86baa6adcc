"""Writes ``shipped/``: programs of usual architectures at their published widths.

Run once where ``free_jax[convert]`` is installed, and again when operators change::

    python -m free_jax.interop.ship_programs [NAME ..]

Weights are random: a program holds none.
"""

import json
import pathlib
import sys
import tempfile
from typing import Any

import numpy as np

from free_jax.errors import InputError
from free_jax.interop import program_library
from free_jax.interop.batches import program_of
from free_jax.interop.export import export_module
from free_jax.interop.frameworks import (
    huggingface_module,
    loading,
    timm_module,
    torchvision_module,
)
from free_jax.interop.program_library import Entry, deciding

# Class, and fields that are not its defaults.
HUGGINGFACE: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet-18": (
        "ResNet",
        {
            "hidden_sizes": [64, 128, 256, 512],
            "depths": [2, 2, 2, 2],
            "layer_type": "basic",
        },
    ),
    "resnet-50": ("ResNet", {}),
    "vit-base-patch16-224": ("ViT", {}),
    "convnext-tiny-224": ("ConvNext", {}),
    "swin-tiny-patch4-window7-224": ("Swin", {}),
    "mobilenet_v2_1.0_224": ("MobileNetV2", {}),
}
TIMM = {
    "resnet18": "avg",
    "resnet50": "avg",
    "vit_tiny_patch16_224": "token",
    "vit_small_patch16_224": "token",
    "convnext_atto": "avg",
    "efficientnet_b0": "avg",
    "mobilenetv3_small_100": "avg",
}
TORCHVISION = (
    *("resnet18", "resnet18-3x3", "resnet34", "resnet50", "vgg11_bn", "vgg16_bn"),
    *("densenet121", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"),
    *("efficientnet_b0", "convnext_tiny", "vit_b_16", "shufflenet_v2_x1_0"),
    "squeezenet1_1",
)
# Tried at the second size too, which halves to odd numbers: equal programs are for any.
SIZES = (224, 150)


def main(names: list[str]) -> None:
    """Makes the programs whose file names begin with one of `names`, or all."""
    program_library.SHIPPED.mkdir(exist_ok=True)
    for kind, models in (
        ("huggingface", HUGGINGFACE),
        ("timm", TIMM),
        ("torchvision", TORCHVISION),
    ):
        for model in models:
            file = program_library.SHIPPED / f"{kind}-{model}.json"
            if not names or any(file.name.startswith(name) for name in names):
                text = program_library.encode(_entry(kind, model))
                file.write_text(text)
                print(f"{file.name}: {len(text)} bytes", flush=True)


def _entry(kind: str, model: str) -> Entry:
    make = {"huggingface": _huggingface, "timm": _timm, "torchvision": _torchvision}
    config, optional, module = make[kind](model)
    programs = []
    for side in SIZES:
        try:
            graph = export_module(module, (3, side, side), source=model)
            programs.append(program_of(graph, (side, side, 3), source=model)[0])
        except InputError:  # of one size only
            if not programs:
                raise
    any_size = len({program.text for program in programs}) == 1 < len(programs)
    size = None if any_size else (SIZES[0], SIZES[0])
    return Entry(kind, deciding(kind, config), optional, size, programs[0])


def _huggingface(model: str) -> tuple[dict[str, Any], tuple[str, ...], Any]:
    import safetensors.numpy

    transformers = loading.package("transformers", model)
    name, fields = HUGGINGFACE[model]
    cls = getattr(transformers, f"{name}ForImageClassification")
    made = cls(cls.config_class(**fields))
    with tempfile.TemporaryDirectory() as folder:
        # The keys of files are not always those of the module.
        made.save_pretrained(folder)
        path = pathlib.Path(folder)
        config = json.loads((path / "config.json").read_text())
        state = safetensors.numpy.load_file(path / "model.safetensors")
    default = deciding("huggingface", cls.config_class().to_dict())
    module = huggingface_module(config, state, model)
    full = {**made.config.to_dict(), "architectures": config["architectures"]}
    fields = deciding("huggingface", full)
    optional = [key for key, value in fields.items() if default.get(key) == value]
    return full, tuple(optional), module


def _timm(model: str) -> tuple[dict[str, Any], tuple[str, ...], Any]:
    timm = loading.package("timm", model)
    config = {"architecture": model, "global_pool": TIMM[model]}
    state = _state(timm.create_model(model, pretrained=False))
    return config, ("global_pool",), timm_module(config, state, model)


def _torchvision(model: str) -> tuple[dict[str, Any], tuple[str, ...], Any]:
    models = loading.package("torchvision.models", model)
    state = _state(models.get_model(model.removesuffix("-3x3"), weights=None))
    if model.endswith("-3x3"):
        state["conv1.weight"] = np.zeros((64, 3, 3, 3), np.float32)
    return {}, (), torchvision_module(state, model)[0]


def _state(module: Any) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in module.state_dict().items()}


if __name__ == "__main__":
    main(sys.argv[1:])
