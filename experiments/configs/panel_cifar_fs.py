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
1- / 5-shot, nearest centroid: transductive 53.6 +- 0.5 / 68.2 +- 0.4, inductive
52.6 +- 0.5 / 67.8 +- 0.4.
"""

import ml_collections

from experiments.configs import panel
from experiments.configs.variants import AS_MEASURED, CIFAR_FS


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a variant."""
    return panel.from_variant(variant, CIFAR_FS | AS_MEASURED)
