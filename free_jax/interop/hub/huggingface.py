"""A folder of Hugging Face: config.json, weights, preprocessor_config.json."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from free_jax.errors import InputError
from free_jax.interop.hub import facts as reading
from free_jax.interop.hub.consent import allowed, digest_of
from free_jax.interop.hub.conversion import by_description
from free_jax.interop.hub.facts import Fact, Facts
from free_jax.interop.hub.labels import names_beside, names_in
from free_jax.interop.hub.own_code import class_of_auto_map, remote_module
from free_jax.interop.hub.processors import processor_facts
from free_jax.interop.hub.reading import Reading, Setting
from free_jax.interop.hub.timm_config import config_facts
from free_jax.interop.tensors import read_tensors
from free_jax.interop.tensors.opening import read_json

_PROCESSOR = "preprocessor_config.json"
# What else people publish, in words, by the end of the class's name.
_OTHERS = (
    ("ObjectDetection", "a detector"),
    ("Segmentation", "a segmentation model"),
    ("DepthEstimation", "a depth estimator"),
    ("SequenceClassification", "a text model"),
    ("TokenClassification", "a text model"),
    ("CausalLM", "a text model"),
    ("LMHeadModel", "a text model"),
    ("MaskedLM", "a text model"),
    ("QuestionAnswering", "a text model"),
    ("ConditionalGeneration", "a model that writes text"),
    ("AudioClassification", "an audio model"),
    ("CTC", "an audio model"),
    ("VideoClassification", "a video model"),
    ("ZeroShotImageClassification", "a model of images and texts"),
    ("CLIPModel", "a model of images and texts"),
    ("MaskedImageModeling", "a backbone without a classifier"),
    ("PreTraining", "a backbone without a classifier"),
    ("Backbone", "a backbone without a classifier"),
    ("Model", "a backbone without a classifier"),
)


def read_huggingface(setting: Setting) -> Reading:
    """Reads a folder of Hugging Face.

    Raises:
      InputError: no image classifier, or files that are damaged or contradict.
    """
    candidate = setting.candidate
    config = candidate.config
    name = check_classifier(config)
    checkpoint = read_tensors(candidate.file, inside=setting.root)
    state = {checkpoint.prefix + k: v for k, v in checkpoint.state.items()}
    _check_outputs(config, state)
    facts = dict(folder_facts(setting))
    code = {}
    if class_of_auto_map(config) and allowed(setting.consent, setting.names):
        make, code = remote_module(setting, config, state)
        kind, config = "remote code", {**config, "code": sorted(code.values())}
    else:

        def make():
            from free_jax.interop.frameworks import huggingface_module

            return huggingface_module(config, state, candidate.path)

        kind = "huggingface"
    return Reading(
        "huggingface",
        f"{name} (Hugging Face)",
        _channels(config),
        facts,
        [
            stated_labels(config),
            names_beside(candidate.folder, candidate.file.stem, setting.root),
        ],
        by_description(kind, config, state, make, candidate.path, setting.options),
        digest=digest_of(state),
        sources={"network": "config.json:architectures"},
        consent=code,
    )


def check_classifier(config: Mapping[str, Any]) -> str:
    """The class's name.

    Raises:
      InputError: it is no image classifier; says what it is.
    """
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    own = class_of_auto_map(config)
    if own is not None:
        return own.rpartition(".")[2][:80]
    if not isinstance(name, str):
        raise InputError(
            "config.json: does not say which network it is (architectures); copy the "
            "complete config.json"
        )
    if "ForImageClassification" in name and "ZeroShot" not in name:
        return name
    what = next((what for end, what in _OTHERS if name.endswith(end)), "no classifier")
    raise InputError(
        f"config.json: {name[:80]} is {what}, no image classifier; leave it out"
    )


def _check_outputs(config: Mapping[str, Any], state: Mapping[str, np.ndarray]) -> None:
    """InputError where id2label contradicts the classifier's bias."""
    names = config.get("id2label")
    heads = ("classifier.bias", "classifier.1.bias", "head.bias", "fc.bias")
    bias = next((state[k] for k in heads if k in state), None)
    if isinstance(names, Mapping) and names and bias is not None and bias.ndim == 1:
        if len(names) != len(bias):
            raise InputError(
                f"config.json:id2label names {len(names)} classes, but the weights "
                f"have {len(bias)} outputs; config.json is not of this model"
            )


def _channels(config: Mapping[str, Any]) -> int:
    inner = config.get("pretrained_cfg")
    size = inner.get("input_size") if isinstance(inner, Mapping) else None
    if isinstance(size, list) and len(size) == 3:
        return reading.side(size[0], "config.json:input_size")
    channels = config.get("num_channels")
    return 3 if channels is None else reading.side(channels, "config.json:num_channels")


def stated_labels(config: Mapping[str, Any]) -> Fact | None:
    """Names in id2label, or timm's label_names."""
    names = names_in(config.get("id2label"), "config.json:id2label")
    return Fact(names, "config.json:id2label") if names else None


def folder_facts(setting: Setting) -> Facts:
    """Facts of the config files beside a model.

    Raises:
      InputError: one of them is damaged.
    """
    folder, config = setting.candidate.folder, setting.candidate.config or {}
    found: dict[str, Fact] = {}
    if config.get("image_size") is not None and config.get("model_type"):
        source = "config.json:image_size"
        stated = config["image_size"]
        found["size"] = Fact(reading.size(stated, source), source)
    if isinstance(config.get("pretrained_cfg"), Mapping):
        found.update(config_facts(config, "config.json"))
    if (folder / _PROCESSOR).exists():
        stated = read_json(folder / _PROCESSOR, setting.root)
        if isinstance(stated, Mapping) and isinstance(
            stated.get("pretrained_cfg"), Mapping
        ):
            found.update(config_facts(stated, _PROCESSOR))
        else:
            found.update(processor_facts(stated, _PROCESSOR))
    return found
