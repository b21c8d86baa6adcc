"""Torch modules from what files say: Hugging Face, timm, torchvision.

Each file imports its package when it is called; all need ``free_jax[convert]``.
"""

from free_jax.interop.frameworks.timm import timm_module
from free_jax.interop.frameworks.torchvision import torchvision_module
from free_jax.interop.frameworks.transformers import huggingface_module

__all__ = ["huggingface_module", "timm_module", "torchvision_module"]
