"""Released Conv4 networks, and the ways in which people save them."""

import argparse
import json

import ml_dtypes
import numpy as np

from free_jax import interop
from free_jax.zoo.network import make_network

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
TABLE = f"defaults: {{size: 32, mean: {MEAN}, std: {STD}}}\n"


def conv4_state(seed=0, way=5, width=2):
    """A released Conv4's state_dict as NumPy arrays, all values random."""
    network = make_network(
        "conv4", num_classes=way, image_shape=(32, 32, 3), width=width
    )
    rng = np.random.default_rng(seed)
    import jax

    shapes = jax.eval_shape(network.init, jax.random.key(0))
    variables = jax.tree.map(
        lambda s: rng.uniform(0.5, 1.5, s.shape).astype(np.float32), shapes
    )
    return interop.to_state_dict(variables, network)


def tensors(state):
    import torch

    return {key: torch.tensor(value) for key, value in state.items()}


def prefixed(state, prefix):
    return {prefix + key: value for key, value in state.items()}


def wrapped(name, state):
    """What is saved, in the layout of a name."""
    import torch

    s, old = tensors(state), tensors({k: 0 * v for k, v in state.items()})
    optimizer = {"state": {0: {"momentum": torch.ones(3, 3)}}, "param_groups": [{}]}
    return {
        "bare": s,
        "state_dict": {"state_dict": s, "epoch": 3, "optimizer": optimizer},
        "model": {"model": s, "optimizer": optimizer},
        "model_state_dict": {"model_state_dict": s, "loss": 0.1},
        "net": {"net": s, "acc": 81.0, "epoch": 2},
        "released": {"teacher": s, "specific": [3, 1, 4, 0, 5], "acc": 81.25},
        "released_tensors": {
            "teacher": s,
            "specific": torch.tensor([3, 1, 4, 0, 5]),
            "acc": torch.tensor([81.25]),
        },
        "released_numpy": {
            "teacher": s,
            "specific": np.asarray([3, 1, 4, 0, 5]),
            "acc": np.float64(81.25),
        },
        "released_text": {"teacher": s, "specific": "3, 1, 4, 0, 5", "acc": "81.25%"},
        "ema": {"state_dict": old, "state_dict_ema": s},
        "ema_model": {"model": old, "model_ema": prefixed(s, "module.")},
        "namespace": {"state_dict": s, "args": argparse.Namespace(lr=0.1, out="x")},
        "lightning": {
            "state_dict": prefixed(s, "model."),
            "pytorch-lightning_version": "2.5.5",
            "hyper_parameters": {"lr": 0.1},
            "callbacks": {},
        },
        "lightning_net": {"state_dict": prefixed(s, "net."), "epoch": 1},
        "data_parallel": prefixed(s, "module."),
        "compiled": prefixed(s, "_orig_mod."),
        "compiled_parallel": {"model": prefixed(s, "module._orig_mod.")},
        "averaged": {"n_averaged": torch.tensor(7), **prefixed(s, "module.")},
        "nested": {"checkpoint": {"model": {"state_dict": s}}}["checkpoint"],
        "half": {key: v.half() if v.is_floating_point() else v for key, v in s.items()},
        "grad": {
            key: torch.nn.Parameter(v) if v.is_floating_point() else v
            for key, v in s.items()
        },
        "with_loss": {
            "state_dict": {
                **prefixed(s, "model."),
                "criterion.weight": torch.ones(5),
                "train_acc.total": torch.tensor(3),
            }
        },
    }[name]


LAYOUTS = (
    *("bare", "state_dict", "model", "model_state_dict", "net", "released"),
    *("released_tensors", "released_numpy", "released_text", "ema", "ema_model"),
    *("namespace", "lightning", "lightning_net", "data_parallel", "compiled"),
    *("compiled_parallel", "averaged", "nested", "half", "grad", "with_loss"),
)
_CODES = {"float32": "F32", "bfloat16": "BF16", "int64": "I64", "float16": "F16",
          "float8_e4m3fn": "F8_E4M3"}  # fmt: skip


def safetensors_bytes(state, metadata=None):
    """A .safetensors file, of any type that NumPy has with ml_dtypes."""
    header, data = {}, b""
    if metadata:
        header["__metadata__"] = metadata
    for key, value in state.items():
        raw = np.ascontiguousarray(value).tobytes()
        header[key] = {
            "dtype": _CODES[value.dtype.name],
            "shape": list(value.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def as_type(state, dtype):
    dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    return {
        key: value.astype(dtype) if value.dtype == np.float32 else value
        for key, value in state.items()
    }
