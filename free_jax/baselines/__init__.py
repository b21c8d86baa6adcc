"""Baselines: what teachers give without any meta-training, in one table.

Every entry of `BASELINES` is measured on the same episodes from the same `Setting`:

    setting = baselines.make_setting(key, bank, zoo, student=student, learner=learner)
    scores = baselines.BASELINES["panel_heads"].run(setting)
    print(scores["inductive"])  # mean and 95 % interval over episodes
"""

from collections.abc import Callable
from typing import NamedTuple

from free_jax.baselines import average, ensemble, hypernetwork, teacher, transport
from free_jax.baselines.average import average_params
from free_jax.baselines.hypernetwork import (
    FusionInfo,
    FusionState,
    flatten,
    perturbed,
    predict,
    robust_hypernetwork,
    robust_params,
)
from free_jax.baselines.setting import (
    NotApplicable,
    Programs,
    Scores,
    Setting,
    evaluate,
    evaluation_key,
    make_setting,
    programs,
)
from free_jax.baselines.transport import align, fuse, transported_params


class Baseline(NamedTuple):
    """A row of the table.

    Attributes:
      label: the row's name.
      needs: what of a setting it takes, in words.
      run: ``Setting -> Scores``; raises `NotApplicable` with the reason where the
        setting cannot give it.
    """

    label: str
    needs: str
    run: Callable[[Setting], Scores]


BASELINES: dict[str, Baseline] = {
    "random": Baseline(
        "random initialisation", "a learner", average.scores_of_random_weights
    ),
    "average": Baseline(
        "teacher average",
        "weights of the meta-model's network, a learner",
        average.scores,
    ),
    "ota": Baseline(
        "teachers fused by optimal transport (OTA)",
        "weights of chains of convolutions, a learner, the package POT",
        transport.scores,
    ),
    "dro": Baseline(
        "teachers fused by a robust hyper-network (DRO)",
        "weights of the meta-model's network, a learner",
        hypernetwork.scores,
    ),
    "teacher": Baseline("one teacher, centroids", "features", teacher.one_teacher),
    "best": Baseline(
        "most central teacher, centroids", "features", teacher.central_teacher
    ),
    "finetune": Baseline(
        "one teacher, new head",
        "weights of the meta-model's network, a learner",
        teacher.fine_tuned_teacher,
    ),
    "panel": Baseline(
        "panel of all teachers, centroids", "answers", ensemble.centroids
    ),
    "panel_heads": Baseline(
        "panel of all teachers, ridge / soft k-means",
        "answers",
        ensemble.ridge_and_soft_kmeans,
    ),
    "panel_whitened": Baseline(
        "panel of all teachers, whitened, ridge / soft k-means",
        "answers",
        ensemble.whitened,
    ),
}

__all__ = [
    "BASELINES",
    "Baseline",
    "FusionInfo",
    "FusionState",
    "NotApplicable",
    "Programs",
    "Scores",
    "Setting",
    "align",
    "average_params",
    "ensemble",
    "evaluate",
    "evaluation_key",
    "flatten",
    "fuse",
    "make_setting",
    "perturbed",
    "predict",
    "programs",
    "robust_hypernetwork",
    "robust_params",
    "teacher",
    "transported_params",
]
