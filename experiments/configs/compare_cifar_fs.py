r"""All methods on the same teachers and episodes, in one table, on CIFAR-FS.

    python experiments/run.py --config=experiments/configs/compare_cifar_fs.py:cpu \
        --workdir=runs/compare --config.data.path=DIR/cifar_fs \
        --config.zoo.path=DIR "--config.choose=('free','panel','baselines')"

Every method is a config file with overrides; each runs as it would alone, at full
length, for every seed.  The same command continues: finished cells are not run again.
Another number of minutes needs another working directory.

Variants: ``:cpu`` gives every cell that trains the same time, smaller settings and 1-
and 5-shot only; the time is two minutes, validation counted, the evaluation at the end
not; ``:minutes=20`` is another.  It also decides the images and steps of the panel,
whose rate decays to its last step: on a core like ours they end before the time does.
``:smoke`` a minute on procedural images.  For the 10- and 20-shot table of the fusion
papers: ``--config.eval.shots="(10,20)"`` (finished cells are evaluated anew, not
trained again).

Hours: 30 minutes a seed for ``:cpu`` on one core that other runs shared, and 44 for the
baselines; otherwise cells times minutes, and the evaluation, a minute a cell.
Expected accuracy: the table of docs/results/comparison.md.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from experiments.configs.variants import CIFAR_FS, make, parse_variant
from experiments.methods.options import UNENDED, Comparison

METHODS = {
    "free": "free_cifar_fs_5w1s.py",
    "free_released": "free_cifar_fs_5w1s.py:reference",
    "panel": "panel_cifar_fs.py",
    "purer": "purer_cifar_fs_5w1s.py",
    "bidf": "bidf_cifar_fs_5w1s.py",
    "preinverted": "preinverted_cifar_fs.py",
    "preinverted_protonet": "preinverted_cifar_fs.py --config.learner.kind=protonet",
    "tgr": "tgr_cifar_fs_5w1s.py",
    "trustworthy": "trustworthy_cifar_fs_5w1s.py",
    "baselines": "baselines_cifar_fs.py",
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
# the runs, not their number of steps, but for the panel, whose rate decays to its last.
TIMED = f"--config.num_steps={UNENDED}"
SMALL_FREE = (
    "--config.inversion.generator.width=16 --config.recover.teachers_per_step=2 "
    "--config.recover.warmup_steps=6 --config.replay.max_updates=10 "
    f"{TIMED} --config.eval.every_steps=5 --config.eval.val_episodes=50"
)
SMALL_REAL = (
    f"{TIMED} --config.replay.episodes_per_update=4 --config.eval.every_steps=50 "
    "--config.eval.val_episodes=50"
)
CPU = {
    "free": f"free_cifar_fs_5w1s.py:cpu {SMALL_FREE}",
    "free_released": f"free_cifar_fs_5w1s.py:cpu,reference {SMALL_FREE}",
    "purer": f"purer_cifar_fs_5w1s.py:cpu {TIMED}",
    "bidf": (
        f"bidf_cifar_fs_5w1s.py:cpu --config.inversion.estimator.frequencies=8 {TIMED}"
    ),
    "preinverted": f"preinverted_cifar_fs.py:cpu {TIMED}",
    "preinverted_protonet": (
        f"preinverted_cifar_fs.py:cpu {TIMED} --config.learner.kind=protonet"
    ),
    "tgr": f"tgr_cifar_fs_5w1s.py:cpu {TIMED}",
    "trustworthy": f"trustworthy_cifar_fs_5w1s.py:cpu {TIMED}",
    "maml_real": f"maml_real_cifar_fs.py {SMALL_REAL}",
    "anil_real": f"maml_real_cifar_fs.py {SMALL_REAL} --config.learner.kind=anil",
    "protonet_real": (
        f"maml_real_cifar_fs.py {SMALL_REAL} --config.learner.kind=protonet"
    ),
    "preinverted_five": f"preinverted_cifar_fs.py:cpu,five {TIMED}",
    "preinverted_generator": f"preinverted_cifar_fs.py:cpu,generator {TIMED}",
    "preinverted_anil": (
        f"preinverted_cifar_fs.py:cpu {TIMED} --config.learner.kind=anil"
    ),
}

SMOKE = {
    "free": "free_cifar_fs_5w1s.py:smoke",
    "panel": "panel_cifar_fs.py:smoke",
    "preinverted": "preinverted_cifar_fs.py:smoke",
    "preinverted_five": "preinverted_cifar_fs.py:smoke,five",
    "baselines": "baselines_cifar_fs.py:smoke",
    "protonet_real": "maml_real_cifar_fs.py:smoke --config.learner.kind=protonet",
}


SMALL: dict[str, Any] = {
    "methods": SMOKE,
    "choose": tuple(SMOKE),
    "data.name": "procedural",
    "seeds": (0,),
    "eval.shots": (1, 5),
    "eval.episodes": 20,
    "zoo.pretrain.num_teachers": 3,
    "zoo.pretrain.epochs": 2,
    "zoo.pretrain.model.kwargs.width": 8,
}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a variant."""
    chosen = parse_variant(variant, cpu=False, minutes=0.0, smoke=False, seed=-1)
    minutes = budget_of(chosen.minutes) or (2.0 if chosen.cpu else 0.0)
    if minutes and chosen.smoke:
        raise ValueError("variant 'smoke' has no budget: leave out cpu and minutes")
    seeds = {"seeds": (chosen.seed,)} if chosen.seed >= 0 else {}
    return make(
        Comparison,
        CIFAR_FS,
        {"choose": tuple(METHODS), "methods": METHODS | MORE},
        seeds,
        _short(minutes) if minutes else {},
        SMALL if chosen.smoke else {},
        seed=chosen.seed,
    )


def budget_of(minutes: float) -> float:
    """Minutes of a cell as a variant has them; 0 is full length.

    Raises:
      ValueError: so few minutes are compilation and nothing else.
    """
    if minutes and not 1 <= minutes < float("inf"):
        raise ValueError(
            f"variant 'minutes' takes 0, full length, or 1 and more, not {minutes:g}"
        )
    return minutes


def _short(minutes: float) -> dict[str, Any]:
    """A budget of minutes on one core.

    Time ends the runs; the panel's images and steps are so many that they should end
    before.
    """
    panel = {
        "recover.images_per_class": max(1, round(minutes / 2)),
        "recover.inversion.num_steps": 60,
        "recover.dead_leaves": round(750 * minutes),
        "num_steps": round(200 * minutes),
        "eval.every_steps": round(100 * minutes),
        "eval.val_episodes": 50,
    }
    short = CPU | {"panel": with_keys("panel_cifar_fs.py", panel)}
    return {
        "methods": METHODS | MORE | short,
        "max_seconds": 60 * minutes,
        "eval.shots": (1, 5),
        "eval.episodes": 200,
    }


def with_keys(config: str, keys: Mapping[str, Any]) -> str:
    """A config's command line with keys set.

    >>> with_keys("panel_cifar_fs.py", {"num_steps": 400})
    'panel_cifar_fs.py --config.num_steps=400'
    """
    return " ".join(
        [config, *(f"--config.{key}={value}" for key, value in keys.items())]
    )
