"""MAML on the REAL training images of CIFAR-FS: the upper bound, not data-free.

python experiments/run.py --config=experiments/configs/maml_real_cifar_fs.py \
        --workdir=runs/maml_real --config.data.path=DIR/cifar_fs
"""

from experiments.configs import common


def get_config(variant: str = ""):
    """Returns the config of a variant (``:smoke``, ``:seed=N``)."""
    chosen = common.parse_variant(variant, smoke=False, seed=0)
    config = common.free_config("cifar_fs")
    config.algorithm = "episodic"
    config.num_steps = 2000
    config.eval.every_steps = 200
    config.log.every_steps = 20
    config.eval.yardsticks = ("random",)
    if chosen.smoke:
        config = common.smoke(config)
        config.zoo.pretrain.num_teachers = 0
    config.seed = chosen.seed
    return config
