"""Panel distillation from a config."""

from typing import Any

import jax
import numpy as np

from experiments.harness.method import Meters, Method
from experiments.harness.run import Run
from experiments.methods import base
from experiments.stages import recover as recover_lib
from free_jax import panel
from free_jax import zoo as zoo_lib
from free_jax.errors import InputError
from free_jax.fewshot import heads
from free_jax.panel import classifiers


def limits(config: Any) -> tuple[base.Choices, base.Positive]:
    """What the config may hold."""
    recover = config.recover
    if config.eval.select == "pseudo" and not config.panel.held_out_classes:
        raise InputError(
            "config.eval.select=pseudo: nothing is held out to select by; set "
            "config.panel.held_out_classes, or choose last or val"
        )
    if recover.scenes < 0:
        raise InputError(f"config.recover.scenes={recover.scenes} must not be negative")
    for name in ("whitening", "calibrate_images"):
        if config.distill[name] < 0:
            raise InputError(
                f"config.distill.{name}={config.distill[name]} must not be negative; "
                "0 is none"
            )
    if config.learner.head_scale <= 0:
        raise InputError(
            f"config.learner.head_scale={config.learner.head_scale} must be positive"
        )
    if not recover.images_per_class and not recover.scenes:
        raise InputError(
            "config.recover: images_per_class=0 and scenes=0 leave nothing to learn "
            "from; ask for one of them"
        )
    _check_renewal(config)
    choices, positive = base.recover_limits(recover)
    choices |= {
        "distill.mix": (config.distill.mix, ("none", "mixup", "cutmix")),
        "distill.edges": (config.distill.edges, ("black", "wrap")),
    }
    return choices, positive | {"distill.batch_size": config.distill.batch_size}


def _check_renewal(config: Any) -> None:
    recover = config.recover
    if not recover.renew:
        return
    if recover.reuse or config.panel.held_out_classes or config.panel.teachers:
        raise InputError(
            "config.recover.renew: the earlier model was taught by all teachers; leave "
            "recover.reuse, panel.teachers and panel.held_out_classes unset"
        )
    if not recover.images_per_class:
        raise InputError(
            "config.recover.renew: no image is recovered (images_per_class=0); ask for "
            "some, or use recover.reuse"
        )


def build(config: Any, zoo: zoo_lib.Zoo, run: Run) -> Method:
    """See `methods.build`."""
    wanted = recover_lib.panel_options(config)
    choice = panel.choose(run.rng("held-out classes"), zoo, wanted, way=config.way)
    options = panel.DistilOptions(**config.distill.to_dict())
    widths = np.diff(zoo.columns)[choice.asked]
    columns = np.concatenate([[0], np.cumsum(widths)])
    model = base.student(config, int(columns[-1]))
    _check_whitening(options, model.num_classes)
    try:
        algorithm = panel.distillation(
            model, columns, options, config.num_steps, map_tasks=run.map_tasks
        )
    except ValueError as error:
        raise InputError(f"config.distill: {error}") from None
    found = recover_lib.described(config, zoo, choice, run)  # takes minutes
    described = found.described
    rng = run.rng("calibration images")
    images = panel.calibration_images(rng, described, options.calibrate_images)
    weights = np.asarray(described.weights)
    fit = jax.jit(panel.statistics_fitter(model, options))
    return Method(
        title=base.title(config, zoo),
        algorithm=algorithm._replace(
            params=lambda state: fit(algorithm.params(state), images, weights)
        ),
        data=described,
        network=model,
        predictors=classifiers.methods(
            model,
            way=config.way,
            num_steps=config.learner.test_steps,
            learning_rate=config.learner.test_lr or config.learner.inner_lr,
            head_scale=config.learner.head_scale,
        ),
        holdout=found.held_out,
        meters=Meters(
            status={"distill_loss": "kl", "agreement": "agree"},
            images_before=(
                int(described.recovered.sum())
                if config.recover.renew
                else base.images_recovered(config, zoo)
            ),
        ),
    )


def _check_whitening(options: panel.DistilOptions, outputs: int) -> None:
    whitens = options.whitening and options.calibrate_images
    if whitens and outputs > heads.MOST_WHITENED:
        raise InputError(
            f"config.distill.whitening: {outputs} outputs of all teachers make a "
            "matrix of their square; set it to 0, or ask fewer teachers "
            f"(config.panel.teachers) for at most {heads.MOST_WHITENED}"
        )
