"""Panel distillation from a config."""

from typing import Any

import jax
import numpy as np
import optax

from experiments.harness.method import Meters, Method
from experiments.harness.optimizers import optimizer
from experiments.harness.run import Run
from experiments.methods import base
from experiments.stages import panel_choice
from experiments.stages import prepare as prepare_lib
from free_jax import keys
from free_jax import zoo as zoo_lib
from free_jax.errors import InputError
from free_jax.fewshot import heads
from free_jax.panel import classifiers
from free_jax.panel import model as distilled
from free_jax.panel.distillation import Described, panel_distillation


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
    panel = panel_choice.choose(config, zoo)
    num_teachers = len(panel.asked)
    outputs = num_teachers * zoo.way
    model = base.student(config, outputs)
    options = config.distill
    whitens = options.whitening and options.calibrate_images
    if whitens and outputs > heads.MOST_WHITENED:
        raise InputError(
            f"config.distill.whitening: {outputs} outputs of all teachers make a "
            "matrix of their square; set it to 0, or ask fewer teachers "
            f"(config.panel.teachers) for at most {heads.MOST_WHITENED}"
        )
    tx = optimizer(options.optimizer)
    if options.cosine:
        decay = optax.cosine_decay_schedule(1.0, config.num_steps)
        tx = optax.chain(tx, optax.scale_by_schedule(decay))
    try:
        algorithm = panel_distillation(
            model,
            num_teachers=num_teachers,
            optimizer=tx,
            batch_size=options.batch_size,
            groups=options.groups,
            map_tasks=run.map_tasks,
            temperature=options.temperature,
            crop_padding=options.crop_padding,
            edges=options.edges,
            flip=options.flip,
            mix=options.mix,
            similarity=options.similarity,
        )
    except ValueError as error:
        raise InputError(f"config.distill: {error}") from None
    described, held_out = prepare_lib.described(
        config, zoo, panel, run.map_tasks, run.workdir, run.stop
    )  # takes minutes
    images = natural_images(config, described)
    weights = np.asarray(described.weights)

    @jax.jit
    def calibrated(variables: Any, images: Any, weights: Any) -> Any:
        return distilled.calibrate(
            model,
            variables,
            images,
            weights=weights,
            temperature=options.temperature,
            whitening=options.whitening,
        )

    return Method(
        title=base.title(config, zoo),
        algorithm=algorithm._replace(
            model=lambda state: calibrated(algorithm.model(state), images, weights)
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
        holdout=held_out,
        meters=Meters(
            status={"distill_loss": "kl", "agreement": "agree"},
            images_before=(
                int(described.recovered.sum())
                if config.recover.renew
                else base.images_recovered(config, zoo)
            ),
        ),
    )


def natural_images(config: Any, described: Described) -> np.ndarray | None:
    """The images to calibrate the model on: those most like real ones, if any are.

    Inversions that started from scenes, or scenes where teachers are only asked.
    Inversions from noise are unlike anything real: fitted to them, a model loses.
    How an image was made is known by its pool, which may be of an earlier run.
    """
    count = config.distill.calibrate_images
    rows = np.flatnonzero(described.recovered)
    if rows.size < 2:
        rows = np.arange(len(described.images))
    rows = rows[np.asarray(described.natural)[rows]]
    rng = keys.named_rng(config.seed, "calibration images")
    drawn = np.sort(rng.permutation(rows)[:count])
    return np.asarray(described.images[drawn]) if drawn.size else None
