"""Trains a zoo of teachers on random groups of classes: ``config.run = "pretrain"``."""

from typing import Any

import numpy as np

from experiments.evaluation import run_page
from experiments.harness import hosts, metrics, results, stopping
from experiments.harness.command_line import Given
from experiments.inputs import contents
from experiments.inputs.options import ZooOptions
from experiments.methods import checks, dry, runs
from experiments.methods.options import Pretraining
from experiments.stages import pretrain
from free_jax.zoo import Zoo


def main(config: Given, workdir: str) -> dict[str, Any]:
    """Trains ``config.zoo.num_teachers`` teachers and writes ``<workdir>/zoo``.

    Args:
      config: see `experiments/configs/pretrain_cifar_fs_conv4.py`.
      workdir: run directory; the same call continues a stopped run.

    Returns:
      The contents of ``result.json``, or ``{"stopped_at": step}``.
    """
    settings: Pretraining = checks.validate(config)
    with runs.opened(settings, workdir, **_identity(config, settings)) as run:
        try:
            zoo = pretrain.train_zoo(
                settings.pretrain,
                run,
                data=settings.data,
                dtype=settings.dtype,
                checkpoint=settings.checkpoint,
            )
        except stopping.Stopped as stopped:
            return {"stopped_at": stopped.step}
        return _report(config, workdir, zoo)


def check(config: Given, workdir: str) -> dry.Findings:
    """Looks at everything that `main` needs; nothing is trained or written.

    Raises:
      InputError: what `main` would refuse.
    """
    settings: Pretraining = checks.validate(config)
    run, state = runs.looked_at(settings, workdir, **_identity(config, settings))
    zoo = pretrain.untrained(
        settings.pretrain, run, data=settings.data, dtype=settings.dtype
    )
    recipe = ZooOptions(pretrain=settings.pretrain)
    return [
        ("workdir", f"{workdir}: {state}"),
        ("images, train", dry.of_split(settings.data, "train")),
        *dry.teachers(recipe, zoo),
        ("not tried", dry.not_tried(recipe)),
    ]


def _identity(config: Given, settings: Pretraining) -> dict[str, Any]:
    """By what a run is known in its working directory."""
    data = contents.of_data(settings.data, ("train",), ("train",))
    return {"identity": config, "may_change": (), "contents": {"data": data}}


def _report(config: Given, workdir: str, zoo: Zoo) -> dict[str, Any]:
    (group,) = zoo.groups
    ids = np.asarray(group.teachers.class_ids)
    rows = [
        {
            "teacher": i,
            "classes": " ".join(zoo.class_names[c] for c in ids[i]),
            "held-out %": float(100 * accuracy),
        }
        for i, accuracy in enumerate(group.accuracy)
    ]
    metrics.print_table(rows, ["teacher", "classes", "held-out %"], title="teachers")
    mean = float(group.accuracy.mean())
    print(f"mean held-out accuracy {100 * mean:.1f} %; zoo in {workdir}/zoo")
    result = {"held_out_accuracy": mean, "teachers": rows}
    record = results.write_result(workdir, result, config)
    if hosts.is_writer():
        run_page.write(workdir)
    run_page.say_where(workdir)
    return record
