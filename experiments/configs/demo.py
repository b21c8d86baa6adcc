"""The whole path on embedded images, nothing to download: `make demo`.

Trains a small zoo on procedural classes, recovers images from its teachers, distils
what all of them say into one model, and evaluates on classes that no teacher saw.
``:free`` meta-trains with FREE instead, ``:reference`` as its released code does.
"""

from experiments.configs import common


def get_config(variant: str = ""):
    """Returns the config of a variant; several are joined by commas."""
    chosen = common.parse_variant(
        variant, free=False, smoke=False, reference=False, seed=-1
    )
    config = _free() if chosen.free or chosen.reference else _panel()
    config.zoo.pretrain.num_teachers = 12
    config.zoo.pretrain.epochs = 12
    config.eval.val_episodes = 50
    if chosen.reference:
        config = common.released_code(config)
    if chosen.smoke:
        config = common.smoke(config)
    if chosen.seed >= 0:
        config.seed = chosen.seed
    return config


def _panel():
    config = common.panel_config("procedural")
    # What the README's figures were measured with; made for twelve teachers.
    config.recover.start, config.recover.num_steps = "noise", 60
    config.recover.objective.total_variation = 1.0
    config.recover.images_per_class, config.recover.scenes = 10, 2000
    config.distill.optimizer = common.adam(3e-3)
    config.num_steps = 500
    config.eval.every_steps = 250
    config.eval.shots = (1,)
    config.eval.yardsticks = ("random", "average", "panel")
    return config


def _free():
    config = common.free_config("procedural")
    config.generator.width = 16
    config.num_steps = 30
    config.inversion.warmup_steps = 10
    config.replay.max_updates = 10
    config.eval.every_steps = 10
    return config
