r"""The panel of teachers at 84 pixels, distilled without data, on mini-ImageNet.

    python experiments/run.py --config=experiments/configs/panel_mini_imagenet.py \
        --workdir=runs/mini --config.data.path=DIR/mini_imagenet --config.zoo.path=DIR

As `panel_cifar_fs.py`, with a quarter of its images and steps: each image is seven
times as large.

Variants: as `panel.py`.

Hours: 1.7 on one core, evaluation included.  Expected accuracy: 40.4 / 55.4 at 1 /
5 shots, inductive (docs/results/mini_imagenet.md).
"""

from typing import Any

import ml_collections

from experiments.configs import panel

MINI_IMAGENET: dict[str, Any] = {
    "data.name": "mini_imagenet",
    "recover.images_per_class": 20,
    "recover.dead_leaves": 4000,
    "num_steps": 2000,
    "eval.every_steps": 500,
    "eval.baselines": ("teacher", "panel", "panel_heads"),
}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a variant."""
    return panel.from_variant(variant, MINI_IMAGENET)
