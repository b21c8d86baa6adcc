"""What the teachers give without any training, on CIFAR-FS.

    python experiments/run.py --config=experiments/configs/yardsticks_cifar_fs.py \
        --workdir=runs/yardsticks --config.data.path=DIR/cifar_fs \
        --config.zoo.path=DIR "--config.eval.shots=(10,20)"

Averages (plain, by optimal transport, by a robust hyper-network), single teachers, and
the panel of all.  Variants: ``:smoke`` on procedural images, ``:seed=N``.
"""

from experiments.configs import common


def get_config(variant: str = ""):
    """Returns the config of a variant."""
    chosen = common.parse_variant(variant, smoke=False, seed=-1)
    config = common.yardsticks_config("cifar_fs")
    if chosen.smoke:
        config = common.smoke(config)
        config.num_steps = 1
        config.eval.yardsticks = common.yardsticks_config().eval.yardsticks
    if chosen.seed >= 0:
        config.seed = chosen.seed
    return config
