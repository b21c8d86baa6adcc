"""Names that keys of our configs had before, and what became of them: the one table.

Command lines and the ``config.json`` of earlier runs are read through it, see
`experiments.harness.former`.
"""

from typing import Any

from experiments.harness import former

# Former key or section -> its name today; the longest that fits is taken.
KEYS = {
    "eval.yardsticks": "eval.baselines",
    "learner.initial": "learner.init_from",
    "replay.labels": "labels",
    "methods.yardsticks": "methods.baselines",
    "zoo.sabotage": "zoo.attack.share",
    # Of panel distillation and pre-inverted tasks.
    "recover.scenes": "recover.dead_leaves",
    "recover.teachers_at_once": "recover.at_once",
    "recover.renew": "recover.against",
    "recover.backend": "recover.inversion.source",
    "recover.start": "recover.inversion.init",
    "recover.num_steps": "recover.inversion.num_steps",
    "recover.objective": "recover.inversion.objective",
    "recover.learning_rate": "recover.inversion.optimizer.kwargs.learning_rate",
    "recover.generator_width": "recover.inversion.generator.width",
    "recover.generator_rate": (
        "recover.inversion.generator.optimizer.kwargs.learning_rate"
    ),
    "recover.meta_rate": ("recover.meta_training.optimizer.kwargs.learning_rate"),
    "recover.meta_steps": "recover.meta_training.num_steps",
    "recover.meta_teachers": "recover.meta_training.teachers_per_step",
    "recover.meta_optimizer": "recover.meta_training.optimizer",
    "distill.groups": "distill.ghost_batches",
    "distill.calibrate_images": "distill.fit_images",
    # Of FREE and BiDf-MKD.
    "generator": "inversion.generator",
    "generator.start": "recover.generator_init",
    "inversion.generator_optimizer": "inversion.generator.optimizer",
    "inversion.latent_optimizer": "inversion.optimizer",
    "inversion.outer_optimizer": "recover.outer_optimizer",
    "inversion.outer_state": "recover.outer_state",
    "inversion.teachers_per_step": "recover.teachers_per_step",
    "inversion.images_per_class": "recover.images_per_class",
    "inversion.warmup_steps": "recover.warmup_steps",
    "inversion.boundary_after": "recover.boundary_after",
    "black_box.gradient": "inversion.estimator.teachers",
    "black_box.num_directions": "inversion.estimator.num_directions",
    "black_box.smoothing": "inversion.estimator.smoothing",
    "black_box.frequencies": "inversion.estimator.frequencies",
    "black_box.antithetic": "inversion.estimator.antithetic",
    "black_box.at_once": "inversion.estimator.at_once",
    # Of PURER.
    "zoo.disjoint": "recover.disjoint",
    "start": "init",
    "pixels": "inversion",
    "pixels.images_per_class": "recover.images_per_class",
    "pixels.teachers_per_step": "recover.teachers_per_step",
    "pixels.weighting": "recover.weighting",
    "pixels.label_order": "recover.label_order",
    "curriculum.start": "curriculum.after_steps",
    "curriculum.begin": "curriculum.opening",
    "calibration": "icfil",
    "calibration.inversion_steps": "icfil.inversion.num_steps",
    "calibration.inversion_rate": "icfil.inversion.optimizer.kwargs.learning_rate",
    "calibration.objective": "icfil.inversion.objective",
}

# Former keys without a successor: accepted, and without effect.
GONE = frozenset({"eval.time_recovery"})

# Key of today -> its former values and those of today.
VALUES: dict[str, dict[Any, Any]] = {
    "algorithm": {"yardsticks": "baselines"},
    "choose": {"yardsticks": "baselines"},
    "inversion.estimator.teachers": {
        "zero_order": "all",
        "where_given": "without_gradients",
        "white_box": "none",
    },
    "recover.inversion.init": {"scenes": "dead_leaves"},
    "recover.inversion.source": {"five": "generator"},
    "inversion.source": {"sigmoid": "pixels", "normalized": "normalized_pixels"},
}

# What a back-end of section ``recover`` stood for, beside the source of images.
BACKENDS: dict[str, dict[str, Any]] = {
    "pixels": {
        "recover.inversion.decay": "cosine",
        "recover.inversion.optimizer.kwargs.b1": 0.9,
        "recover.meta_training.num_steps": 0,
    },
    "generator": {
        "recover.inversion.init": "noise",  # Only pixels start from anything else.
        "recover.inversion.decay": "none",
        "recover.inversion.optimizer.kwargs.b1": 0.5,
        "recover.meta_training.num_steps": 0,
    },
    "five": {
        "recover.inversion.init": "noise",  # Only pixels start from anything else.
        "recover.inversion.decay": "none",
        "recover.inversion.optimizer.kwargs.b1": 0.5,
        # With as many steps as the config says.
        "recover.meta_training.num_steps": former.Unless(60),
    },
}

# What a method's config held without using it.
UNUSED: dict[str, tuple[str, ...]] = {
    "episodic": (
        "generator",
        "inversion",
        "memory",
        "align",
        "replay.patience",
        "replay.max_updates",
    ),
    "bidf": ("distill.batch_size",),
    "purer": ("replay.max_updates",),
    "preinverted": ("replay.max_updates",),
    "baselines": ("num_steps",),
    "yardsticks": ("num_steps",),
}

# What keys of an objective were that a config did not name.
OBJECTIVE: dict[str, Any] = {
    "cross_entropy": 1.0,
    "moments": 1.0,
    "statistics": "absolute",
    "balance": False,
    "adversarial": 1.0,
    "total_variation": 0.0,
    "variation": "mean",
    "l2": 0.0,
    "agreement": "kl",
    "student_gradient": True,
    "crop_padding": 4,
    "augment_per_image": True,
    "edges": "black",
    "flip": True,
}

# What a recovery was before keys said so.
RECOVERY: dict[str, Any] = {"images_per_teacher": 200, "image_size": 0}

# Keys of a distillation that came later, with what it did before.
DISTILL: dict[str, Any] = {"heads": "teacher", "device_mb": 1024, "sketch": 0}

NAMES = former.Names(
    keys=KEYS,
    gone=GONE,
    values=VALUES,
    implied={"recover.backend": BACKENDS},
    unused=UNUSED,
    together={
        "objective.cross_entropy": OBJECTIVE,
        "recover.dead_leaves": RECOVERY,
        "panel.held_out_classes": {
            "held_out_teachers": 0,
            "asked_per_image": 0,
            "trust_passes": 1,
        },
        "distill.fit_images": DISTILL,
        "eval.every_steps": {"also": ""},
        "choose": {"eval.also": ""},  # of a comparison
        "attack.share": {"kind": "mixed", "path": "", "patch": 4},
        "host_devices": {"cluster": ""},
        "mesh.task": {"zoo": 1},
        "estimator.num_directions": {"teachers": "all"},
        "zoo.num_teachers": {
            "choose.teachers": 0,
            "choose.by": "informative",
            "choose.probes": 200,
        },
    },
)

# What is drawn by keys of randomness even where nothing is trained.
REDRAWN = ("zoo.sabotage", "zoo.attack.share", "panel.held_out_classes")
