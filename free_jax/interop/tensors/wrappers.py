"""Where in a file the weights of the classifier are.

People save a bare state_dict, or one under a name beside an optimizer, an average of
the weights (EMA), arguments and lists of classes; and wrappers of modules put a prefix
before every key.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from free_jax.errors import InputError
from free_jax.interop.tensors.plain import plain
from free_jax.interop.tensors.record import Checkpoint
from free_jax.interop.tensors.torch_pickle import is_state, is_tensor, to_numpy

Weights = Literal["ema", "model"] | None

_MODEL = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "teacher",
    "net",
    "network",
    "net_state_dict",
    "weights",
    "params",
    "module",
    "classifier",
    "student",
    "state",
)
# An average of the weights; where it is written beside them, it is what was evaluated.
_EMA = (
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "model_ema_state_dict",
    "ema_model",
    "ema",
    "params_ema",
    "averaged_model",
)
_NEVER = ("optimizer", "optim", "scheduler", "scaler", "callbacks", "loops", "amp")
# Put before every key by DataParallel, torch.compile, Lightning and the like.
_PREFIXES = (
    "_orig_mod.",
    "module.",
    "model.",
    "net.",
    "network.",
    "teacher.",
    "classifier.model.",
    "_model.",
    "ema_model.",
    "_forward_module.",
)
_COUNTER = "n_averaged"  # Of torch.optim.swa_utils.AveragedModel.


def unwrap(content: Any, name: str, size: int, weights: Weights = None) -> Checkpoint:
    """The classifier's weights in what a file holds.

    Args:
      content: plain containers of tensors.
      name: of the file, for errors.
      size: of the file in bytes: no tensor is larger.
      weights: "ema" or "model", where both are there; None: "ema".

    Raises:
      InputError: there are none, or several and nothing says which.
    """
    found, wrapper = _find(content, name, weights, 0)
    state, prefix = strip_prefixes(_arrays(found, name, size))
    if not state:
        raise InputError(f"{name}: holds no weights; save the state_dict of the model")
    extra: dict[str, Any] = {}
    if wrapper and isinstance(content, Mapping):
        held = wrapper.split(".")[0]
        for key, value in content.items():
            skip = str(key) == held or str(key).startswith(_NEVER)
            if not skip and not is_state(value):
                extra[str(key)] = plain(value)
        extra["keys"] = [str(key) for key in content]
    return Checkpoint(state, wrapper, prefix, extra)


def _find(content: Any, name: str, weights: Weights, depth: int) -> tuple[Any, str]:
    """The table of tensors, and the path of keys that leads to it."""
    if is_state(content) and not any(is_state(v) for v in content.values()):
        if weights == "ema" and depth == 0:
            raise _no_average(name)
        return content, ""
    if isinstance(content, list | tuple) and depth < 4:
        # fastai: [state of the model, state of the optimizer].
        states = {str(i): v for i, v in enumerate(content[:8]) if is_state(v)}
        if len(states) == 1:
            where, state = next(iter(states.items()))
            return state, where
    if not isinstance(content, Mapping) or depth >= 4:
        kind = type(content).__name__
        raise InputError(
            f"{name}: holds a {kind}, not a teacher; expected a state_dict, or a dict "
            "with one under state_dict, model, teacher or net"
        )
    ema = [key for key in _EMA if isinstance(content.get(key), Mapping)]
    model = [key for key in _MODEL if isinstance(content.get(key), Mapping)]
    if weights == "ema" and not ema:
        if depth == 0:
            raise _no_average(name)
    first, second = (model, ema) if weights == "model" else (ema, model)
    for key in [*first, *second]:
        if not content[key]:
            continue
        try:
            found, path = _find(content[key], name, weights, depth + 1)
        except InputError:
            continue
        return found, f"{key}.{path}" if path else key
    tables = [str(k) for k, v in content.items() if is_state(v)]
    tables = [key for key in tables if not key.startswith(_NEVER)]
    if len(tables) == 1:
        return content[tables[0]], tables[0]
    if len(tables) > 1:
        raise InputError(
            f"{name}: holds {len(tables)} networks ({', '.join(tables)[:120]}); save "
            "the classifier alone"
        )
    other = [key for key, value in content.items() if not is_tensor(value)]
    raise InputError(
        f"{name}: not a teacher, {str(other[0])[:80] if other else ''!r} is no tensor; "
        "expected a state_dict, or one under state_dict, model, teacher or net"
    )


def _no_average(name: str) -> InputError:
    return InputError(
        f"{name}: has no averaged weights, but weights: ema is asked; correct "
        "teachers.yaml"
    )


def _arrays(state: Mapping, name: str, size: int) -> dict[str, np.ndarray]:
    """Tensors and numbers as arrays; what modules keep beside weights is left out."""
    arrays = {}
    for key, value in state.items():
        if key == "_metadata" or key.endswith("_extra_state") or value is None:
            continue
        if is_tensor(value):
            arrays[key] = to_numpy(value, key, name, max(size, 1 << 16))
        elif isinstance(value, np.ndarray | np.generic | int | float):
            array = np.asarray(value)
            floats = array.dtype.kind == "f"
            # Beyond float32 is infinite, which is refused when weights are used.
            with np.errstate(over="ignore"):
                arrays[key] = array.astype(np.float32) if floats else array
        else:
            raise InputError(
                f"{name}: not a teacher, {key[:80]!r} is no tensor; save its state_dict"
            )
    return arrays


def strip_prefixes(
    state: dict[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], str]:
    """Keys without what wrappers put before all of them.

    A prefix counts as common if every array of two or more axes has it; others (the
    class weights of a loss, metrics) are then left out.

    >>> weights = {"module.fc.weight": np.ones((2, 3)), "n_averaged": np.ones(())}
    >>> state, prefix = strip_prefixes(weights)
    >>> list(state), prefix
    (['fc.weight'], 'module.')
    """
    state = {key: value for key, value in state.items() if key != _COUNTER}
    stripped = ""
    while True:
        large = [key for key, value in state.items() if np.ndim(value) >= 2]
        prefix = next(
            (p for p in _PREFIXES if large and all(k.startswith(p) for k in large)),
            None,
        )
        if prefix is None:
            break
        stripped += prefix
        state = {
            key.removeprefix(prefix): value
            for key, value in state.items()
            if key.startswith(prefix)
        }
    # torch.compile of a part leaves its mark inside the keys.
    return {k.replace("_orig_mod.", ""): v for k, v in state.items()}, stripped
