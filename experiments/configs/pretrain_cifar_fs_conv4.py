r"""A zoo of Conv4 teachers on random groups of five CIFAR-FS classes.

    python experiments/run.py \
        --config=experiments/configs/pretrain_cifar_fs_conv4.py \
        --workdir=runs/zoo --config.data.path=DIR/cifar_fs \
        --config.pretrain.num_teachers=20

The zoo is then runs/zoo/zoo, a value for --config.zoo.path.  Any folder
{train,val,test}/<class>/* works with --config.data.name=image_folder.  Variants:
``:smoke`` three small teachers of procedural images, ``:seed=N``.

Hours: not measured at full length (60 epochs).  Expected held-out accuracy of 8 epochs:
79.8 %, 11 CPU seconds a teacher (docs/results/panel_teachers.md).
"""

import ml_collections

from experiments.configs.variants import CIFAR_FS, make, parse_variant
from experiments.methods.options import Pretraining

SMALL = {
    "data.name": "procedural",
    "pretrain.num_teachers": 3,
    "pretrain.epochs": 2,
    "pretrain.model.kwargs.width": 8,
}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a variant."""
    chosen = parse_variant(variant, smoke=False, seed=0)
    return make(Pretraining, CIFAR_FS, SMALL if chosen.smoke else {}, seed=chosen.seed)
