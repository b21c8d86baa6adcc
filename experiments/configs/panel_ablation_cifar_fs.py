r"""What carries panel distillation: one change at a time, on the VALIDATION classes.

    python experiments/run.py \
        --config=experiments/configs/panel_ablation_cifar_fs.py:what=teachers25 \
        --workdir=runs/ablation/teachers25 --config.recover.reuse=runs/panel \
        --config.data.path=DIR/cifar_fs --config.zoo.path=DIR

All but `few` and what follows take images and answers from an earlier run of
`panel_cifar_fs.py` (``--config.recover.reuse``), so a run is some minutes of
distillation: 1000 steps in place of 8000.  Test classes are not looked at.

Hours: some minutes a change on one core, with an earlier run's images and answers.
Expected accuracy: the tables of docs/results (panel_voices.md, panel_images.md,
judges.md, robustness.md); labelled by all
100 teachers, by nearest centroid, inductive, 46.0 +- 0.8 / 60.8 at 1 / 5 shots.
"""

from typing import Any

import ml_collections

from experiments.configs import panel as panel_config
from experiments.configs import preinverted_cifar_fs
from experiments.configs.variants import AS_MEASURED, CIFAR_FS, make, parse_variant
from experiments.methods import panel

# What changes in the config, by name.
CHANGES: dict[str, dict[str, Any]] = {
    "base": {},
    "teachers1": {"panel.teachers": 1},
    "teachers5": {"panel.teachers": 5},
    "teachers25": {"panel.teachers": 25},
    "pixels": {"recover.dead_leaves": 0},
    "dead_leaves": {"recover.images_per_class": 0},
    "pixels1000": {"recover.dead_leaves": 0, "recover.images_per_class": 2},
    "temperature1": {"distill.temperature": 1.0},
    "temperature4": {"distill.temperature": 4.0},
    "crop4": {"distill.crop_padding": 4},
    "noflip": {"distill.flip": False},
    "mixup": {"distill.mix": "mixup"},
    "cutmix": {"distill.mix": "cutmix"},
    "similarity": {"distill.similarity": 1.0},
    "class_heads": {"distill.heads": "class"},
    # Of 100: a twentieth to half of the answers.
    "asked5": {"panel.asked_per_image": 5},
    "asked10": {"panel.asked_per_image": 10},
    "asked25": {"panel.asked_per_image": 25},
    "asked50": {"panel.asked_per_image": 50},
    "asked5_class_heads": {"panel.asked_per_image": 5, "distill.heads": "class"},
    "asked10_class_heads": {"panel.asked_per_image": 10, "distill.heads": "class"},
    "asked25_class_heads": {"panel.asked_per_image": 25, "distill.heads": "class"},
    "untrusted": {"panel.trust": False},
    "wide": {"student.kwargs.width": 64},
    "bfloat16": {"dtype": "bfloat16"},
    "uncalibrated": {"distill.fit_images": 0},
    "unwhitened": {"distill.whitening": 0.0},
    # Other networks; those without batch norm at a rate that is usual for them.
    "resnet": {"student.name": "resnet10", "student.kwargs": {}},
    "vit": {
        "student.name": "vit",
        "student.kwargs": {"depth": 4},
        "distill.optimizer.kwargs.learning_rate": 1e-3,
    },
    "convnext": {
        "student.name": "convnext",
        "student.kwargs": {"depths": (1, 1, 2)},
        "distill.optimizer.kwargs.learning_rate": 1e-3,
    },
}
# These recover and ask for themselves, with 20 Conv4 teachers.
FEW = {
    "zoo.num_teachers": 20,
    "recover.images_per_class": 20,
    "recover.dead_leaves": 2000,
}
CHANGES |= {
    "few": FEW,
    "few_queries": FEW | {"recover.dead_leaves": 4000, "recover.images_per_class": 0},
    # Recovered from noise or a generator, images do not calibrate: to compare with.
    "few_uncalibrated": FEW | {"distill.fit_images": 0},
    "few_noise": FEW
    | {
        "recover.inversion.init": "noise",
        "recover.inversion.num_steps": 150,
        "recover.inversion.objective.total_variation": 1.0,
    },
    "few_generator": FEW
    | preinverted_cifar_fs.GENERATOR
    | {"recover.inversion.num_steps": 50},
    "few_five": FEW | preinverted_cifar_fs.FIVE,
    "sabotaged": FEW | {"zoo.attack.share": 0.1},
    "sabotaged_untrusted": FEW | {"zoo.attack.share": 0.1, "panel.trust": False},
}


def _of_a_hundred(teachers: int, by: str, dead_leaves: int) -> dict[str, Any]:
    """Some of 100 Conv4 teachers, who alone give images and answers."""
    return {
        "zoo.choose.teachers": teachers,
        "zoo.choose.by": by,
        "recover.images_per_class": 20,
        "recover.dead_leaves": dead_leaves,
    }


# A choice asks all 100 about 200 probes, so that those at random are asked about
# 20,000 / teachers more dead leaves: 70,000 answers with 10, 182,500 with 25.
CHANGES |= {
    "chosen10": _of_a_hundred(10, "informative", 4000),
    "random10": _of_a_hundred(10, "random", 6000),
    "chosen25": _of_a_hundred(25, "informative", 4000),
    "random25": _of_a_hundred(25, "random", 4800),
}
# Of the three teachers of a smoke run.
SMALL_CHOICE = {"zoo.choose.teachers": 2, "zoo.choose.probes": 12}

# Names that changes had before.
FORMER = {"scenes": "dead_leaves"}

# Some minutes of distillation, seen on the validation classes.
BUDGET: dict[str, Any] = {
    "num_steps": 1000,
    "eval.split": "val",
    "eval.every_steps": 1000,
    "eval.val_episodes": 0,  # the final evaluation is on these classes already
    "eval.baselines": (),
}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config of ``what=NAME`` (and ``seed=N``)."""
    chosen = parse_variant(variant, what="base", smoke=False, seed=0)
    what = FORMER.get(chosen.what, chosen.what)
    if what not in CHANGES:
        raise ValueError(f"what={what!r}: choose one of {', '.join(CHANGES)}")
    small = dict(panel_config.SMALL) if chosen.smoke else {}
    if "student.name" in CHANGES[what]:
        small.pop("student.kwargs.width", None)  # Not of every network.
    if chosen.smoke and CHANGES[what].get("recover.dead_leaves") == 0:
        small.pop("recover.dead_leaves")
    if chosen.smoke and "zoo.choose.teachers" in CHANGES[what]:
        small |= SMALL_CHOICE
    return make(
        panel.Config,
        CIFAR_FS | AS_MEASURED,
        BUDGET,
        CHANGES[what],
        small,
        seed=chosen.seed,
    )
