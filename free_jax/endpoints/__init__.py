"""Teachers that can only be queried: clients, counts, and a zoo made of them."""

from free_jax.endpoints.answers import Card, to_logits
from free_jax.endpoints.client import Client, Trouble
from free_jax.endpoints.hub import Hub, Patience
from free_jax.endpoints.ledger import Ledger
from free_jax.endpoints.onnx_file import OnnxFile
from free_jax.endpoints.open_inference import OpenInference
from free_jax.endpoints.zoo import Normalization, hub_of, remote_zoo

__all__ = [
    "Card",
    "Client",
    "Hub",
    "Ledger",
    "Normalization",
    "OnnxFile",
    "OpenInference",
    "Patience",
    "Trouble",
    "hub_of",
    "remote_zoo",
    "to_logits",
]
