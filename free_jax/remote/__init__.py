"""Teachers that can only be queried: clients, counts, and a zoo made of them."""

from free_jax.remote.answers import Card, EndpointSpec, to_logits
from free_jax.remote.client import Client, EndpointError, Trouble
from free_jax.remote.hub import Hub, Patience
from free_jax.remote.ledger import Ledger
from free_jax.remote.onnx_file import OnnxFile
from free_jax.remote.open_inference import OpenInference
from free_jax.remote.zoo import Normalization, remote_zoo

__all__ = [
    "Card",
    "Client",
    "EndpointError",
    "EndpointSpec",
    "Hub",
    "Ledger",
    "Normalization",
    "OnnxFile",
    "OpenInference",
    "Patience",
    "Trouble",
    "remote_zoo",
    "to_logits",
]
