"""A timm model from ``config.json``, or from the arguments of a training run."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from free_jax.errors import InputError
from free_jax.interop.frameworks import loading

if TYPE_CHECKING:
    import torch

# Where weights come from and what is returned: decided here, not by a file.
_NOT_FROM_FILES = {
    *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path"),
    *("cache_dir", "features_only", "out_indices", "scriptable", "exportable"),
    *("no_jit", "device", "dtype", "drop_rate", "drop_path_rate", "drop_block_rate"),
    *("proj_drop_rate", "attn_drop_rate", "pos_drop_rate", "patch_drop_rate"),
}
SAID_BY = "config.json"


def timm_module(
    config: Mapping[str, Any], state: Mapping[str, np.ndarray], source: str
) -> "torch.nn.Module":
    """The classifier that the files describe, in inference.

    Args:
      config: content of ``config.json`` (architecture, num_classes, model_args), or
        ``{"architecture": name, "model_args": {..}}``; model_args are what
        ``timm.create_model`` was given.
      state: key -> array, as in the weight file.
      source: what error messages call the model.

    Raises:
      InputError: an architecture that timm does not have, arguments that it refuses,
        or weights that do not fit.
    """
    timm = loading.package("timm", source)
    name = check_architecture(config.get("architecture"), source)
    if not timm.is_model(name):
        raise InputError(
            f"{source}: timm {timm.__version__} has no model {name!r}; export the "
            "model as ONNX or .pt2"
        )
    args = arguments(config)

    def make():
        return timm.create_model(name, pretrained=False, **args)

    expected = loading.shapes_by(make, source, SAID_BY)
    if expected is not None:
        problem = loading.contradiction(expected, state, SAID_BY)
        if problem is not None:
            raise InputError(
                f"{source}: {problem}; one of the two is not of this model"
            )
    return loading.load(loading.build(make, source, SAID_BY), state, source, SAID_BY)


def is_known(name: str) -> bool:
    """Whether timm has a network of that name."""
    import timm

    packages: Any = timm
    return packages.is_model(name)


def check_architecture(name: Any, source: str) -> str:
    """A plain name: timm takes ``hf-hub:..`` and ``local-dir:..`` too."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_.\-]{1,200}", name):
        raise InputError(
            f"{source}: {SAID_BY} names no architecture of timm: {str(name)[:80]!r}"
        )
    return name


def arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """What ``timm.create_model`` is given, in the words of a ``config.json``."""
    args = dict(config.get("model_args") or {})
    for key in ("num_classes", "global_pool"):
        if config.get(key) is not None:
            args.setdefault(key, config[key])
    channels = (config.get("pretrained_cfg") or {}).get("input_size", [3])[0]
    if channels != 3:
        args.setdefault("in_chans", channels)
    return {
        str(key): tuple(value) if isinstance(value, list) else value
        for key, value in args.items()
        if key not in _NOT_FROM_FILES and value is not None
    }
