r"""All methods on zoos of several domains: CIFAR-FS, mini-ImageNet and CUB.

    python experiments/run.py --config=experiments/configs/compare_domains.py \
        --workdir=runs/domains --config.data.path=DIR/mini_imagenet \
        --config.eval.also=cifar_fs:DIR/cifar_fs,cub:DIR/cub \
        --config.zoos.ss_cifar_fs=CIFAR --config.zoos.ss_mini_imagenet=MINI \
        --config.zoos.ss_cub=BIRDS --config.zoos.sh=CIFAR,CIFAR_RESNETS \
        --config.zoos.mh=CIFAR,MINI,BIRDS

A cell is a setting and a method, as ``mh_panel``: SS are the teachers of one domain and
one network, SH those of one domain and several networks, MH of all domains.  Settings
without a path are left out.  Each value is what ``--config.zoo.path`` takes: converted
zoos (`experiments/convert_zoo.py`, one a data set) or those that
`pretrain_cub_conv4.py` and `pretrain_cifar_fs_conv4.py` wrote.  Each teacher sees
images of its own size, normalised as it was trained; the model of a cell is tested on
the test classes of every domain, and the second table has their mean.

The model sees images of 84 pixels, as in the papers; ``:size=32`` makes it 32, of
CIFAR-FS (then ``--config.data.path=DIR/cifar_fs`` and ``--config.eval.also`` names the
other two).  The same command continues: finished cells are not run again.

Variants: ``:minutes=15`` is the budget of a cell (``--config.max_seconds``), which also
decides how many teachers of each network (three a minute, at most 30) and how many
images and steps the panel has: its training is ended by time, its recovery is not, and
where that takes all a few steps are left; ``:minutes=0`` all teachers and full length;
``:size=32``, ``:seed=N``; ``:smoke`` procedural images.

Hours: cells times minutes, and the evaluation.  Expected accuracy: the table of
docs/results/domains.md.
"""

from typing import Any

import ml_collections

from experiments.configs.compare_cifar_fs import (
    CPU,
    METHODS,
    budget_of,
    with_keys,
)
from experiments.configs.variants import make, parse_variant
from experiments.methods.options import Comparison

# What the model's images are, by their size; the others are further folders.
DATA = {32: "cifar_fs", 84: "mini_imagenet"}
SETTINGS = ("mh", "ss_cifar_fs", "ss_mini_imagenet", "ss_cub", "sh")
CHOSEN = ("panel", "purer", "bidf", "free")
BASELINES = "baselines_cifar_fs.py --config.eval.baselines=\"('teacher',)\""

DOMAINS: dict[str, Any] = {
    "methods": {name: METHODS[name] for name in CHOSEN} | {"baselines": BASELINES},
    "zoos": dict.fromkeys(SETTINGS, ""),
    "seeds": (0,),
    "eval.shots": (1, 5),
}
SMOKE: dict[str, Any] = {
    "methods": {
        "panel": "panel_cifar_fs.py:smoke",
        "purer": "purer_cifar_fs_5w1s.py:smoke",
        "bidf": "bidf_cifar_fs_5w1s.py:smoke",
        "free": "free_cifar_fs_5w1s.py:smoke",
        "baselines": BASELINES.replace(".py", ".py:smoke"),
    },
    "data.name": "procedural",
    "eval.episodes": 20,
    "zoo.pretrain.num_teachers": 3,
    "zoo.pretrain.epochs": 2,
    "zoo.pretrain.model.kwargs.width": 8,
}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a variant."""
    chosen = parse_variant(variant, minutes=15.0, size=84, smoke=False, seed=-1)
    if chosen.size not in DATA:
        raise ValueError(f"variant 'size' takes {' or '.join(map(str, DATA))}")
    minutes = budget_of(chosen.minutes)
    seeds = {"seeds": (chosen.seed,)} if chosen.seed >= 0 else {}
    return make(
        Comparison,
        DOMAINS,
        {"data.name": DATA[chosen.size]},
        seeds,
        _short(minutes) if minutes else {},
        SMOKE if chosen.smoke else {},
        seed=chosen.seed,
    )


def _short(minutes: float) -> dict[str, Any]:
    """A budget of minutes: time ends the runs.

    The panel's rate decays to its last step: it has so many images and steps that they
    should end before.
    """
    panel = {
        "recover.images_per_class": max(1, round(minutes / 4)),
        "recover.dead_leaves": round(100 * minutes),
        "num_steps": round(80 * minutes),
        "eval.every_steps": round(80 * minutes),
        "eval.val_episodes": 0,
    }
    short = CPU | {"panel": with_keys("panel_cifar_fs.py", panel)}
    return {
        "methods": {name: short[name] for name in CHOSEN} | {"baselines": BASELINES},
        "max_seconds": 60 * minutes,
        "zoo.num_teachers": max(1, min(30, round(3 * minutes))),
        "eval.episodes": 200,
    }
