r"""PURER on CIFAR-FS, 5-way 5-shot; variants as in `purer_cifar_fs_5w1s.py`.

    python experiments/run.py --config=experiments/configs/purer_cifar_fs_5w5s.py \
        --workdir=runs/purer_5s --config.data.path=DIR/cifar_fs --config.zoo.path=DIR

Hours and accuracy: never run at any length but that of smoke tests.
"""

import ml_collections

from experiments.configs import purer
from experiments.configs.variants import CIFAR_FS


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a variant."""
    return purer.from_variant(variant, shots=5, data=CIFAR_FS)
