r"""TGR on CIFAR-FS, 5-way 1-shot, from a folder of PyTorch Conv4 teachers.

    python experiments/run.py --config=experiments/configs/tgr_cifar_fs_5w1s.py \
        --workdir=runs/tgr_1s --config.data.path=DIR/cifar_fs --config.zoo.path=DIR

Variants: ``:cpu`` shortened for two CPU cores, ``:reference`` the released code's
behaviour, ``:smoke`` a minute on procedural images with a small zoo of its own,
``:seed=N``; several are joined by commas.

Hours and accuracy: the full length was never run; ``:cpu``, 150 steps and about ten CPU
minutes with recovery, has 34.9 / 45.2 at 1 / 5 shots (docs/results/comparison.md).

Reference: Wei et al., "Task Groupings Regularization: Data-Free Meta-Learning with
Heterogeneous Pre-trained Models", ICML 2024.
"""

import ml_collections

from experiments.configs import tgr
from experiments.configs.variants import AS_MEASURED, CIFAR_FS


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a variant."""
    return tgr.from_variant(variant, data=CIFAR_FS | AS_MEASURED)
