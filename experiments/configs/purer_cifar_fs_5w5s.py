"""PURER on CIFAR-FS, 5-way 5-shot, from a folder of PyTorch Conv4 teachers.

    python experiments/run.py --config=experiments/configs/purer_cifar_fs_5w5s.py \
        --workdir=runs/purer_5s --config.data.path=DIR/cifar_fs --config.zoo.path=DIR

Variants: as in `purer_cifar_fs_5w1s.py`.
"""

from experiments.configs import purer_cifar_fs_5w1s


def get_config(variant: str = ""):
    """Returns the config of a variant."""
    return purer_cifar_fs_5w1s.from_variant(variant, shots=5)
