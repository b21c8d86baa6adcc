"""Real and procedural images as host arrays, read without TensorFlow."""

from experiments.data.base import DataError, Split, require
from experiments.data.loading import list_split, load_split, needs_no_path
from experiments.data.presets import Preset, preset

__all__ = [
    "DataError",
    "Preset",
    "Split",
    "list_split",
    "load_split",
    "needs_no_path",
    "preset",
    "require",
]
