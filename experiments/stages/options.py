"""The section of a config that says where the images of a run come from."""

from typing import Annotated, NamedTuple

from experiments.harness.sections import Flat
from free_jax.panel import RecoverOptions


class Recovery(NamedTuple):
    """Images recovered before the first step, or those of an earlier run.

    Attributes:
      anew: what is recovered in this run; its images are of the meta-model's size
        unless it says one.
      reuse: workdir of an earlier panel run: its images and answers are taken, as they
        were made there, whatever this config says of inversions.
      against: workdir of an earlier panel run: its images and answers are kept, and
        more are recovered where its model and a teacher disagree.
    """

    anew: Annotated[RecoverOptions, Flat()] = RecoverOptions()
    reuse: str = ""
    against: str = ""
