r"""TGR from a folder of models: their weights, and nothing else.

    python experiments/run.py --config=experiments/configs/tgr.py \
        --workdir=runs/tgr --config.zoo.path=MODELS

Recovers images from every teacher that gives gradients, asks it about its own, groups
the teachers by what their images ask of an untrained probe, and meta-learns from groups
of dissimilar ones.  Teachers of ``--config.way`` classes and more, of any network; of
one with more classes each step takes as many, drawn anew.  Teachers of very many
classes need ``--config.recover.images_per_teacher`` as large as ``tasks.per_class``
times their number.  ``--config.recover.reuse=RUN`` takes images and answers of a panel
run; those started from dead leaves hardly show their classes after few steps
(docs/results/comparison.md).  ``--config.data.path=DIR`` measures the result on real
images.

Variants: ``:cpu`` shortened for two CPU cores, ``:reference`` the released code's
behaviour (without its ImageNet probe: give one, ``--config.groups.probe=MODEL``),
``:smoke`` a minute on procedural images with a small zoo of its own, ``:seed=N``;
several are joined by commas.  `tgr_cifar_fs_5w1s.py` is this on a benchmark.

Reference: Wei et al., "Task Groupings Regularization: Data-Free Meta-Learning with
Heterogeneous Pre-trained Models", ICML 2024.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import ml_collections

from experiments.configs import panel
from experiments.configs.variants import SMOKE, adam, make, parse_variant
from experiments.methods import tgr
from free_jax.inversion import GeneratorOptions, Objective, Recipe

# One generator a teacher, as the released codes have it.
GENERATOR = Recipe(
    source="generator",
    num_steps=200,
    optimizer=adam(1e-3, b1=0.5),
    decay="none",
    keep="best",
    generator=GeneratorOptions(labels="none", optimizer=adam(1e-3, b1=0.5)),
    objective=Objective(moments=1.0, augment_per_image=False),
)

# With many teachers a class every class still has images of several.
CPU: dict[str, Any] = {
    "num_steps": 150,
    "recover.images_per_class": 8,
    "recover.inversion.num_steps": 25,
    "tasks.per_class": 8,
    "tgr.replay_from": "all",
    "eval.every_steps": 50,
    "eval.val_episodes": 50,
    "replay.episodes_per_update": 4,
    "replay.max_updates": 5,
}

# The released code where it is well defined
# (docs/reference/released_codes.md).  Its images are recovered anew in each
# step, ours once; its probe is not ours to give.  A teacher is embedded by its 150
# images in one batch; released: by 3,000 of its own in 5 batches.
RELEASED: dict[str, Any] = {
    "seed": 42,
    "num_steps": 1200,
    "recover.images_per_class": 30,
    "recover.inversion": GENERATOR,
    "tasks.per_class": 30,
    "tasks.views": 8,
    "tasks.view_per_image": False,
    "groups.fisher": "batch",
    "groups.batch_size": 600,
    "groups.epsilon": 1e-6,
    "tgr.replacement": True,
    "tgr.distill": "prob_dot",
    "tgr.replay_from": "drawn",
    "optimizer": adam(1e-3),
    "replay.episodes_per_update": 16,
    "replay.augment": False,
}

SMALL = (
    SMOKE
    | panel.SMALL_RECOVERY
    | {
        "tasks.per_class": 4,
        "groups.num_groups": 2,
        "tgr.teachers_per_step": 2,
        "replay.episodes_per_update": 2,
        "replay.max_updates": 2,
        "replay.queries": 3,
    }
)


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
    chosen = parse_variant(variant)
    return make(
        tgr.Config,
        data,
        RELEASED if chosen.reference else {},
        CPU if chosen.cpu else {},
        {"replay.shots": shots, "eval.shots": (shots,)},
        SMALL if chosen.smoke else {},
        seed=chosen.seed,
    )
