"""A trained model for others: weights, a config, a card, an ONNX file."""

from free_jax.release.folder import export
from free_jax.release.made_from import made_from
from free_jax.release.onnx_file import is_written, onnx_classifier, onnx_model

__all__ = ["export", "is_written", "made_from", "onnx_classifier", "onnx_model"]
