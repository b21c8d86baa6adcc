"""All methods on the same teachers and episodes, in one table, on CIFAR-FS.

    python experiments/run.py --config=experiments/configs/compare_cifar_fs.py:cpu \
        --workdir=runs/compare --config.data.path=DIR/cifar_fs \
        --config.zoo.path=DIR "--config.choose=('free','panel','yardsticks')"

Every method is a config file with overrides; each runs as it would alone, at full
length, for every seed.  The same command continues: finished cells are not run again.

Variants: ``:cpu`` gives every cell the same time (``--config.max_seconds``), smaller
settings and 1- and 5-shot only: some four minutes a cell on one core, evaluation
included; ``:smoke`` a minute on procedural images.  For the 10- and 20-shot table of
the fusion papers: ``--config.eval.shots="(10,20)"`` (finished cells are evaluated anew,
not trained again).
"""

import ml_collections

from experiments.configs import common

METHODS = {
    "free": "free_cifar_fs_5w1s.py",
    "free_released": "free_cifar_fs_5w1s.py:reference",
    "panel": "panel_cifar_fs.py",
    "purer": "purer_cifar_fs_5w1s.py",
    "bidf": "bidf_cifar_fs_5w1s.py",
    "preinverted": "preinverted_cifar_fs.py",
    "preinverted_protonet": "preinverted_cifar_fs.py --config.learner.kind=protonet",
    "yardsticks": "yardsticks_cifar_fs.py",
    # Not data-free: upper bounds.
    "maml_real": "maml_real_cifar_fs.py",
    "anil_real": "maml_real_cifar_fs.py --config.learner.kind=anil",
    "protonet_real": "maml_real_cifar_fs.py --config.learner.kind=protonet",
}

# Not in the table unless chosen: other back-ends and learners of the same memory.
MORE = {
    "preinverted_five": "preinverted_cifar_fs.py:five",
    "preinverted_generator": "preinverted_cifar_fs.py:generator",
    "preinverted_anil": "preinverted_cifar_fs.py --config.learner.kind=anil",
}

# Smaller settings, so that a budget of minutes sees more than compilation; time ends
# the runs, not their number of steps, but for the panel, whose rate decays to zero.
SMALL_FREE = (
    "--config.generator.width=16 --config.inversion.teachers_per_step=2 "
    "--config.inversion.warmup_steps=6 --config.replay.max_updates=10 "
    "--config.num_steps=1000 --config.eval.every_steps=5 --config.eval.val_episodes=50"
)
SMALL_REAL = (
    "--config.replay.episodes_per_update=4 --config.eval.every_steps=50 "
    "--config.eval.val_episodes=50"
)
# Values that differ from today's defaults are those of the table in docs/compare.
CPU = {
    "free": f"free_cifar_fs_5w1s.py:cpu {SMALL_FREE}",
    "free_released": f"free_cifar_fs_5w1s.py:cpu,reference {SMALL_FREE}",
    "panel": (
        "panel_cifar_fs.py --config.recover.images_per_class=1 "
        "--config.recover.num_steps=60 --config.recover.scenes=1500 "
        "--config.recover.start=noise "
        "--config.recover.objective.total_variation=1.0 "
        "--config.distill.optimizer.kwargs.learning_rate=0.003 "
        "--config.num_steps=400 --config.eval.every_steps=200 "
        "--config.eval.val_episodes=50"
    ),
    "purer": "purer_cifar_fs_5w1s.py:cpu",
    "bidf": "bidf_cifar_fs_5w1s.py:cpu --config.black_box.frequencies=8",
    "preinverted": "preinverted_cifar_fs.py:cpu --config.num_steps=2000",
    "preinverted_protonet": (
        "preinverted_cifar_fs.py:cpu --config.num_steps=2000 "
        "--config.learner.kind=protonet"
    ),
    "maml_real": f"maml_real_cifar_fs.py {SMALL_REAL}",
    "anil_real": f"maml_real_cifar_fs.py {SMALL_REAL} --config.learner.kind=anil",
    "protonet_real": (
        f"maml_real_cifar_fs.py {SMALL_REAL} --config.learner.kind=protonet"
    ),
}

SMOKE = {
    "free": "free_cifar_fs_5w1s.py:smoke",
    "panel": "panel_cifar_fs.py:smoke",
    "preinverted": "preinverted_cifar_fs.py:smoke",
    "preinverted_five": "preinverted_cifar_fs.py:smoke,five",
    "yardsticks": "yardsticks_cifar_fs.py:smoke",
    "protonet_real": "maml_real_cifar_fs.py:smoke --config.learner.kind=protonet",
}


def get_config(variant: str = ""):
    """Returns the config of a variant."""
    chosen = common.parse_variant(variant, cpu=False, smoke=False, seed=-1)
    config = ml_collections.ConfigDict(
        {
            "run": "compare",
            "seed": 0,  # of a zoo that is trained here; cells take `seeds`
            "seeds": (0, 1),
            "way": 5,
            "data": common.data_config("cifar_fs"),
            "zoo": common.zoo_config(),
            "choose": tuple(METHODS),
            "methods": METHODS | MORE,
            "eval": {
                "shots": (1, 5, 10, 20),
                "queries": 15,
                "split": "test",
                "episodes": 600,
                "temperature": 4.0,
            },
            **common.harness_config(),
        }
    )
    if chosen.seed >= 0:
        config.seed, config.seeds = chosen.seed, (chosen.seed,)
    if chosen.cpu:
        config.methods = METHODS | MORE | CPU
        config.max_seconds = 120.0
        config.eval.shots = (1, 5)
        config.eval.episodes = 200
    if chosen.smoke:
        config.methods = SMOKE
        config.choose = tuple(SMOKE)
        config.data.name = "procedural"
        config.seeds = (0,)
        config.eval.shots = (1, 5)
        config.eval.episodes = 20
        config.zoo.pretrain.num_teachers = 3
        config.zoo.pretrain.epochs = 2
        config.zoo.pretrain.model.kwargs.width = 8
    return config
