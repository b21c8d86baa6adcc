"""FREE on CIFAR-FS, 5-way 1-shot, from a folder of PyTorch Conv4 teachers.

    python experiments/run.py --config=experiments/configs/free_cifar_fs_5w1s.py \
        --workdir=runs/free_1s --config.data.path=DIR/cifar_fs --config.zoo.path=DIR

Variants: ``:cpu`` shortened for two CPU cores (under an hour), ``:reference`` the
released code's behaviour, ``:smoke`` a minute on procedural images with a small zoo of
its own, ``:seed=N``; several are joined by commas.

Reference: Wei et al., "FREE: Faster and Better Data-Free Meta-Learning", CVPR 2024.
"""

from experiments.configs import common


def get_config(variant: str = ""):
    """Returns the config of a variant."""
    chosen = common.parse_variant(variant)
    config = common.free_config("cifar_fs")
    if chosen.cpu:
        config = common.cpu_budget(config)
    if chosen.reference:
        config = common.released_code(config)
    if chosen.smoke:
        config = common.smoke(config)
    if chosen.seed >= 0:
        config.seed = chosen.seed
    return config
