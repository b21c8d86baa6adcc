"""Sections of a config that say what a run is judged by, and what its table holds."""

from typing import Annotated, Literal, NamedTuple

from free_jax.baselines import BASELINES
from free_jax.options import AtLeast, NotEmpty, OneOf, Positive

Shots = Annotated[
    tuple[Annotated[int, AtLeast(1)], ...], NotEmpty("give at least one, as (1,)")
]


class EvalOptions(NamedTuple):
    """How a run is judged while it goes on, and evaluated once at its end.

    Attributes:
      shots: support images a class, of the episodes of the final table.
      queries: query images a class.
      split: classes of the final table; "val" for ablations.
      episodes: of each row of the table.
      every_steps: between two judgements in training.
      val_episodes: of a judgement on validation classes; 0 leaves it out.
      select: which model is kept: of the "last" step, or the best on "pseudo" tasks of
        recovered images or on "val"idation classes; never test.
      protocol: the one that selection looks at.
      baselines: rows of the table beside the method's own.
      temperature: of the softmax of a panel of teachers.
      also: further folders of real images that the finished model is measured on, as
        ``NAME:PATH,...``; each holds class folders, or a folder of them named as
        `split`.  Nothing else of the run sees them.
    """

    shots: Shots = (1,)
    queries: Annotated[int, AtLeast(1)] = 15
    split: Literal["test", "val"] = "test"
    episodes: Annotated[int, AtLeast(1)] = 600
    every_steps: Annotated[int, AtLeast(1)] = 20
    val_episodes: Annotated[int, AtLeast(0)] = 100
    select: Annotated[str, OneOf(("last", "pseudo", "val"), "never test")] = "last"
    protocol: Literal["transductive", "inductive"] = "transductive"
    baselines: tuple[Annotated[str, OneOf(tuple(BASELINES))], ...] = (
        "random",
        "average",
        "teacher",
        "finetune",
        "panel",
    )
    temperature: Annotated[float, Positive()] = 4.0
    also: str = ""


class TableOptions(NamedTuple):
    """The episodes that all methods of a comparison share.

    Attributes:
      shots: support images a class.
      queries: query images a class.
      split: classes of the episodes.
      episodes: of each cell.
      temperature: of the softmax of a panel of teachers.
      also: further folders of real images that all cells are measured on, see
        `EvalOptions`.
    """

    shots: Shots = (1, 5, 10, 20)
    queries: Annotated[int, AtLeast(1)] = 15
    split: Literal["test", "val"] = "test"
    episodes: Annotated[int, AtLeast(1)] = 600
    temperature: Annotated[float, Positive()] = 4.0
    also: str = ""
