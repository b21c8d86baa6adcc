"""Real and procedural images as host arrays, read without TensorFlow."""

from experiments.data.base import DataError, Split, held_out_part, require, train_part
from experiments.data.loading import load_split
from experiments.data.presets import Preset, preset

__all__ = [
    "DataError",
    "Preset",
    "Split",
    "held_out_part",
    "load_split",
    "preset",
    "require",
    "train_part",
]
