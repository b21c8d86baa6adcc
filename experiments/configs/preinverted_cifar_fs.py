"""Pre-inverted memory on CIFAR-FS: recover every teacher's task, then meta-learn.

    python experiments/run.py --config=experiments/configs/preinverted_cifar_fs.py \
        --workdir=runs/preinverted --config.data.path=DIR/cifar_fs \
        --config.zoo.path=DIR

Pixels by default.  Variants: ``:generator`` one generator a teacher (200 steps),
``:five`` a meta-trained generator (5 steps), ``:cpu`` fewer images and steps,
``:smoke`` a minute on procedural images, ``:seed=N``.  The learner is MAML;
``--config.learner.kind=protonet`` (or ``anil``) is another.  On top of a panel run's
model: ``--config.learner.initial=runs/panel/model.npz
--config.recover.reuse=runs/panel --config.recover.start=scenes``; with
``--config.replay.labels=panel`` all teachers say what class an image is of.
"""

from experiments.configs import common


def get_config(variant: str = ""):
    """Returns the config of a variant."""
    chosen = common.parse_variant(
        variant, generator=False, five=False, cpu=False, smoke=False, seed=-1
    )
    config = common.preinverted_config("cifar_fs")
    if chosen.generator:
        # FREE's objective and generator, without what meta-training brought.
        config = common.five(config)
        config.recover.backend = "generator"
        config.recover.num_steps = 200
    if chosen.five:
        config = common.five(config)
    if chosen.cpu:
        # With many teachers a class every class still has images of several.
        config.recover.images_per_class = 8
        config.num_steps = 300
        config.eval.every_steps = 50
        config.eval.val_episodes = 50
        config.replay.episodes_per_update = 4
        if config.recover.backend == "pixels":
            config.recover.num_steps = 25
    if chosen.smoke:
        config = common.smoke(config)
        config.replay.queries = 3
    if chosen.seed >= 0:
        config.seed = chosen.seed
    return config
