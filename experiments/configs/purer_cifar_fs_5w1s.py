"""PURER on CIFAR-FS, 5-way 1-shot, from a folder of PyTorch Conv4 teachers.

    python experiments/run.py --config=experiments/configs/purer_cifar_fs_5w1s.py \
        --workdir=runs/purer_1s --config.data.path=DIR/cifar_fs --config.zoo.path=DIR

Variants: ``:cpu`` shortened for one CPU core (ten minutes), ``:reference`` the released
code's behaviour, ``:pool=disjoint13`` teachers that share no class (any number; 13 is
PURER's pool, ``all`` that of PURER-Plus and the default), ``:learner=anil`` or
``protonet``, ``:start=average`` from the teachers' mean, ``:calibrate`` ICFIL at test
time (a reconstruction), ``:smoke`` a minute on procedural images with a small zoo of
its own, ``:seed=N``; several are joined by commas.

Reference: Hu et al., "Architecture, Dataset and Model-Scale Agnostic Data-free
Meta-Learning", CVPR 2023.
"""

import ml_collections

from experiments.configs import common

VARIANTS = {
    **common.DEFAULTS,
    "learner": "maml",
    "pool": "all",
    "start": "random",
    "calibrate": False,
}


def get_config(variant: str = ""):
    """Returns the config of a variant."""
    return from_variant(variant, shots=1)


def from_variant(variant: str, shots: int) -> ml_collections.ConfigDict:
    """The config of a variant, for episodes of `shots` images a class."""
    chosen = common.parse_variant(variant, **VARIANTS)
    config = purer_config(shots)
    config.learner.kind = chosen.learner
    config.start = chosen.start
    config.zoo.disjoint = pool_size(chosen.pool)
    if config.zoo.disjoint:
        config.pixels.teachers_per_step = config.zoo.disjoint
    if chosen.reference:
        config = released_code(config)
    if chosen.cpu:
        config = cpu_budget(config)
    if chosen.calibrate:
        config.calibration.num_steps = 5
    if chosen.smoke:
        config = common.smoke(config)
    if chosen.seed >= 0:
        config.seed = chosen.seed
    return config


def pool_size(pool: str) -> int:
    """Teachers of a pool without shared classes: "disjoint13" is 13, "all" is 0."""
    number = pool.removeprefix("disjoint")
    if pool == "all":
        return 0
    if number == pool or not number.isdigit():
        raise ValueError(f"pool={pool!r}: choose all or disjointN, as disjoint13")
    return int(number)


def purer_config(shots: int = 1) -> ml_collections.ConfigDict:
    """Every key of a PURER run; `released_code` turns a copy into the published one."""
    return ml_collections.ConfigDict(
        {
            "run": "meta_train",
            "algorithm": "purer",
            "seed": 0,
            "way": 5,
            "num_steps": 60000,
            "data": common.data_config("cifar_fs"),
            # disjoint: that many teachers without a shared class; 0: all.
            "zoo": {**common.zoo_config(), "disjoint": 0},
            "student": {"name": "conv4", "kwargs": {"width": 32}},
            "start": "random",  # or average, teacher
            "pixels": {
                "images_per_class": shots + 15,
                "source": "normalized",  # or sigmoid, which keeps images in [0, 1]
                "deviation": 1.0,
                "optimizer": common.adam(0.05),  # .25 in PURER, .01 in PURER-Plus
                "teachers_per_step": 13,
                "weighting": "uniform",
                "label_order": "teacher",
                "objective": {
                    "cross_entropy": 1.0,
                    "moments": 0.01,
                    "total_variation": 1e-4,
                    "variation": "frobenius",
                    "l2": 1e-5,
                    "crop_padding": 2,
                    "edges": "wrap",
                    "flip": False,
                    "augment_per_image": False,
                },
            },
            "curriculum": {
                "adversarial": 10.0,
                "start": 4000,
                "patience": 6,
                "begin": "adversarial",  # or patience (PURER-Plus)
            },
            "learner": {
                "kind": "maml",  # maml, anil or protonet
                "first_order": False,
                "inner_lr": 0.01,
                "train_steps": 5,  # 1 and 1 in PURER's scripts
                "test_steps": 10,
                "test_lr": 0.0,  # 0: inner_lr
            },
            "optimizer": common.adam(1e-3),
            "replay": {
                "shots": shots,
                "queries": 15,
                "episodes_per_update": 4,
                "augment": False,
                "split": "random",
            },
            # ICFIL, a reconstruction; see free_jax/calibration.py.
            "calibration": {
                "num_steps": 0,  # 0: off
                "learning_rate": 0.01,
                "temperature": 0.1,
                "cross_entropy": 1.0,
                "images_per_class": 2,
                "inversion_steps": 10,
                "inversion_rate": 0.1,
                "objective": {
                    "cross_entropy": 1.0,
                    "moments": 0.1,
                    "total_variation": 1.0,
                    "crop_padding": 2,
                    "edges": "wrap",
                },
            },
            "eval": {
                **common.eval_config(),
                "shots": (shots,),
                "every_steps": 500,
                "yardsticks": ("random", "average"),
            },
            **common.harness_config(),
            "log": {"every_steps": 20, "every_secs": 10.0, "tensorboard": False},
        }
    )


def released_code(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """PURER's released code on disjoint teachers, PURER-Plus's on the whole pool."""
    config.seed = 2022
    config.pixels.weighting = "prefix"
    if config.zoo.disjoint:
        config.start = "average"
        config.pixels.optimizer = common.adam(0.25)
        config.learner.train_steps = 1
        config.learner.test_steps = 1
        config.curriculum.begin = "adversarial"
    else:
        config.pixels.optimizer = common.adam(0.01)
        config.pixels.label_order = "sorted"
        config.replay.split = "fixed"
        config.curriculum.begin = "patience"
    return config


def cpu_budget(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """For one CPU core: some five minutes of training, a 240th of the full length.

    A class is inverted some 80 times, so pixels start nearer to the mean image and the
    meta-model moves faster; the loss is PURER's.
    """
    config.num_steps = 250
    config.pixels.teachers_per_step = 4
    config.pixels.optimizer = common.adam(0.1)
    config.pixels.deviation = 0.2
    config.optimizer = common.adam(3e-3)
    config.replay.augment = True
    config.curriculum.start = 60
    config.eval.every_steps = 125
    return config
