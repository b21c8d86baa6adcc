r"""FREE on CIFAR-FS, 5-way 1-shot, from a folder of PyTorch Conv4 teachers.

    python experiments/run.py --config=experiments/configs/free_cifar_fs_5w1s.py \
        --workdir=runs/free_1s --config.data.path=DIR/cifar_fs --config.zoo.path=DIR

Variants: ``:cpu`` shortened for two CPU cores, ``:reference`` the released code's
behaviour, ``:smoke`` a minute on procedural images with a small zoo of its own,
``:seed=N``; several are joined by commas.

Hours: ``:cpu`` 25 minutes of training on one core; the full length of 1,000 steps
4.3 hours, with the generator of ``:cpu`` (docs/results/free.md).
Expected accuracy, 100 Conv4 teachers, test classes, transductive: ``:cpu`` 37.5 +- 0.8
(5-shot 46.2 +- 0.8), 1,000 steps 39.4 +- 0.9 (50.8); published 39.1 to 39.6,
unverified.

Reference: Wei et al., "FREE: Faster and Better Data-Free Meta-Learning", CVPR 2024.
"""

import ml_collections

from experiments.configs import free
from experiments.configs.variants import CIFAR_FS


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a variant."""
    return free.from_variant(variant, data=CIFAR_FS)
