"""Panel distillation from a config."""

from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np
import optax

from experiments.harness.method import Meters, Method
from experiments.harness.optimizers import optimizer
from experiments.harness.options import CheckpointOptions, LogOptions, MeshOptions
from experiments.harness.run import Run
from experiments.inputs.options import CONV4, DataOptions, ZooOptions
from experiments.methods import base
from experiments.methods.options import (
    Computing,
    Devices,
    EvalOptions,
    Limit,
    Seed,
    Steps,
    Student,
    Way,
)
from experiments.stages import panel_choice
from experiments.stages import prepare as prepare_lib
from experiments.stages.options import PanelOptions, RecoverOptions
from free_jax import keys
from free_jax import zoo as zoo_lib
from free_jax.errors import InputError
from free_jax.fewshot import heads
from free_jax.options import Positive
from free_jax.panel import classifiers
from free_jax.panel import model as distilled
from free_jax.panel.distillation import (
    Described,
    DistillOptions,
    panel_distillation,
)


class AdaptationOptions(NamedTuple):
    """Adaptation by gradient.

    The baselines are adapted so, with a new head; the distilled model by its rate and
    `test_steps` alone.

    Attributes:
      kind: MAML adapts all parameters, ANIL the head alone, ProtoNet none.
      first_order: leave out second derivatives.
      inner_lr: rate of the gradient steps.
      train_steps: those steps in training.
      test_steps: those steps in a test.
      test_lr: their rate in a test; 0 is `inner_lr`.
      head_scale: of logits that are cosines to class means.
    """

    kind: Literal["maml", "anil", "protonet"] = "maml"
    first_order: bool = False
    inner_lr: float = 0.01
    train_steps: int = 5
    test_steps: int = 10
    test_lr: float = 0.0
    head_scale: Annotated[float, Positive()] = 10.0


class Config(NamedTuple):
    """Every key of a panel distillation."""

    run: Literal["meta_train"] = "meta_train"
    algorithm: Literal["panel"] = "panel"
    seed: Seed = 0
    way: Way = 5
    num_steps: Steps = 8000
    data: DataOptions = DataOptions()
    zoo: ZooOptions = ZooOptions()
    student: Student = CONV4
    recover: RecoverOptions = RecoverOptions()
    panel: PanelOptions = PanelOptions()
    distill: DistillOptions = DistillOptions()
    learner: AdaptationOptions = AdaptationOptions()
    eval: EvalOptions = EvalOptions(
        shots=(1, 5),
        every_steps=1000,
        baselines=(
            "random",
            "average",
            "teacher",
            "panel",
            "panel_heads",
            "panel_whitened",
        ),
    )
    max_seconds: Limit = 0.0
    dtype: Computing = "float32"
    host_devices: Devices = 1
    mesh: MeshOptions = MeshOptions()
    log: LogOptions = LogOptions(every_steps=50)
    checkpoint: CheckpointOptions = CheckpointOptions()


def build(config: Any, zoo: zoo_lib.Zoo, run: Run) -> Method:
    """See `methods.build`."""
    panel = panel_choice.choose(config, zoo)
    num_teachers = len(panel.asked)
    outputs = num_teachers * zoo.way
    model = base.student(config, outputs)
    options = config.distill
    whitens = options.whitening and options.fit_images
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
            groups=options.ghost_batches,
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
            params=lambda state: calibrated(algorithm.params(state), images, weights)
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
                if config.recover.against
                else base.images_recovered(config, zoo)
            ),
        ),
    )


def natural_images(config: Any, described: Described) -> np.ndarray | None:
    """The images to calibrate the model on: those most like real ones, if any are.

    Inversions that started from dead leaves, or these where teachers are only asked.
    Inversions from noise are unlike anything real: fitted to them, a model loses.
    How an image was made is known by its pool, which may be of an earlier run.
    """
    count = config.distill.fit_images
    rows = np.flatnonzero(described.recovered)
    if rows.size < 2:
        rows = np.arange(len(described.images))
    rows = rows[np.asarray(described.natural)[rows]]
    rng = keys.named_rng(config.seed, "calibration images")
    drawn = np.sort(rng.permutation(rows)[:count])
    return np.asarray(described.images[drawn]) if drawn.size else None
