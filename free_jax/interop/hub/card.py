"""One model of a folder: what it is, how it was read, or why it was left out."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from free_jax.interop.hub.preprocessing import Preprocessing
from free_jax.types import PyTree
from free_jax.zoo.network import Network

KINDS = (
    "huggingface",
    "timm",
    "torchvision",
    "checkpoint",
    "lightning",
    "torch_export",
    "onnx",
    "released",
    "module",
    "torchscript",
)


class Card(NamedTuple):
    """A line of the table.

    Attributes:
      path: of the model in its folder of models: a folder that holds one model, else a
        file.
      kind: one of `KINDS`.
      message: why it was left out and what to do; for a model that is used, what is
        worth knowing.
      network: None where the model was left out.
      variables: of `network`, NumPy arrays.
      class_names: of its outputs, None where unsaid; `None` in place of a name that
        says nothing.
      class_ids: absolute ids that files of one folder share (the released layouts).
      preprocessing: from a photograph to the network.
      sources: field to where it was found: "file:key", the table, "guessed".
      accuracy: held out, in [0, 1]; nan: unknown.
      licence: as its files state it, see `licence`; "": they state none.
      recognised: the network in words, e.g. "resnet18 (torchvision)".
      files: the weight files, relative to the folder of models.
      digest: of its weights: equal ones are one model.
      consent: SHA-256 of each file whose code was run with consent.
      framework: the original module, where it was made: for `check`.
      network_difference, reference_difference: see `check`; None: not measured.
    """

    path: str
    kind: str
    message: str = ""
    network: Network | None = None
    variables: PyTree = None
    class_names: tuple[str | None, ...] | None = None
    class_ids: tuple[int, ...] | None = None
    preprocessing: Preprocessing | None = None
    sources: Mapping[str, str] = {}
    accuracy: float = float("nan")
    licence: str = ""
    recognised: str = ""
    files: tuple[str, ...] = ()
    digest: str = ""
    consent: Mapping[str, str] = {}
    framework: Any = None
    network_difference: float | None = None
    reference_difference: float | None = None

    @property
    def used(self) -> bool:
        """Whether the model becomes a teacher."""
        return self.network is not None

    @property
    def guessed(self) -> tuple[str, ...]:
        """Fields that no file and no table says."""
        return tuple(k for k, source in self.sources.items() if source == "guessed")

    @property
    def guessed_preprocessing(self) -> tuple[str, ...]:
        """Those of `guessed` that say how a photograph becomes the network's input."""
        return tuple(k for k in self.guessed if k in Preprocessing._fields)
