r"""Folders of models in, one few-shot learner out, in a minute or two: `make demo`.

    python experiments/run.py --config=experiments/configs/demo.py \
        --workdir=runs/demo/model --config.zoo.path=FIVE,FOUR,SEVEN

`panel.py` with fewer images and steps.  No data is named and none is read: sizes and
normalisation come from the teachers, which `demo_teachers.py` trained.

``:measured`` trains twelve teachers in the run and measures the result on procedural
classes that none of them saw; ``:free`` meta-trains with FREE from the same teachers
instead, ``:reference`` as its released code does; ``:smoke`` is smaller, ``:seed=N``
another seed.

Hours: two minutes on two cores; ``:measured`` five.  Expected accuracy of
``:measured``, 5-way 1-shot, by an earlier version (commit ``da22ea7``): the distilled
model 81 % (87 % when it sees all queries), random initialisation 28 %, the average of
the teachers 32 %, all twelve teachers together 87 %.
"""

from typing import Any

import ml_collections

from experiments.configs import free as free_config
from experiments.configs import panel as panel_config
from experiments.configs.variants import AS_MEASURED, adam, make, parse_variant
from experiments.methods import free, panel

PANEL: dict[str, Any] = {
    "recover.images_per_class": 10,
    "recover.dead_leaves": 2000,
    "distill.optimizer": adam(3e-3),
    "num_steps": 500,
}
ZOO = {
    "data.name": "procedural",
    "zoo.pretrain.num_teachers": 12,
    "zoo.pretrain.epochs": 12,
    "eval.val_episodes": 50,
}
# What the figures of `:measured` were made with; teachers of one network.
MEASURED: dict[str, Any] = AS_MEASURED | {
    "recover.inversion.init": "noise",
    "recover.inversion.num_steps": 60,
    "recover.inversion.objective.total_variation": 1.0,
    "eval.every_steps": 250,
    "eval.shots": (1,),
    "eval.baselines": ("random", "average", "panel"),
}
FREE: dict[str, Any] = {
    "inversion.generator.width": 16,
    "num_steps": 30,
    "recover.warmup_steps": 10,
    "replay.max_updates": 10,
    "eval.every_steps": 10,
}
# Of a smaller run that still has its teachers from elsewhere.
NO_DATA = {"data.name": "", "zoo.pretrain.num_teachers": 0}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a variant; several are joined by commas."""
    chosen = parse_variant(
        variant, measured=False, free=False, smoke=False, reference=False, seed=-1
    )
    if chosen.free or chosen.reference:
        return make(
            free.Config,
            FREE,
            ZOO,
            free_config.RELEASED if chosen.reference else {},
            free_config.SMALL if chosen.smoke else {},
            seed=chosen.seed,
        )
    return make(
        panel.Config,
        PANEL,
        MEASURED | ZOO if chosen.measured else {},
        panel_config.SMALL if chosen.smoke else {},
        {} if chosen.measured else NO_DATA,
        seed=chosen.seed,
    )
