"""A Hugging Face image classifier from ``config.json`` and its weights.

Classes of the installed ``transformers`` only: code that a repository brings along
(``auto_map``) is not looked at here, see `hub.own_code`.
"""

import functools
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from free_jax.errors import InputError
from free_jax.interop.frameworks import loading
from free_jax.interop.frameworks.timm import arguments, check_architecture

if TYPE_CHECKING:
    import torch

SAID_BY = "config.json"
_LARGEST = 1_000_000  # width, image side, number of anything
_CLASSIFIER = re.compile(r"[A-Za-z0-9]+ForImageClassification[A-Za-z]*")
# Beside the classifier in files of models that it was trained from.
_UNUSED = r"(^|\.)(pooler|mask_token|decoder|lm_head)(\.|$)"


def huggingface_module(
    config: Mapping[str, Any], state: Mapping[str, np.ndarray], source: str
) -> "torch.nn.Module":
    """The classifier that the files describe, in inference.

    Args:
      config: content of ``config.json``.
      state: key -> array, as in the weight files.
      source: what error messages call the model.

    Returns:
      A module that takes images [n, c, h, w] and returns logits [n, classes].  Its
      attribute ``keys_in_file`` says under which key of the file a tensor was, where
      transformers of today calls it otherwise.

    Raises:
      InputError: not an image classifier, a class that transformers does not have, or
        weights that the configuration contradicts.
    """
    name = architecture(config, source)
    _check_depth(config, state, source)
    transformers = loading.package("transformers", source)
    transformers.utils.logging.disable_progress_bar()
    cls = _class(transformers, name, config, source)
    settings = {k: v for k, v in config.items() if k not in ("dtype", "torch_dtype")}
    if name == "TimmWrapperForImageClassification":
        loading.package("timm", source)
        check_architecture(config.get("architecture"), source)
        settings["model_args"] = arguments({"model_args": config.get("model_args")})

    def make():
        return cls(cls.config_class.from_dict(settings))

    expected = loading.shapes_by(make, source, SAID_BY)
    renamed: dict[str, str] = {}
    if expected is not None and not set(state) >= {
        key for key in expected if "num_batches" not in key
    }:
        _check_size(expected, state, source)
        renamed = _renamed(cls, settings, state, source)
        state = {**state, **{new: state[old] for new, old in renamed.items()}}
        state = {k: v for k, v in state.items() if k not in renamed.values()}
    if expected is not None:
        problem = loading.contradiction(expected, state, SAID_BY, _UNUSED)
        if problem is not None:
            raise InputError(
                f"{source}: {problem}; one of the two is not of this model"
            )
    module = loading.build(make, source, SAID_BY)
    loading.load(module, state, source, SAID_BY, _UNUSED)
    module.forward = functools.partial(_logits, module.forward)
    module.keys_in_file = renamed
    return module


def architecture(config: Mapping[str, Any], source: str) -> str:
    """The name of the classifier's class.

    Raises:
      InputError: none is named, it is no image classifier, or quantised.
    """
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if not isinstance(name, str):
        raise InputError(
            f"{source}: {SAID_BY} does not say what the model is (architectures)"
        )
    if not _CLASSIFIER.fullmatch(name):
        if config.get("auto_map"):
            raise _own_code(name, source)
        raise InputError(
            f"{source}: {name[:80]} is no image classifier; only "
            "..ForImageClassification models become teachers"
        )
    if config.get("quantization_config"):
        raise InputError(
            f"{source}: its weights are quantised ({SAID_BY}: quantization_config); "
            "save it in float32 or float16"
        )
    return name


def _class(transformers: Any, name: str, config: Mapping[str, Any], source: str):
    cls = getattr(transformers, name, None)
    kind = getattr(getattr(cls, "config_class", None), "model_type", None)
    if cls is None or kind != config.get("model_type"):
        if config.get("auto_map"):
            raise _own_code(name, source)
        raise InputError(
            f"{source}: transformers {transformers.__version__} has no {name} of type "
            f"{str(config.get('model_type'))[:80]!r}; export the model as ONNX or .pt2"
        )
    return cls


def _own_code(name: str, source: str) -> InputError:
    return InputError(
        f"{source}: {name[:80]} is code of its own ({SAID_BY}: auto_map), which is "
        f"never run; if you trust it, name {source} in trust_code"
    )


def _check_depth(
    config: Mapping[str, Any], state: Mapping[str, np.ndarray], source: str
) -> None:
    """No more layers than there are tensors: it is made before it is compared."""
    for key, value in config.items():
        numbers = value if isinstance(value, list) else [value]
        numbers = [n for n in numbers if isinstance(n, int)]
        if any(number > _LARGEST for number in numbers):
            raise InputError(
                f"{source}: {SAID_BY} says {key} {value}, which is no size"
            )
        if not re.search("layer|depth|block|stage", str(key)):
            continue
        if sum(numbers) > max(64, 4 * len(state)):
            raise InputError(
                f"{source}: {SAID_BY} asks for {key} {value}, but there are only "
                f"{len(state)} tensors in the weights"
            )


def _check_size(
    expected: loading.Shapes, state: Mapping[str, np.ndarray], source: str
) -> None:
    """No network much larger than its weights: it is made with memory next."""
    wanted = sum(math.prod(shape) for shape in expected.values())
    given = sum(value.size for value in state.values())
    if wanted > 2 * given + 1_000_000:
        raise InputError(
            f"{source}: {SAID_BY} describes a network of {wanted} numbers, the weights "
            f"hold {given}; one of the two is not of this model"
        )


def _renamed(
    cls: Any, settings: Any, state: Mapping[str, np.ndarray], source: str
) -> dict[str, str]:
    """Today's key -> key in the file, for those that transformers has renamed.

    Transformers renames while it loads.  So it is given tensors that say which they
    are: each is filled with its own number.
    """
    import torch

    names = list(state)
    numbered = {
        name: torch.full(state[name].shape, float(i)) for i, name in enumerate(names)
    }

    def make():
        config = cls.config_class.from_dict(settings)
        return cls.from_pretrained(
            None,
            config=config,
            state_dict=numbered,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
        )

    module = loading.build(make, source, SAID_BY)
    found = {}
    for key, value in module.state_dict().items():
        if key in state or value.numel() == 0:
            continue
        number = value.flatten()[0].item()
        whole = number == int(number) and 0 <= number < len(names)
        if whole and bool((value == number).all()):
            name = names[int(number)]
            if tuple(value.shape) == state[name].shape:
                found[key] = name
    return found


def _logits(forward: Any, images: "torch.Tensor") -> "torch.Tensor":
    return forward(pixel_values=images).logits
