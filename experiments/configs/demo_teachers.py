r"""One of the demo's groups of teachers, trained on embedded images: `make demo`.

    python experiments/run.py --workdir=runs/demo/seven \
        --config=experiments/configs/demo_teachers.py:way=7,network=resnet10,seed=3

The zoo is then runs/demo/seven/zoo, a value for --config.zoo.path.

Variants: ``:way=N`` classes of a teacher, ``:network=resnet10`` a narrow one in place
of Conv4, ``:seed=N`` other classes, ``:smoke`` two teachers that learned nothing.

Hours: a minute a group on two cores.
"""

from typing import Any

import ml_collections

from experiments.configs.variants import make, parse_variant
from experiments.methods.options import Pretraining

CONV4: dict[str, Any] = {"pretrain.num_teachers": 4, "pretrain.epochs": 12}
# An epoch of one takes as long as four of a Conv4, and fewer are needed.
RESNET: dict[str, Any] = {"pretrain.num_teachers": 3, "pretrain.epochs": 8}
WIDTHS = {"conv4": 32, "resnet10": 16}
SMALL: dict[str, Any] = {"pretrain.num_teachers": 2, "pretrain.epochs": 1}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a variant; several are joined by commas."""
    chosen = parse_variant(variant, way=5, network="conv4", smoke=False, seed=0)
    width = 4 if chosen.smoke else WIDTHS.get(chosen.network)
    kwargs = {"width": width} if width else {}
    return make(
        Pretraining,
        {
            "data.name": "procedural",
            "pretrain.way": chosen.way,
            "pretrain.model": {"name": chosen.network, "kwargs": kwargs},
        },
        CONV4 if chosen.network == "conv4" else RESNET,
        SMALL if chosen.smoke else {},
        seed=chosen.seed,
    )
