"""The panel of all teachers, distilled without data into one model, on CIFAR-FS.

    python experiments/run.py --config=experiments/configs/panel_cifar_fs.py \
        --workdir=runs/panel --config.data.path=DIR/cifar_fs --config.zoo.path=DIR

Recovers images from every teacher, adds synthetic scenes, has ALL teachers describe
each of them, and trains one network with a head a teacher on what they say.

Variants: ``:queries`` treats the teachers as black boxes (scenes only, no gradient of
a teacher; they may be endpoints, ``--config.zoo.apis=FILE``), ``:smoke`` a minute on
procedural images, ``:seed=N``.
"""

from experiments.configs import common


def get_config(variant: str = ""):
    """Returns the config of a variant."""
    chosen = common.parse_variant(variant, smoke=False, queries=False, seed=-1)
    config = common.panel_config("cifar_fs")
    if chosen.queries:
        config.recover.scenes = 15000
    if chosen.smoke:
        config = common.smoke(config)
    if chosen.queries:
        config.recover.images_per_class = 0
    if chosen.seed >= 0:
        config.seed = chosen.seed
    return config
