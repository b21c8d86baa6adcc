r"""Pre-inverted memory on CIFAR-FS: recover every teacher's task, then meta-learn.

    python experiments/run.py --config=experiments/configs/preinverted_cifar_fs.py \
        --workdir=runs/preinverted --config.data.path=DIR/cifar_fs \
        --config.zoo.path=DIR

Pixels by default.  Variants: ``:generator`` one generator a teacher (200 steps),
``:five`` a meta-trained generator (5 steps), ``:cpu`` fewer images and steps,
``:smoke`` a minute on procedural images, ``:seed=N``.  The learner is MAML;
``--config.learner.kind=protonet`` (or ``anil``) is another.  On top of a panel run's
model: ``--config.learner.init_from=runs/panel/model.npz
--config.recover.reuse=runs/panel --config.recover.inversion.init=dead_leaves``; with
``--config.labels=panel`` all teachers say what class an image is of.

Hours: not measured at full length.  Expected accuracy of two minutes on one core
(`compare_cifar_fs.py:cpu`, two seeds of 200 episodes), 100 Conv4 teachers, test
classes, 1- / 5-shot, transductive: 32.8 +- 0.8 / 41.7 +- 0.9.
"""

from typing import Any

import ml_collections

from experiments.configs import panel
from experiments.configs.variants import (
    AS_MEASURED,
    CIFAR_FS,
    SMOKE,
    make,
    parse_variant,
)
from experiments.methods import free, preinverted
from free_jax.panel.options import PIXELS

# Recovery by FIVE in place of pixels, as `free.Config` has it.
FIVE: dict[str, Any] = {
    "recover.meta_training.num_steps": 60,
    "recover.inversion": free.FIVE._replace(
        generator=free.FIVE.generator._replace(width=PIXELS.generator.width)
    ),
}
# FREE's objective and generator, without what meta-training brought.
GENERATOR = FIVE | {
    "recover.meta_training.num_steps": 0,
    "recover.inversion.num_steps": 200,
}

# With many teachers a class every class still has images of several.
CPU: dict[str, Any] = {
    "recover.images_per_class": 8,
    "num_steps": 300,
    "eval.every_steps": 50,
    "eval.val_episodes": 50,
    "replay.episodes_per_update": 4,
}
SMALL = (
    SMOKE
    | panel.SMALL_RECOVERY
    | {"replay.episodes_per_update": 2, "replay.queries": 3}
)


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a variant."""
    chosen = parse_variant(
        variant, generator=False, five=False, cpu=False, smoke=False, seed=-1
    )
    by_generator = chosen.generator or chosen.five
    meta_trained = chosen.five
    return make(
        preinverted.Config,
        CIFAR_FS | AS_MEASURED,
        GENERATOR if chosen.generator else {},
        FIVE if chosen.five else {},
        CPU if chosen.cpu else {},
        {"recover.inversion.num_steps": 25} if chosen.cpu and not by_generator else {},
        SMALL if chosen.smoke else {},
        {"recover.meta_training.num_steps": 3} if chosen.smoke and meta_trained else {},
        seed=chosen.seed,
    )
