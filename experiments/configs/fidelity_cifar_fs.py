"""One fidelity switch at a time, at equal budget, judged on the validation classes.

    for switch in none distill moments store outer augment align reference; do
      python experiments/run.py \
        --config=experiments/configs/fidelity_cifar_fs.py:switch=$switch \
        --workdir=runs/fidelity/$switch \
        --config.data.path=DIR/cifar_fs --config.zoo.path=DIR/teachers
    done

Each switch turns ONE of our defaults into what FREE's released code does;
``reference`` turns all of them; ``align`` leaves the alignment out.  Test classes are
not looked at.
"""

from experiments.configs import common


def get_config(variant: str = ""):
    """Returns the config of ``switch=NAME`` (and ``seed=N``)."""
    chosen = common.parse_variant(variant, switch="none", seed=0, smoke=False)
    config = common.free_config("cifar_fs")
    # Three minutes on one core; all switches see the same teachers and budget.
    config.num_steps = 20
    config.generator.width = 16
    config.inversion.teachers_per_step = 2
    config.inversion.warmup_steps = 6
    config.replay.max_updates = 10
    config.eval.split = "val"
    config.eval.every_steps = config.num_steps
    config.eval.val_episodes = 0  # the final evaluation is on these classes already
    config.eval.yardsticks = ()
    inversion = config.inversion
    if chosen.switch == "distill":
        config.align.distill = "prob_dot"
    elif chosen.switch == "moments":
        inversion.objective.moments = 0.0
    elif chosen.switch == "store":
        config.memory.store = "last"
    elif chosen.switch == "outer":
        inversion.outer_state = "fresh"
    elif chosen.switch == "augment":
        inversion.objective.augment_per_image = False
    elif chosen.switch == "align":
        config.align.scale = 0.0
    elif chosen.switch == "reference":
        common.released_code(config)
    elif chosen.switch != "none":
        raise ValueError(
            f"switch={chosen.switch!r}: choose none, distill, moments, store, outer, "
            "augment, align or reference"
        )
    if chosen.smoke:
        config = common.smoke(config)
    config.seed = chosen.seed
    return config
