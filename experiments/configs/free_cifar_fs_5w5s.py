"""FREE on CIFAR-FS, 5-way 5-shot, from a folder of PyTorch Conv4 teachers.

    python experiments/run.py --config=experiments/configs/free_cifar_fs_5w5s.py \
        --workdir=runs/free_5s --config.data.path=DIR/cifar_fs --config.zoo.path=DIR

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
    # A 5-shot episode costs five times a 1-shot one: on a CPU budget the same time buys
    # more learning with one shot (BUILD_NOTES.md).
    config.replay.shots = 1 if chosen.cpu else 5
    config.eval.shots = (5,)
    if chosen.smoke:
        config = common.smoke(config)
    if chosen.seed >= 0:
        config.seed = chosen.seed
    return config
