"""Images renewed where a distilled model and its teachers disagree.

The adversarial idea of FIVE against a whole panel: an earlier run's images and answers
are kept, and new images are recovered of which that run's model says the same class as
the teacher it learned from, but with other probabilities (`objectives.agreement_rows`).
"""

import dataclasses
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from experiments.harness import chunks, results
from experiments.stages import reuse
from free_jax import inversion, model_io
from free_jax import zoo as zoo_lib
from free_jax.errors import InputError
from free_jax.types import PyTree
from free_jax.zoo.network import Network


class EarlierStudent(NamedTuple):
    """The distilled model of an earlier run, which new images should be new to.

    Attributes:
      network: its network with one teacher's outputs.
      params: its parameters without the head.
      stats: its running batch-norm statistics.
      heads: [T, ...] a head for each teacher of the zoo.
      weights: [T] how far each was trusted; images need not be new to what
        was never learned.
      number: of earlier rounds, 1 for a model of images recovered without one.
    """

    network: Network
    params: PyTree
    stats: PyTree
    heads: PyTree
    weights: np.ndarray
    number: int

    def adversaries(self) -> inversion.Adversaries:
        """What images are recovered to be new to."""
        return inversion.Adversaries(self.network, self.of_teachers)

    def of_teachers(self, index: np.ndarray) -> inversion.Adversary:
        """A stack of adversaries, one for each teacher of `index`."""
        count = len(index)
        heads = jax.tree.map(lambda x: x[index], self.heads)
        params, stats = jax.tree.map(
            lambda x: np.broadcast_to(x, (count, *x.shape)), (self.params, self.stats)
        )
        return inversion.Adversary(
            {**params, "head": heads}, jnp.asarray(self.weights[index]), stats
        )


def earlier(against: str) -> str:
    """The run whose images and answers are kept, or the empty string."""
    # Noted in files, which may be read from elsewhere.
    return against if "://" in against or not against else os.path.abspath(against)


def seconds(folder: str) -> float:
    """What a finished run took, with those it renewed.

    Raises:
      InputError: it has not finished.
    """
    file = epath.Path(folder) / results.RESULT_FILE
    try:
        return float(results.read_result(file)["seconds"])
    except (OSError, ValueError, KeyError):
        raise InputError(
            f"config.recover: images of {folder} are used, but {file} is "
            "not the result of a finished run; let it finish first"
        ) from None


def seconds_before(place: str) -> float:
    """Seconds of recovering and asking in a folder, and of making the student."""
    before = reuse.lineage(place)[:-1]
    made = seconds(before[-1]) if before else 0.0
    asking = chunks.seconds_spent(place, "described")
    return made + reuse.seconds_recovering(place) + asking


def earlier_student(against: str, zoo: zoo_lib.Zoo) -> EarlierStudent | None:
    """The model of an earlier run's folder, or None where no folder is named.

    Raises:
      InputError: no model is there, or it was not distilled from all teachers of `zoo`.
    """
    folder = earlier(against)
    if not folder:
        return None
    path = f"{folder}/model.npz"
    source, variables, _ = model_io.load_model(path)
    if "descriptions" not in variables:
        raise InputError(
            f"config.recover.against: {path} was not distilled from a panel; give the "
            "workdir of a panel run"
        )
    count = zoo.num_teachers
    if source.num_classes != count * zoo.way:
        raise InputError(
            f"config.recover.against: {path} has {source.num_classes} outputs, "
            f"not {zoo.way} for each of the {count} teachers; give a run that "
            "asked all of them"
        )
    params = dict(variables["params"])
    heads = jax.tree.map(
        lambda x: x.reshape(*x.shape[:-1], count, zoo.way), params.pop("head")
    )
    return EarlierStudent(
        network=dataclasses.replace(source, num_classes=zoo.way),
        params=params,
        stats=variables["batch_stats"],
        heads=jax.tree.map(lambda x: np.moveaxis(np.asarray(x), -2, 0), heads),
        weights=np.asarray(variables["descriptions"]["weights"]),
        number=len(reuse.lineage(folder)),
    )


def kept(against: str, zoo: zoo_lib.Zoo, asked: np.ndarray) -> reuse.Known | None:
    """Images and answers of the earlier run and of those that it renewed, if any.

    Raises:
      InputError: there are none, they are of other teachers, or it has not finished.
    """
    folder = earlier(against)
    if not folder:
        return None
    seconds(folder)
    return reuse.everything("against", folder, zoo, asked)


def check_size(against: str, known: reuse.Known, size: int) -> None:
    """Refuses images of another size than new ones: they could not be put together.

    Args:
      against: as in the config.
      known: its images and answers.
      size: of the images that are added.

    Raises:
      InputError: names both.
    """
    height = known[0].images.shape[1]
    if height != size:
        raise InputError(
            f"config.recover.against={against}: its images have {height} pixels, those "
            f"that are recovered here {size}; set --config.recover.image_size={height}"
        )
