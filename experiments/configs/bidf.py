r"""BiDf-MKD from a folder of models that are only asked, or from endpoints.

    python experiments/run.py --config=experiments/configs/bidf.py \
        --workdir=runs/bidf --config.zoo.path=MODELS

Teachers of ``--config.way`` classes and more, of any network: each step asks a teacher
about as many of its classes.  The meta-model's images are of the size that most of them
see.  ``--config.data.path=DIR`` measures the result on real images,
{train,val,test}/<class>/*; without it the model is the same.

Variants: ``:api=SH`` several architectures, ``:api=MH`` several image sizes too;
``:white_box`` differentiates the teachers, for comparison; ``:cpu``, ``:reference``,
``:smoke``, ``:seed=N``.  `bidf_cifar_fs_5w1s.py` is this on a benchmark, with hours and
figures.

Reference: Hu et al., "Learning to Learn from APIs: Black-Box Data-Free Meta-Learning",
ICML 2023.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import ml_collections

from experiments.configs.variants import SMOKE, adam, make, parse_variant
from experiments.methods import bidf

# For one CPU core: some ten minutes in place of hours.
CPU: dict[str, Any] = {
    "inversion.generator.width": 32,
    "num_steps": 24,
    "inversion.num_steps": 20,
    "recover.images_per_class": 10,
    "recover.boundary_after": 6,
    "replay.max_updates": 40,
    "eval.every_steps": 4,
    "eval.val_episodes": 50,
    "eval.baselines": ("random",),
}

# BiDf-MKD's released code where it is well defined (B1 to B9,
# docs/reference/released_codes.md).
RELEASED: dict[str, Any] = {
    "seed": 2022,
    "inversion.generator.labels": "none",
    "recover.generator_init": "fresh",
    "inversion.num_steps": 200,
    "recover.boundary_after": 20,
    "inversion.generator.optimizer": adam(1e-3, b1=0.5),
    "inversion.optimizer": adam(1e-3, b1=0.5),
    "inversion.keep": "best",  # by loss; the code's surrogate is an arbitrary number
    "inversion.objective.agreement": "l1",
    "inversion.objective.student_gradient": False,
    "inversion.objective.augment_per_image": False,
    "inversion.estimator.num_directions": 100,
    "inversion.estimator.smoothing": 0.005,
    "inversion.estimator.frequencies": 0,
    "inversion.estimator.at_once": 20,
    "distill.loss": "prob_dot",
    "optimizer": adam(1e-3),
    "replay.augment": False,
    "replay.max_updates": 2000,
}

SMALL = SMOKE | {
    "replay.max_updates": 2,
    "replay.episodes_per_update": 2,
    "inversion.generator.width": 8,
    "inversion.num_steps": 3,
    "recover.images_per_class": 10,
    "recover.boundary_after": 2,
    "memory.per_class": 40,
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
    chosen = parse_variant(
        variant,
        smoke=False,
        reference=False,
        cpu=False,
        white_box=False,
        api="SS",
        seed=-1,
    )
    if chosen.api not in ("SS", "SH", "MH"):
        raise ValueError(f"api={chosen.api!r}: choose SS, SH or MH")
    return make(
        bidf.Config,
        data,
        # Teachers are shown the size they know; the meta-model takes any.
        {"student.kwargs.global_pool": True} if chosen.api == "MH" else {},
        CPU if chosen.cpu else {},
        RELEASED if chosen.reference else {},
        {"inversion.estimator.teachers": "none"} if chosen.white_box else {},
        {"replay.shots": 1 if chosen.cpu else shots, "eval.shots": (shots,)},
        SMALL if chosen.smoke else {},
        seed=chosen.seed,
    )
