"""Panel distillation from a config."""

from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np

from experiments.harness import sections
from experiments.harness.method import Meters, Method
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
from experiments.stages import recover as recover_lib
from experiments.stages.options import PanelOptions, RecoverOptions
from free_jax import panel
from free_jax import zoo as zoo_lib
from free_jax.errors import InputError
from free_jax.fewshot import heads
from free_jax.options import Positive
from free_jax.panel import classifiers
from free_jax.panel.distillation import DistillOptions


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
    wanted = recover_lib.panel_options(config)
    choice = panel.choose(run.rng("held-out classes"), zoo, wanted, way=config.way)
    options = sections.read(DistillOptions, config.distill, "config.distill")
    columns = panel.columns_of(zoo.columns, choice.asked)
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
    images = panel.calibration_images(rng, described, options.fit_images)
    weights = np.asarray(described.weights)
    fit = jax.jit(panel.statistics_fitter(model, columns, options))
    return Method(
        title=base.title(config, zoo),
        algorithm=algorithm._replace(
            model=lambda state: fit(algorithm.model(state), images, weights)
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
                if config.recover.against
                else base.images_recovered(config, zoo)
            ),
        ),
    )


def _check_whitening(options: DistillOptions, outputs: int) -> None:
    whitens = options.whitening and options.fit_images
    if whitens and outputs > heads.MOST_WHITENED:
        raise InputError(
            f"config.distill.whitening: {outputs} outputs of all teachers make a "
            "matrix of their square; set it to 0, or ask fewer teachers "
            f"(config.panel.teachers) for at most {heads.MOST_WHITENED}"
        )
