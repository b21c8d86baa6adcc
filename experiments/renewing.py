"""Images renewed where a distilled model and its teachers disagree.

The adversarial idea of FIVE against a whole panel: an earlier run's images and answers
are kept, and new images are recovered on which that run's model contradicts, or is less
sure than, the teacher it learned from.
"""

import dataclasses
import json
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from experiments import reusing
from experiments.chunks import Pool
from free_jax import inversion, model_io
from free_jax import zoo as zoo_lib
from free_jax.architecture import Architecture
from free_jax.errors import InputError
from free_jax.types import PyTree


class Rival(NamedTuple):
    """A distilled model that new images should be new to.

    Attributes:
      student: its architecture with one teacher's outputs.
      params: its parameters without the head.
      stats: its running batch-norm statistics.
      heads: [T, ...] a head for each teacher of the zoo.
      weights: [T] how far each was trusted; what was never learned is no rival.
    """

    student: Architecture
    params: PyTree
    stats: PyTree
    heads: PyTree
    weights: np.ndarray

    def of_teachers(self, index: np.ndarray) -> inversion.Adversary:
        """A stack of adversaries, one for each teacher of `index`."""
        count = len(index)
        heads = jax.tree.map(lambda x: x[index], self.heads)
        params, stats = jax.tree.map(
            lambda x: np.broadcast_to(x, (count, *x.shape)), (self.params, self.stats)
        )
        return inversion.Adversary(
            {**params, "head": heads}, self.weights[index], stats
        )


def folders(config: Any) -> list[str]:
    """Working directories whose images are kept, oldest first."""
    named = config.get("recover", {}).get("renew", "")
    return [name for name in named.split(",") if name]


def seconds_before(config: Any) -> float:
    """What the last of the earlier runs took, its own earlier runs included.

    Raises:
      InputError: it has not finished.
    """
    if not folders(config):
        return 0.0
    file = epath.Path(folders(config)[-1]) / "result.json"
    try:
        return float(json.loads(file.read_text())["seconds"])
    except (OSError, ValueError, KeyError):
        raise InputError(
            f"config.recover.renew: {file} is not the result of a finished run; let it "
            "finish first"
        ) from None


def rival(config: Any, zoo: zoo_lib.Zoo) -> Rival | None:
    """The model of the last of ``config.recover.renew``, or None if there is none.

    Raises:
      InputError: no model is there, or it was not distilled from all teachers of `zoo`.
    """
    if not folders(config):
        return None
    path = f"{folders(config)[-1]}/model.npz"
    source, variables, _ = model_io.load_model(path)
    count = zoo.num_teachers
    if "descriptions" not in variables or source.way != count * zoo.way:
        raise InputError(
            f"config.recover.renew: {path} has {source.way} outputs, not {zoo.way} for "
            f"each of the {count} teachers; give the workdir of a panel run that asked "
            "all of them"
        )
    params = dict(variables["params"])
    heads = jax.tree.map(
        lambda x: x.reshape(*x.shape[:-1], count, zoo.way), params.pop("head")
    )
    return Rival(
        student=dataclasses.replace(source, way=zoo.way),
        params=params,
        stats=variables["batch_stats"],
        heads=jax.tree.map(lambda x: np.moveaxis(np.asarray(x), -2, 0), heads),
        weights=np.asarray(variables["descriptions"]["weights"]),
    )


def kept(
    config: Any, zoo: zoo_lib.Zoo, asked: np.ndarray
) -> list[tuple[Pool, np.ndarray]]:
    """Images and answers of the earlier runs, oldest first.

    Raises:
      InputError: a run has none, those of other teachers, or has not finished.
    """
    seconds_before(config)
    return [reusing.everything("renew", name, zoo, asked) for name in folders(config)]


def joined(parts: list[tuple[Pool, np.ndarray]]) -> tuple[Pool, np.ndarray]:
    """All images and answers, in this order."""
    pools, answers = zip(*parts, strict=True)
    return Pool(*map(np.concatenate, zip(*pools, strict=True))), np.concatenate(answers)
