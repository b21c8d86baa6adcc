r"""PURER from a folder of models: their weights, and nothing else.

    python experiments/run.py --config=experiments/configs/purer.py \
        --workdir=runs/purer --config.zoo.path=MODELS

Teachers of ``--config.way`` classes and more, of any network: each step asks a teacher
about as many of its classes.  The meta-model's images are of the size that most of them
see.  ``--config.data.path=DIR`` measures the result on real images,
{train,val,test}/<class>/*; without it the model is the same.

Variants: ``:cpu``, ``:reference``, ``:pool=disjoint13``, ``:learner=anil`` or
``protonet``, ``:start=average``, ``:calibrate``, ``:smoke``, ``:seed=N``;
`purer_cifar_fs_5w1s.py` explains them, and is this on a benchmark.

Reference: Hu et al., "Architecture, Dataset and Model-Scale Agnostic Data-free
Meta-Learning", CVPR 2023.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import ml_collections

from experiments.configs.variants import (
    DEFAULTS,
    SMOKE,
    adam,
    make,
    parse_variant,
)
from experiments.methods import purer

VARIANTS = {
    **DEFAULTS,
    "learner": "maml",
    "pool": "all",
    "start": "random",
    "calibrate": False,
}

# PURER's released code on disjoint teachers, PURER-Plus's on the whole pool.
RELEASED: dict[str, Any] = {"seed": 2022, "recover.weighting": "prefix"}
RELEASED_DISJOINT: dict[str, Any] = {
    "init": "average",
    "inversion.optimizer": adam(0.25),
    "learner.train_steps": 1,
    "learner.test_steps": 1,
    "curriculum.opening": "adversarial",
}
RELEASED_PLUS: dict[str, Any] = {
    "inversion.optimizer": adam(0.01),
    "recover.label_order": "sorted",
    "replay.split": "fixed",
    "curriculum.opening": "patience",
}

# For one CPU core: some five minutes of training, a 240th of the full length.  A class
# is inverted some 80 times, so pixels start nearer to the mean image and the meta-model
# moves faster; the loss is PURER's.
CPU: dict[str, Any] = {
    "num_steps": 250,
    "recover.teachers_per_step": 4,
    "inversion.optimizer": adam(0.1),
    "inversion.deviation": 0.2,
    "optimizer": adam(3e-3),
    "replay.augment": True,
    "curriculum.after_steps": 60,
    "eval.every_steps": 125,
}

SMALL = SMOKE | {
    "recover.teachers_per_step": 2,
    "curriculum.after_steps": 1,
    "curriculum.patience": 1,
    "replay.episodes_per_update": 2,
}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a variant."""
    return from_variant(variant)


def from_variant(
    variant: str,
    shots: int = 1,
    data: Mapping[str, Any] = MappingProxyType({}),
) -> ml_collections.ConfigDict:
    """The config of a variant, for episodes of `shots` images a class.

    Args:
      variant: after the colon.
      shots: of the evaluation, and of replay.
      data: keys of the config that name a benchmark.
    """
    chosen = parse_variant(variant, **VARIANTS)
    disjoint = pool_size(chosen.pool)
    released = RELEASED | (RELEASED_DISJOINT if disjoint else RELEASED_PLUS)
    return make(
        purer.Config,
        data,
        {
            "recover.images_per_class": shots + 15,
            "replay.shots": shots,
            "eval.shots": (shots,),
            "learner.kind": chosen.learner,
            "init": chosen.start,
            "recover.disjoint": disjoint,
        },
        {"recover.teachers_per_step": disjoint} if disjoint else {},
        released if chosen.reference else {},
        CPU if chosen.cpu else {},
        {"icfil.num_steps": 5} if chosen.calibrate else {},
        SMALL if chosen.smoke else {},
        seed=chosen.seed,
    )


def pool_size(pool: str) -> int:
    """Teachers of a pool without shared classes: "disjoint13" is 13, "all" is 0."""
    number = pool.removeprefix("disjoint")
    if pool == "all":
        return 0
    if number == pool or not number.isdigit():
        raise ValueError(f"pool={pool!r}: choose all or disjointN, as disjoint13")
    return int(number)
