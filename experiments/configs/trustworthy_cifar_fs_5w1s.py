r"""Trustworthy-DFML on CIFAR-FS, 5-way 1-shot, from a folder of Conv4 teachers.

    python experiments/run.py \
        --config=experiments/configs/trustworthy_cifar_fs_5w1s.py \
        --workdir=runs/trustworthy_1s --config.data.path=DIR/cifar_fs \
        --config.zoo.path=DIR

Variants: ``:cpu`` shortened for two CPU cores, ``:reference`` the released code's
behaviour, ``:smoke`` a minute on procedural images with a small zoo of its own,
``:seed=N``; several are joined by commas.

Hours and accuracy: the full length was never run; ``:cpu``, 1,000 steps and about eight
CPU minutes, has 31.9 % at one shot (docs/results/comparison.md).

Reference: the released code of Trustworthy-DFML.
"""

import ml_collections

from experiments.configs import trustworthy
from experiments.configs.variants import AS_MEASURED, CIFAR_FS


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a variant."""
    return trustworthy.from_variant(variant, data=CIFAR_FS | AS_MEASURED)
