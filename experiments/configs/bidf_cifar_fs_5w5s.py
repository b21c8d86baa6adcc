r"""BiDf-MKD on CIFAR-FS, 5-way 5-shot; variants as in `bidf_cifar_fs_5w1s.py`.

Teachers can only be asked:

    python experiments/run.py --config=experiments/configs/bidf_cifar_fs_5w5s.py \
        --workdir=runs/bidf_5s --config.data.path=DIR/cifar_fs --config.zoo.path=DIR

Hours: 10 minutes for 12 steps of ``:cpu`` on one busy core.  Expected accuracy of those
(which replay one-shot episodes), 100 Conv4 teachers, test classes, transductive:
40.8 +- 0.7.
"""

import ml_collections

from experiments.configs import bidf
from experiments.configs.variants import CIFAR_FS


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a variant."""
    return bidf.from_variant(variant, shots=5, data=CIFAR_FS)
