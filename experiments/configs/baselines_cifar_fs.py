r"""What the teachers give without any training, on CIFAR-FS.

    python experiments/run.py --config=experiments/configs/baselines_cifar_fs.py \
        --workdir=runs/baselines --config.data.path=DIR/cifar_fs \
        --config.zoo.path=DIR "--config.eval.shots=(10,20)"

Averages (plain, by optimal transport, by a robust hyper-network), single teachers, and
the panel of all.  Variants: ``:smoke`` on procedural images, ``:seed=N``.

Hours: 18 to 44 minutes for 200 episodes, 1- and 5-shot, on one busy core.
Expected accuracy, 100 Conv4 teachers, test classes, 1- / 5-shot, transductive: all
teachers by nearest centroid 54.6 +- 0.8 / 68.5 +- 0.8, one teacher 37.6 +- 0.5 /
49.3 +- 0.6, their average 23.9 +- 0.5 / 28.0 +- 0.5.
"""

import ml_collections

from experiments.configs.variants import CIFAR_FS, SMOKE, make, parse_variant
from experiments.methods import baselines

# All baselines, and one step, which changes nothing.
SMALL = {
    key: value
    for key, value in SMOKE.items()
    if key not in ("num_steps", "eval.baselines")
}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a variant."""
    chosen = parse_variant(variant, smoke=False, seed=-1)
    small = SMALL if chosen.smoke else {}
    return make(baselines.Config, CIFAR_FS, small, seed=chosen.seed)
