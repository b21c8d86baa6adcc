r"""Where FREE's accuracy is lost: its parts replaced one at a time.

    for part in real pixels leaves five free unaligned fainter balanced converged; do
      python experiments/run.py --workdir=runs/free_parts/$part \
        --config=experiments/configs/free_parts.py:part=$part
    done

``real`` is the same meta-learner (MAML) in as many updates on REAL training images of
the teachers' classes, which is what recovery can at best reach; ``pixels`` and ``five``
are tasks recovered beforehand, by pixels or by a meta-trained generator, ``leaves`` by
pixels that start from dead leaves, as the panel's do; ``free`` is
the whole, whose memory grows as it learns; ``unaligned`` the whole without BELL,
``fainter`` with a 67th of it; ``balanced`` with batch-norm statistics relative to the
running deviations and weighed by their number; ``converged`` inverts in 50 steps in
place of 5.

Procedural images and twelve teachers trained in the run; ``:cifar_fs`` with
``--config.data.path`` and ``--config.zoo.path`` is the benchmark.  ``:updates=N`` of
the meta-learner (200), ``:seed=N``, ``:smoke``.  Everything is measured on validation
classes; test classes are not looked at.

Hours: two to five minutes a part on one core; ``five``, ``fainter``, ``balanced`` and
``converged`` were not run.  Expected accuracy: the table of
docs/results/free_parts.md.
"""

from typing import Any

import ml_collections

from experiments.configs import free as free_config
from experiments.configs import maml_real_cifar_fs, preinverted_cifar_fs
from experiments.configs.variants import AS_MEASURED, CIFAR_FS, make, parse_variant
from experiments.methods import episodic, free, preinverted

# Of FREE's steps after its warm-up; each replays so often.
REPLAYED = 10
WARMUP = 10

ON_REAL = ("real",)
BEFOREHAND: dict[str, dict[str, Any]] = {
    "pixels": {},
    "leaves": {
        "recover.inversion.init": "dead_leaves",
        "recover.inversion.num_steps": 50,
        "recover.inversion.objective.total_variation": 0.3,
    },
    "five": preinverted_cifar_fs.FIVE,
}
WHOLE: dict[str, dict[str, Any]] = {
    "free": {},
    "unaligned": {"align.scale": 0.0},
    "fainter": {"align.scale": 1.0},
    "balanced": {
        "inversion.objective.moments": 1.0,
        "inversion.objective.statistics": "relative",
        "inversion.objective.balance": True,
    },
    "converged": {"inversion.num_steps": 50},
}
PROCEDURAL: dict[str, Any] = {
    "data.name": "procedural",
    "zoo.pretrain.num_teachers": 12,
    "zoo.pretrain.epochs": 12,
}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config of ``part=NAME``."""
    chosen = parse_variant(
        variant, part="free", cifar_fs=False, updates=200, smoke=False, seed=0
    )
    known = [*ON_REAL, *BEFOREHAND, *WHOLE]
    if chosen.part not in known:
        raise ValueError(f"part={chosen.part!r}: choose one of {', '.join(known)}")
    judged: dict[str, Any] = {
        "eval.split": "val",
        "eval.val_episodes": 0,  # the final evaluation is on these classes already
        "eval.baselines": ("random",),
    }
    data = CIFAR_FS if chosen.cifar_fs else PROCEDURAL
    if chosen.part in WHOLE:
        steps = WARMUP + -(-chosen.updates // REPLAYED)
        return make(
            free.Config,
            data,
            judged,
            {
                "num_steps": steps,
                "eval.every_steps": steps,
                "inversion.generator.width": 16,
                "recover.warmup_steps": WARMUP,
                "replay.max_updates": REPLAYED,
                "replay.patience": REPLAYED,
            },
            WHOLE[chosen.part],
            free_config.SMALL | judged if chosen.smoke else {},
            seed=chosen.seed,
        )
    updates: dict[str, Any] = {
        "num_steps": chosen.updates,
        "eval.every_steps": chosen.updates,
    }
    if chosen.part in ON_REAL:
        no_zoo = {"zoo.pretrain.num_teachers": 0}
        small = {} if not chosen.smoke else maml_real_cifar_fs.SMALL | judged
        return make(
            episodic.Config, data, no_zoo, judged, updates, small, seed=chosen.seed
        )
    return make(
        preinverted.Config,
        data,
        AS_MEASURED,
        judged,
        updates,
        BEFOREHAND[chosen.part],
        preinverted_cifar_fs.SMALL | judged if chosen.smoke else {},
        seed=chosen.seed,
    )
