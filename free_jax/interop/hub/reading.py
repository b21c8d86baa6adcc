"""What the readers of all kinds return, before it becomes a card."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from free_jax.interop.hub.consent import Consent
from free_jax.interop.hub.facts import Fact, Facts
from free_jax.interop.hub.options import HubOptions
from free_jax.interop.hub.table import Row
from free_jax.interop.hub.walk import Candidate
from free_jax.types import PyTree


class Setting(NamedTuple):
    """One model in its surroundings.

    Attributes:
      candidate: where it is.
      root: the folder of models.
      row: what the table says of it.
      consent: whose code may run.
      options: of the whole reading.
    """

    candidate: Candidate
    root: pathlib.Path
    row: Row
    consent: Consent
    options: HubOptions

    @property
    def name(self) -> str:
        """The name of the weight file, for sources and errors."""
        return self.candidate.file.name

    @property
    def names(self) -> tuple[str, ...]:
        """What the user may call the model: its path, and those of its files."""
        return (self.candidate.path, *self.candidate.files)


class Converted(NamedTuple):
    """A network of free_jax with weights.

    Attributes:
      name: of `models.model_names()`.
      num_classes: outputs.
      variables: NumPy arrays.
      fields: further fields of the module.
      gives: what can be had besides logits.
      framework: the torch module that it was made from, where there is one.
      remark: what is worth knowing.
    """

    name: str
    num_classes: int
    variables: PyTree
    fields: Mapping[str, Any]
    gives: frozenset[str]
    framework: Any = None
    remark: str = ""


class Reading(NamedTuple):
    """What one reader found.

    Attributes:
      kind: see `card.KINDS`.
      recognised: the network in words.
      channels: of its images.
      facts: what files say of the images.
      labels: names of the outputs by files, in order of trust.
      convert: from (c, h, w) of its images to the network with weights.
      guessed_size: usual for the family; None: ImageNet's.
      class_ids: of the released layouts.
      accuracy: held out; nan: unknown.
      digest: of the weights.
      sources: further sources, "network", "weights".
      consent: SHA-256 of files whose code was run.
    """

    kind: str
    recognised: str
    channels: int
    facts: Facts
    labels: list[Fact | None]
    convert: Callable[[tuple[int, int, int]], Converted]
    guessed_size: int | None = None
    class_ids: tuple[int, ...] | None = None
    accuracy: float = float("nan")
    digest: str = ""
    sources: Mapping[str, str] = {}
    consent: Mapping[str, str] = {}
