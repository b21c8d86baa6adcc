"""A zoo of Conv4 teachers on random groups of five CIFAR-FS classes.

    python experiments/run.py \
        --config=experiments/configs/pretrain_cifar_fs_conv4.py \
        --workdir=runs/zoo --config.data.path=DIR/cifar_fs \
        --config.pretrain.num_teachers=20

The zoo is then runs/zoo/zoo, a value for --config.zoo.path.  Any folder
{train,val,test}/<class>/* works with --config.data.name=image_folder.
"""

import ml_collections

from experiments.configs import common


def get_config(variant: str = ""):
    """Returns the config of a variant (``:smoke``, ``:seed=N``)."""
    chosen = common.parse_variant(variant, smoke=False, seed=0)
    config = ml_collections.ConfigDict(
        {
            "run": "pretrain",
            "seed": chosen.seed,
            "data": common.data_config("cifar_fs"),
            "pretrain": common.teacher_recipe(100),
            **common.harness_config(),
        }
    )
    if chosen.smoke:
        config.data.name = "procedural"
        config.pretrain.num_teachers = 3
        config.pretrain.epochs = 2
        config.pretrain.model.kwargs.width = 8
    return config
