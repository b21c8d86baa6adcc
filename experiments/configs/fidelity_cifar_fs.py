r"""One fidelity switch at a time, at equal budget, judged on the validation classes.

    for switch in none distill moments store outer augment align reference; do
      python experiments/run.py \
        --config=experiments/configs/fidelity_cifar_fs.py:switch=$switch \
        --workdir=runs/fidelity/$switch \
        --config.data.path=DIR/cifar_fs --config.zoo.path=DIR/teachers
    done

Each switch turns ONE of our defaults into what FREE's released code does;
``reference`` turns all of them; ``align`` leaves the alignment out.  Test classes are
not looked at.

Hours: not timed; 20 small steps, minutes on one core.  Expected accuracy: the table of
docs/results/fidelity.md: 28.1 to 29.7, where random initialisation has 26.8.
"""

from typing import Any

import ml_collections

from experiments.configs import free as free_config
from experiments.configs.variants import CIFAR_FS, make, parse_variant
from experiments.methods import free

# All switches see the same teachers and budget.
BUDGET: dict[str, Any] = {
    "num_steps": 20,
    "inversion.generator.width": 16,
    "recover.teachers_per_step": 2,
    "recover.warmup_steps": 6,
    "replay.max_updates": 10,
    "eval.split": "val",
    "eval.every_steps": 20,
    "eval.val_episodes": 0,  # the final evaluation is on these classes already
    "eval.baselines": (),
}
SWITCHES: dict[str, dict[str, Any]] = {
    "none": {},
    "distill": {"align.distill": "prob_dot"},
    "moments": {"inversion.objective.moments": 0.0},
    "store": {"memory.store": "last"},
    "outer": {"recover.outer_state": "fresh"},
    "augment": {"inversion.objective.augment_per_image": False},
    "align": {"align.scale": 0.0},
    "reference": free_config.RELEASED,
}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config of ``switch=NAME`` (and ``seed=N``)."""
    chosen = parse_variant(variant, switch="none", seed=0, smoke=False)
    if chosen.switch not in SWITCHES:
        raise ValueError(
            f"switch={chosen.switch!r}: choose one of {', '.join(SWITCHES)}"
        )
    small = free_config.SMALL if chosen.smoke else {}
    return make(
        free.Config, CIFAR_FS, BUDGET, SWITCHES[chosen.switch], small, seed=chosen.seed
    )
