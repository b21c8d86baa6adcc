"""BiDf-MKD on CIFAR-FS, 5-way 5-shot; variants as in `bidf_cifar_fs_5w1s.py`.

Teachers can only be asked:

    python experiments/run.py --config=experiments/configs/bidf_cifar_fs_5w5s.py \
        --workdir=runs/bidf_5s --config.data.path=DIR/cifar_fs --config.zoo.path=DIR
"""

from experiments.configs import bidf_cifar_fs_5w1s


def get_config(variant: str = ""):
    """Returns the config of a variant."""
    return bidf_cifar_fs_5w1s.get_config(variant, shots=5)
