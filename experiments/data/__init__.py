"""Real and procedural images as host arrays, read without TensorFlow."""

from experiments.data.base import DataError
from experiments.data.base import Split
from experiments.data.base import held_out_part
from experiments.data.base import require
from experiments.data.base import train_part
from experiments.data.loading import load_split
from experiments.data.presets import Preset
from experiments.data.presets import preset

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
