"""Weight files of model hubs -> arrays by name, without running what they may hold."""

from free_jax.interop.tensors.reading import read_tensors
from free_jax.interop.tensors.record import Checkpoint

__all__ = ["Checkpoint", "read_tensors"]
