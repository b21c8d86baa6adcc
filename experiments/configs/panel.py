r"""A folder of models in, one few-shot learner out: panel distillation without data.

    python experiments/run.py --config=experiments/configs/panel.py \
        --workdir=runs/mine --config.zoo.path=MODELS

Recovers images from every teacher that gives gradients, adds dead leaves (synthetic
images), has ALL teachers describe each of them, and trains one network with a head a
teacher on what they say.  Teachers may differ in everything: networks, image sizes,
normalisation, numbers of classes.  The size of the images is that which most teachers
see (at most 64 on a CPU); ``--config.data.image_size`` sets it.

No data is read.  ``--config.data.path=DIR`` measures the result on real images,
{train,val,test}/<class>/*, at the end: the same model, and a table beside it.

Variants: ``:queries`` treats the teachers as black boxes (dead leaves only, no gradient
of a teacher; they may be endpoints, ``--config.zoo.apis=FILE``), ``:smoke`` a minute on
procedural images, ``:seed=N``.  `panel_cifar_fs.py` is this on a benchmark.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import ml_collections

from experiments.configs.variants import SMOKE, make, parse_variant
from experiments.methods import panel

SMALL_RECOVERY: dict[str, Any] = {
    "recover.images_per_class": 4,
    "recover.inversion.num_steps": 3,
    "recover.inversion.generator.width": 8,
}
SMALL = SMOKE | SMALL_RECOVERY | {"recover.dead_leaves": 20, "distill.batch_size": 16}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a variant."""
    return from_variant(variant)


def from_variant(
    variant: str, data: Mapping[str, Any] = MappingProxyType({})
) -> ml_collections.ConfigDict:
    """The config of a variant, measured on a benchmark's `data`, keys of the config."""
    chosen = parse_variant(variant, smoke=False, queries=False, seed=-1)
    return make(
        panel.Config,
        data,
        {"recover.dead_leaves": 15000} if chosen.queries else {},
        SMALL if chosen.smoke else {},
        {"recover.images_per_class": 0} if chosen.queries else {},
        seed=chosen.seed,
    )
