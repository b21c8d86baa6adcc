"""PyTorch checkpoints of the released codes, in and out; imported without torch."""

from free_jax.interop.torch_files import read_checkpoint
from free_jax.interop.torch_folder import convert_folder
from free_jax.interop.torch_weights import (
    detect,
    from_state_dict,
    generator_from_state_dict,
    generator_to_state_dict,
    to_state_dict,
)

__all__ = [
    "convert_folder",
    "detect",
    "from_state_dict",
    "generator_from_state_dict",
    "generator_to_state_dict",
    "read_checkpoint",
    "to_state_dict",
]
