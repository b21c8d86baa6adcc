"""What a weight file holds."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np


class Checkpoint(NamedTuple):
    """A weight file, opened.

    Attributes:
      state: key to array, floats as float32; common prefixes are stripped.
      wrapper: where the weights lay, e.g. "state_dict_ema" or "model.state_dict"; ""
        for a bare state_dict.
      prefix: what was stripped from every key, e.g. "_orig_mod." or "module.".
      extra: everything else in the file as plain Python values: hyper-parameters,
        arguments, classes, accuracy, `metadata` of a .safetensors.
    """

    state: dict[str, np.ndarray]
    wrapper: str = ""
    prefix: str = ""
    extra: Mapping[str, Any] = MappingProxyType({})
