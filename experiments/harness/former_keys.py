"""Names that keys of a config had before, and what became of them: the one table.

Command lines and the ``config.json`` of earlier runs are read through it.  It knows
names only; what the keys do is said where their sections are declared.
"""

from collections.abc import Mapping
from typing import Any

# Former key or section -> its name today; the longest that fits is taken.
KEYS = {
    "eval.yardsticks": "eval.baselines",
    "learner.initial": "learner.init_from",
    "replay.labels": "labels",
    "methods.yardsticks": "methods.baselines",
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
    "recover.meta_rate": "recover.meta_optimizer.kwargs.learning_rate",
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
    "black_box.num_directions": "inversion.estimator.num_directions",
    "black_box.smoothing": "inversion.estimator.smoothing",
    "black_box.frequencies": "inversion.estimator.frequencies",
    "black_box.antithetic": "inversion.estimator.antithetic",
    "black_box.at_once": "inversion.estimator.at_once",
    # Of PURER.
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
    "recover.inversion.init": {"scenes": "dead_leaves"},
    "recover.inversion.source": {"five": "generator"},
    "inversion.source": {"sigmoid": "pixels", "normalized": "normalized_pixels"},
}

# What a back-end of section ``recover`` stood for, beside the source of images.
BACKENDS: dict[str, dict[str, Any]] = {
    "pixels": {
        "recover.inversion.decay": "cosine",
        "recover.inversion.optimizer.kwargs.b1": 0.9,
        "recover.meta_steps": 0,
    },
    "generator": {
        "recover.inversion.init": "noise",  # Only pixels start from anything else.
        "recover.inversion.decay": "none",
        "recover.inversion.optimizer.kwargs.b1": 0.5,
        "recover.meta_steps": 0,
    },
    "five": {
        "recover.inversion.init": "noise",  # Only pixels start from anything else.
        "recover.inversion.decay": "none",
        "recover.inversion.optimizer.kwargs.b1": 0.5,
        "recover.meta_steps": 60,
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
}

# What keys of an objective were that a config did not name.
OBJECTIVE: dict[str, Any] = {
    "cross_entropy": 1.0,
    "moments": 1.0,
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


def key_today(key: str) -> str:
    """The name of a key today; a key that never changed is returned as it is.

    >>> key_today("recover.objective.moments")
    'recover.inversion.objective.moments'
    """
    for length in range(key.count("."), -1, -1):
        prefix = ".".join(key.split(".")[: length + 1])
        if prefix in KEYS:
            return KEYS[prefix] + key[len(prefix) :]
    return key


def value_today(key: str, value: Any) -> Any:
    """A value of a key of today, which may have had another name.

    >>> value_today("algorithm", "yardsticks")
    'baselines'
    """
    known = VALUES.get(key, {})
    if isinstance(value, (list, tuple)):
        return type(value)(value_today(key, item) for item in value)
    return known.get(value, value) if isinstance(value, str) else value


def override_today(key: str, value: str) -> dict[str, str]:
    """What one override of a command line says today, as keys and texts.

    >>> override_today("recover.start", "scenes")
    {'recover.inversion.init': 'dead_leaves'}
    """
    if key in GONE:
        return {}
    today = key_today(key)
    told: dict[str, str] = {}
    if key == "recover.backend":
        told = {name: str(item) for name, item in BACKENDS.get(value, {}).items()}
    text = VALUES.get(today, {}).get(value, value)
    for old, new in VALUES.get(today, {}).items():
        # A tuple of names, as Python writes it.
        text = text.replace(f"'{old}'", f"'{new}'").replace(f'"{old}"', f'"{new}"')
    return {today: text} | told


def upgraded(
    flat: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A flat config as a run of today would write it.

    Args:
      flat: dotted keys, perhaps with former names.
      defaults: of today's config of the same method; keys that are new since get these,
        where the config was written before they existed.

    Returns:
      A new dict; equal to `flat` where that was of today already.
    """
    if not is_former(flat):
        return dict(flat)
    unused = UNUSED.get(str(flat.get("algorithm")), ())
    found: dict[str, Any] = {}
    for key, value in flat.items():
        if any(key == name or key.startswith(f"{name}.") for name in unused):
            continue
        if key not in GONE:
            today = key_today(key)
            found[today] = value_today(today, value)
    backend = flat.get("recover.backend")
    if backend in BACKENDS:
        told = dict(BACKENDS[backend])
        if backend == "five":  # With as many steps as the config says.
            told["recover.meta_steps"] = flat.get("recover.meta_steps", 60)
        found |= told
    for section in [key for key in found if key.endswith("objective.cross_entropy")]:
        prefix = section.removesuffix("cross_entropy")
        found = {f"{prefix}{key}": value for key, value in OBJECTIVE.items()} | found
    new = {
        key: value
        for key, value in (defaults or {}).items()
        if not _is_said(key, found)
    }
    return new | found


def _is_said(key: str, found: Mapping[str, Any]) -> bool:
    """Whether a config says by other keys what a key of the defaults would add."""
    call, keywords, _ = key.partition(".kwargs.")
    named = bool(keywords) and f"{call}.name" in found
    return named or any(name.startswith(f"{key}.") for name in found)


def is_former(flat: Mapping[str, Any]) -> bool:
    """Whether a flat config was written before the names of today."""
    values = any(
        str(flat.get(key)) in former for key, former in VALUES.items() if key in flat
    )
    return values or any(key in GONE or key_today(key) != key for key in flat)
