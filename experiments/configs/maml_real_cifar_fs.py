r"""MAML on the REAL training images of CIFAR-FS: the upper bound, not data-free.

    python experiments/run.py --config=experiments/configs/maml_real_cifar_fs.py \
        --workdir=runs/maml_real --config.data.path=DIR/cifar_fs

Variants: ``:smoke`` a minute on procedural images, ``:seed=N``.

Hours: not measured at full length.  Expected accuracy after 300 updates, validation
classes, 1-shot: 34.4 +- 0.7, inductive 33.2 +- 0.7.
"""

import ml_collections

from experiments.configs.variants import CIFAR_FS, SMOKE, make, parse_variant
from experiments.methods import episodic

SMALL = SMOKE | {
    "zoo.pretrain.num_teachers": 0,
    "replay.episodes_per_update": 2,
}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a variant."""
    chosen = parse_variant(variant, smoke=False, seed=0)
    small = SMALL if chosen.smoke else {}
    return make(episodic.Config, CIFAR_FS, small, seed=chosen.seed)
