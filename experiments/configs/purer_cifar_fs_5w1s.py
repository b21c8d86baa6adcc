r"""PURER on CIFAR-FS, 5-way 1-shot, from a folder of PyTorch Conv4 teachers.

    python experiments/run.py --config=experiments/configs/purer_cifar_fs_5w1s.py \
        --workdir=runs/purer_1s --config.data.path=DIR/cifar_fs --config.zoo.path=DIR

Variants: ``:cpu`` shortened for one CPU core, ``:reference`` the released code's
behaviour, ``:pool=disjoint13`` teachers that share no class (any number; 13 is PURER's
pool, ``all`` that of PURER-Plus and the default), ``:learner=anil`` or ``protonet``,
``:start=average`` from the teachers' mean, ``:calibrate`` ICFIL at test time (a
reconstruction), ``:smoke`` a minute on procedural images with a small zoo of its own,
``:seed=N``; several are joined by commas.

Hours: 20 minutes for 2,605 steps of ``:cpu`` on one core that another run shared; the
full length was never run.  Expected accuracy of those steps, 100 Conv4 teachers, test
classes, 1- / 5-shot: transductive 40.4 +- 0.8 / 53.6 +- 0.8, inductive 38.9 +- 0.8 /
53.2 +- 0.8.

Reference: Hu et al., "Architecture, Dataset and Model-Scale Agnostic Data-free
Meta-Learning", CVPR 2023.
"""

import ml_collections

from experiments.configs import purer
from experiments.configs.variants import CIFAR_FS


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a variant."""
    return purer.from_variant(variant, data=CIFAR_FS)
