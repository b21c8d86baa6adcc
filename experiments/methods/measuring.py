"""The real images that a finished model is measured on, and what is told of that."""

import os

import jax

from experiments import inputs
from experiments.evaluation import report, selection
from experiments.harness import files, metrics, sections
from experiments.harness.run import Run
from experiments.inputs import further, networks
from experiments.methods.options import Common, Comparison, Settings
from free_jax import baselines
from free_jax.fewshot.learners import MetaLearner
from free_jax.types import ImageBank
from free_jax.zoo import Zoo


def check(common: Common) -> None:
    """Refuses what the end needs and has not, before the run claims its folder."""
    options, measured = common.eval, splits(common)
    selection.check(options, measured)
    metrics.check_packages(tensorboard=common.log.tensorboard)
    for split in measured:
        inputs.check_evaluation(
            common.data,
            split,
            way=common.way,
            images_per_class=max(options.shots) + options.queries,
        )
    folders(common)


def splits(common: Common) -> tuple[str, ...]:
    """The splits of real images that the run is measured on; none without a folder."""
    if not inputs.has_images(common.data):
        return ()
    options = common.eval
    also = ("val",) if options.val_episodes and options.split != "val" else ()
    return (options.split, *also)


def folders(common: Common | Comparison) -> tuple[further.Further, ...]:
    """Further folders that the finished model, or all cells, are measured on."""
    return further.listed(
        common.eval.also,
        common.eval.split,
        way=common.way,
        shots=max(common.eval.shots),
        queries=common.eval.queries,
    )


def banks(common: Common, zoo: Zoo | None) -> dict[str, ImageBank]:
    """The images of each of those splits, as the teachers see them."""
    options = common.eval
    return {
        split: inputs.evaluation_bank(
            common.data,
            split,
            way=common.way,
            images_per_class=max(options.shots) + options.queries,
            zoo=zoo,
        )
        for split in splits(common)
    }


def setting(
    common: Common, run: Run, zoo: Zoo | None, bank: ImageBank, learner: MetaLearner
) -> baselines.Setting:
    """What all rows of the final table share."""
    return baselines.make_setting(
        jax.random.key(run.seed),
        run.place(bank),
        zoo,
        # The network of one output a class, whatever the method itself trains.
        student=networks.student(
            common.student, common.way, common.data, common.dtype, zoo
        ),
        learner=learner,
        way=common.way,
        queries=common.eval.queries,
        num_episodes=common.eval.episodes,
        temperature=common.eval.temperature,
        map_tasks=run.map_tasks,
        place=run.place,
    )


def about(config: Settings) -> report.About:
    """What the table and the result say of the run."""
    common: Common = config.common
    options = common.eval
    return report.About(
        algorithm=config.algorithm,
        learner=files.to_plain(sections.plain(config.learner)),
        data=common.data.name or os.path.basename(common.data.path.rstrip("/")),
        split=options.split,
        way=common.way,
        shots=options.shots,
        queries=options.queries,
        episodes=options.episodes,
        selection=options.select,
        protocol=options.protocol,
    )
