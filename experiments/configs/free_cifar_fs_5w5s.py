r"""FREE on CIFAR-FS, 5-way 5-shot; variants as in `free_cifar_fs_5w1s.py`.

    python experiments/run.py --config=experiments/configs/free_cifar_fs_5w5s.py \
        --workdir=runs/free_5s --config.data.path=DIR/cifar_fs --config.zoo.path=DIR

Hours: ``:cpu`` 25 minutes of training on one core; the full length was never run.
Expected accuracy, 100 Conv4 teachers, test classes: ``:cpu`` (which replays one-shot
episodes) 46.2 +- 0.8, inductive 45.9 +- 0.8.

Reference: Wei et al., "FREE: Faster and Better Data-Free Meta-Learning", CVPR 2024.
"""

import ml_collections

from experiments.configs import free
from experiments.configs.variants import CIFAR_FS


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a variant."""
    return free.from_variant(variant, shots=5, data=CIFAR_FS)
