"""Folders of classifiers as model hubs have them: read, shown, made a zoo."""

from free_jax.interop.hub.card import Card
from free_jax.interop.hub.folder import (
    Survey,
    fingerprint,
    output_names,
    read_folder,
    read_zoo,
    survey,
    zoo_of,
)
from free_jax.interop.hub.loading import load_zoo
from free_jax.interop.hub.options import HubOptions

__all__ = [
    "Card",
    "HubOptions",
    "Survey",
    "fingerprint",
    "load_zoo",
    "output_names",
    "read_folder",
    "read_zoo",
    "survey",
    "zoo_of",
]
