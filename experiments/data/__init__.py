"""Real and procedural images as host arrays, read without TensorFlow."""

from experiments.data.base import DataError, Split, require
from experiments.data.loading import load_split
from experiments.data.presets import Preset, preset

__all__ = [
    "DataError",
    "Preset",
    "Split",
    "load_split",
    "preset",
    "require",
]
