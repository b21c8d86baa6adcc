"""What carries panel distillation: one change at a time, on the VALIDATION classes.

    python experiments/run.py \
        --config=experiments/configs/panel_ablation_cifar_fs.py:what=teachers25 \
        --workdir=runs/ablation/teachers25 --config.recover.reuse=runs/panel \
        --config.data.path=DIR/cifar_fs --config.zoo.path=DIR

All but `few` and what follows take images and answers from an earlier run of
`panel_cifar_fs.py` (``--config.recover.reuse``), so a run is some minutes of
distillation: 1000 steps in place of 8000.  Test classes are not looked at.
"""

from experiments.configs import common

# What changes in the config, by name.
CHANGES = {
    "base": {},
    "teachers1": {"panel.teachers": 1},
    "teachers5": {"panel.teachers": 5},
    "teachers25": {"panel.teachers": 25},
    "pixels": {"recover.scenes": 0},
    "scenes": {"recover.images_per_class": 0},
    "pixels1000": {"recover.scenes": 0, "recover.images_per_class": 2},
    "temperature1": {"distill.temperature": 1.0},
    "temperature4": {"distill.temperature": 4.0},
    "crop4": {"distill.crop_padding": 4},
    "noflip": {"distill.flip": False},
    "mixup": {"distill.mix": "mixup"},
    "cutmix": {"distill.mix": "cutmix"},
    "similarity": {"distill.similarity": 1.0},
    "untrusted": {"panel.trust": False},
    "wide": {"student.kwargs.width": 64},
    "bfloat16": {"dtype": "bfloat16"},
    "uncalibrated": {"distill.calibrate_images": 0},
    "unwhitened": {"distill.whitening": 0.0},
    "resnet": {"student.name": "resnet10", "student.kwargs": {}},
}
# These recover and ask for themselves, with 20 Conv4 teachers.
FEW = {
    "zoo.num_teachers": 20,
    "recover.images_per_class": 20,
    "recover.scenes": 2000,
}
CHANGES |= {
    "few": FEW,
    "few_queries": FEW | {"recover.scenes": 4000, "recover.images_per_class": 0},
    # Recovered from noise or a generator, images do not calibrate: to compare with.
    "few_uncalibrated": FEW | {"distill.calibrate_images": 0},
    "few_noise": FEW
    | {
        "recover.start": "noise",
        "recover.num_steps": 150,
        "recover.objective.total_variation": 1.0,
    },
    "few_generator": FEW | {"recover.backend": "generator", "recover.num_steps": 50},
    "few_five": FEW | {"recover.backend": "five"},
    "sabotaged": FEW | {"zoo.sabotage": 0.1},
    "sabotaged_untrusted": FEW | {"zoo.sabotage": 0.1, "panel.trust": False},
}


def get_config(variant: str = ""):
    """Returns the config of ``what=NAME`` (and ``seed=N``)."""
    chosen = common.parse_variant(variant, what="base", smoke=False, seed=0)
    if chosen.what not in CHANGES:
        raise ValueError(f"what={chosen.what!r}: choose one of {', '.join(CHANGES)}")
    config = common.panel_config("cifar_fs")
    config.num_steps = 1000
    config.eval.split = "val"
    config.eval.every_steps = config.num_steps
    config.eval.val_episodes = 0  # the final evaluation is on these classes already
    config.eval.yardsticks = ()
    changes = CHANGES[chosen.what]
    if changes.get("recover.backend", "pixels") != "pixels":
        config = common.five(config)
    config.update_from_flattened_dict(changes)
    if chosen.smoke:
        config = common.smoke(config)
    config.seed = chosen.seed
    return config
