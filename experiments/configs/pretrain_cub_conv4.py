r"""A zoo of Conv4 teachers at 84 pixels on random groups of five CUB classes.

    python experiments/run.py --config=experiments/configs/pretrain_cub_conv4.py \
        --workdir=runs/cub --config.data.path=DIR/cub

As `pretrain_cifar_fs_conv4.py`, with the papers' 100 epochs; a batch is all images that
the smallest classes leave, 80 of CUB-200-2010, whose classes hold 20 to 39 images
(the papers' CUB-200-2011 holds 41 to 60, and their batches 128).  Variants: ``:smoke``
three small teachers of procedural images, ``:seed=N``.

Hours: 12 minutes of one core.  Expected held-out accuracy, CUB-200-2010 cropped to its
birds: 67.9 % (docs/results/domains.md).
"""

from typing import Any

import ml_collections

from experiments.configs.pretrain_cifar_fs_conv4 import SMALL
from experiments.configs.variants import make, parse_variant
from experiments.methods.options import Pretraining

CUB: dict[str, Any] = {
    "data.name": "cub",
    "pretrain.num_teachers": 30,
    "pretrain.epochs": 100,
    "pretrain.batch_size": 80,
}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a variant."""
    chosen = parse_variant(variant, smoke=False, seed=0)
    return make(Pretraining, CUB, SMALL if chosen.smoke else {}, seed=chosen.seed)
