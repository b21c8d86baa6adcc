r"""The panel of all teachers, distilled without data into one model, on CIFAR-FS.

    python experiments/run.py --config=experiments/configs/panel_cifar_fs.py \
        --workdir=runs/panel --config.data.path=DIR/cifar_fs --config.zoo.path=DIR

Recovers images from every teacher, adds dead leaves (synthetic images), has ALL
teachers describe each of them, and trains one network with a head a teacher on what
they say.

Variants: ``:queries`` treats the teachers as black boxes (dead leaves only, no gradient
of a teacher; they may be endpoints, ``--config.zoo.apis=FILE``), ``:smoke`` a minute on
procedural images, ``:seed=N``.

Hours: one on one CPU core, without the baselines (recovery 12 minutes, asking 12,
distillation 30).  Expected accuracy, 100 Conv4 teachers, test classes, three seeds,
1- / 5-shot, nearest centroid: transductive 53.2 +- 0.5 / 67.8 +- 0.4, inductive
52.3 +- 0.5 / 67.5 +- 0.4; made before the keys of randomness were named (ebadb53).
"""

from typing import Any

import ml_collections

from experiments.configs.variants import SMOKE, make, parse_variant
from experiments.methods import panel

SMALL_RECOVERY: dict[str, Any] = {
    "recover.images_per_class": 4,
    "recover.inversion.num_steps": 3,
    "recover.inversion.generator.width": 8,
}
SMALL = SMOKE | SMALL_RECOVERY | {"recover.dead_leaves": 20, "distill.batch_size": 16}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a variant."""
    chosen = parse_variant(variant, smoke=False, queries=False, seed=-1)
    return make(
        panel.Config,
        {"recover.dead_leaves": 15000} if chosen.queries else {},
        SMALL if chosen.smoke else {},
        {"recover.images_per_class": 0} if chosen.queries else {},
        seed=chosen.seed,
    )
