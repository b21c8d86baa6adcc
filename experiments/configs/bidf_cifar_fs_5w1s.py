r"""BiDf-MKD on CIFAR-FS, 5-way 1-shot: teachers that can only be asked.

    python experiments/run.py --config=experiments/configs/bidf_cifar_fs_5w1s.py \
        --workdir=runs/bidf_1s --config.data.path=DIR/cifar_fs --config.zoo.path=DIR

A local zoo is treated as black boxes; ``result.json`` counts what each was asked.

Variants: ``:api=SS`` (default) one data set and architecture, ``:api=SH`` several
architectures (``--config.zoo.path=CONV4,RESNET10,RESNET18``), ``:api=MH`` several data
sets, image sizes and architectures (converted zoos); ``:white_box`` differentiates the
teachers, for comparison; ``:cpu`` shortened for one core; ``:reference`` the released
code's behaviour; ``:smoke`` a minute on procedural images with a small zoo of its own;
``:seed=N``; several are joined by commas.

Hours: 28 minutes for 120 steps of ``:cpu`` on one busy core; the full length was never
run.  Expected accuracy, 100 Conv4 teachers, test classes, 1- / 5-shot, transductive:
35.3 +- 0.7 / 45.9 +- 0.8 after those (``frequencies=8``, 1.18 million queries), 31.7 +-
0.7 / 40.8 +- 0.7 after 12 steps and 117,600 queries.

Reference: Hu et al., "Learning to Learn from APIs: Black-Box Data-Free Meta-Learning",
ICML 2023.
"""

import ml_collections

from experiments.configs import bidf
from experiments.configs.variants import CIFAR_FS


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a variant."""
    return bidf.from_variant(variant, data=CIFAR_FS)
