"""Sections of a config that every run has: its log and its checkpoints."""

from typing import Annotated, Literal, NamedTuple

from free_jax.options import AtLeast

# Computation of networks; parameters, batch statistics and outputs stay float32.
Dtype = Literal["float32", "bfloat16"]


class LogOptions(NamedTuple):
    """What is written while a run goes on.

    Attributes:
      every_steps: between two rows of metrics.jsonl.
      every_secs: between two status lines.
      tensorboard: write the metrics for TensorBoard as well.
    """

    every_steps: Annotated[int, AtLeast(1)] = 1
    every_secs: float = 10.0
    tensorboard: bool = False


class CheckpointOptions(NamedTuple):
    """When a run's state is saved, besides its end and a request to stop.

    Attributes:
      every_steps: 0 goes by time alone.
      every_secs: 0 goes by steps alone.
    """

    every_steps: Annotated[int, AtLeast(0)] = 0
    every_secs: Annotated[float, AtLeast(0)] = 60.0
