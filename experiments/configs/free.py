r"""FREE from a folder of models: their weights, and nothing else.

    python experiments/run.py --config=experiments/configs/free.py \
        --workdir=runs/free --config.zoo.path=MODELS

Teachers of ``--config.way`` classes and more, of any network: each step asks a teacher
about as many of its classes.  The meta-model's images are of the size that most of them
see.  ``--config.data.path=DIR`` measures the result on real images,
{train,val,test}/<class>/*; without it the model is the same.

Variants: ``:cpu`` shortened for two CPU cores, ``:reference`` the released code's
behaviour, ``:smoke`` a minute on procedural images with a small zoo of its own,
``:seed=N``; several are joined by commas.  `free_cifar_fs_5w1s.py` is this on a
benchmark, with hours and figures.

Reference: Wei et al., "FREE: Faster and Better Data-Free Meta-Learning", CVPR 2024.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import ml_collections

from experiments.configs.variants import SMOKE, adam, make, parse_variant
from experiments.methods import free

# For two CPU cores: half an hour or so in place of a GPU's full length.  The generator
# is half as wide (four times cheaper), the warm-up shorter.
CPU = {
    "inversion.generator.width": 32,
    "num_steps": 80,
    "recover.warmup_steps": 12,
}

# Images that oppose the meta-model help in the first hundred steps and cost accuracy
# later (docs/results/free.md).
LONG = {"inversion.objective.adversarial": 0.0}

# FREE's released code where it is well defined (F1 to F8,
# docs/reference/released_codes.md).
RELEASED: dict[str, Any] = {
    "seed": 42,
    "inversion.generator.labels": "none",
    "inversion.generator.optimizer": adam(1e-3, b1=0.5),
    "inversion.optimizer": adam(1e-3, b1=0.5),
    "optimizer": adam(1e-3),
    "recover.outer_state": "fresh",
    "inversion.objective.moments": 0.0,
    "inversion.objective.adversarial": 1.0,
    "inversion.objective.agreement": "prob_dot",
    "inversion.objective.student_gradient": False,
    "inversion.objective.augment_per_image": False,
    "memory.store": "last",
    "align.distill": "prob_dot",
    "replay.augment": False,
}

SMALL = SMOKE | {
    "replay.max_updates": 2,
    "replay.episodes_per_update": 2,
    "inversion.generator.width": 8,
    "recover.warmup_steps": 2,
    "recover.teachers_per_step": 2,
    "memory.per_class": 40,
    "inversion.objective.adversarial": 1.0,  # All terms are tried.
}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a variant."""
    return from_variant(variant)


def from_variant(
    variant: str,
    shots: int = 1,
    replayed: int = 1,
    data: Mapping[str, Any] = MappingProxyType({}),
) -> ml_collections.ConfigDict:
    """The config of a variant, for episodes of `shots` images a class.

    Args:
      variant: after the colon.
      shots: of the evaluation, and of replay.
      replayed: shots of replay on a CPU's budget, where a 5-shot episode would cost
        five times a 1-shot one: the same time buys more learning with one shot.
      data: keys of the config that name a benchmark.
    """
    chosen = parse_variant(variant)
    return make(
        free.Config,
        data,
        CPU if chosen.cpu else LONG,
        RELEASED if chosen.reference else {},
        {"replay.shots": replayed if chosen.cpu else shots, "eval.shots": (shots,)},
        SMALL if chosen.smoke else {},
        seed=chosen.seed,
    )
