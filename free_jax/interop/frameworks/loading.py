"""What the three packages share: importing them, and loading weights strictly."""

import importlib
import logging
import re
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from free_jax.errors import InputError

if TYPE_CHECKING:
    import torch

# Counters and index tables: in some files, in others not, and equal everywhere.
_EQUAL_EVERYWHERE = re.compile(
    r"(num_batches_tracked|position_ids|relative_position_index|attn_mask)$"
)
Shapes = dict[str, tuple[int, ...]]


def package(name: str, source: str) -> Any:
    """Imports torchvision, timm or transformers, or says how to install it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"{source}: converting this network needs {name}: "
            'pip install "free_jax[convert]"'
        ) from error


def build(make: Callable[[], Any], source: str, said_by: str) -> Any:
    """A module as a package makes it, in float32 and in inference, without noise.

    Args:
      make: makes the module from what the files say.
      source: what error messages call the model.
      said_by: the file that the arguments come from, "config.json".

    Raises:
      InputError: the package refuses the arguments.
    """
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return make().float().eval()
    except InputError:
        raise
    # Whatever a package raises on arguments that it did not expect.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0][:160]
        raise InputError(
            f"{source}: no network can be made of {said_by} "
            f"({type(error).__name__}: {reason})"
        ) from error
    finally:
        logging.disable(before)


def shapes_by(make: Callable[[], Any], source: str, said_by: str) -> Shapes | None:
    """Keys and shapes of a module that is made without memory for its weights.

    None where the package cannot make it so.
    """
    import torch

    try:
        with torch.device("meta"):
            module = build(make, source, said_by)
    except InputError:
        return None
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def contradiction(
    expected: Shapes,
    state: Mapping[str, np.ndarray],
    said_by: str,
    ignored: str = "",
) -> str | None:
    """The first difference between a network and its weights, in words.

    Args:
      expected: keys and shapes of the network.
      state: the weights.
      said_by: the file that the network was made from.
      ignored: a pattern of keys that the weights may have beside it.
    """
    for key, shape in expected.items():
        if key not in state:
            if _EQUAL_EVERYWHERE.search(key):
                continue
            missing = sum(other not in state for other in expected)
            return (
                f"{said_by} asks for {key} {list(shape)}, which the weights do not "
                f"have (nor {missing - 1} others)"
            )
        found = state[key].shape
        if tuple(found) != shape:
            return (
                f"{key} is {list(found)} in the weights and {list(shape)} by {said_by}"
            )
    for key in state:
        harmless = ignored and re.search(ignored, key)
        if key not in expected and not _EQUAL_EVERYWHERE.search(key) and not harmless:
            return f"the weights hold {key}, which the network of {said_by} does not"
    return None


def load(
    module: "torch.nn.Module",
    state: Mapping[str, np.ndarray],
    source: str,
    said_by: str,
    ignored: str = "",
) -> "torch.nn.Module":
    """Puts the weights into the module; all of them, and nothing is left as it was.

    Raises:
      InputError: they do not fit; names the first key that differs.
    """
    expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    problem = contradiction(expected, state, said_by, ignored)
    if problem is not None:
        raise InputError(f"{source}: {problem}; one of the two is not of this model")
    import torch

    # Not `load_state_dict`: some modules ask for a version that few files have.
    given = tensors(state, expected)
    with torch.no_grad():
        for key, value in module.state_dict().items():
            if key in given:
                value.copy_(given[key])
            elif key.endswith("num_batches_tracked"):
                value.zero_()
    return module


def tensors(state: Mapping[str, np.ndarray], keys: Any) -> "dict[str, torch.Tensor]":
    """Those keys of `state` as torch tensors of their own memory."""
    import torch

    return {
        key: torch.tensor(np.asarray(state[key]), dtype=_type(state[key]))
        for key in keys
        if key in state
    }


def _type(array: np.ndarray) -> Any:
    import torch

    return torch.float32 if "float" in array.dtype.name else None
