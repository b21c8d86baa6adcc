"""Trains a zoo of teachers on random groups of classes, vectorised and resumable."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath

from experiments import inputs
from experiments.harness import checkpointing, devices, hosts, metrics
from experiments.harness import stopping as stopping_lib
from experiments.harness import workdir as workdir_lib
from experiments.harness.optimizers import optimizer
from experiments.methods import base, checks
from free_jax import keys
from free_jax import zoo as zoo_lib
from free_jax.errors import InputError
from free_jax.fewshot import banks
from free_jax.types import ImageBank, Teachers
from free_jax.zoo import pretraining


def main(config: Any, workdir: str) -> dict[str, Any]:
    """Trains ``config.zoo.num_teachers`` teachers and writes ``<workdir>/zoo``.

    Args:
      config: see `experiments/configs/pretrain_cifar_fs_conv4.py`.
      workdir: run directory; the same call continues a stopped run.

    Returns:
      The contents of ``result.json``, or ``{"stopped_at": step}``.
    """
    checks.validate_pretraining(config.pretrain, "pretrain")
    may_change = ("log", "checkpoint")
    with (
        workdir_lib.claim_workdir(workdir, config, may_change=may_change),
        stopping_lib.StopRequest() as stop,
    ):
        zoo, stopped = train_zoo(config, config.pretrain, workdir, stop)
        if zoo is None:
            return {"stopped_at": stopped}
        rows = [
            {
                "teacher": i,
                "classes": " ".join(zoo.class_names[c] for c in ids),
                "held-out %": float(100 * accuracy),
            }
            for i, (ids, accuracy) in enumerate(
                zip(
                    np.asarray(zoo.groups[0].teachers.class_ids),
                    zoo.groups[0].accuracy,
                    strict=True,
                )
            )
        ]
        metrics.print_table(
            rows, ["teacher", "classes", "held-out %"], title="teachers"
        )
        mean = float(zoo.groups[0].accuracy.mean())
        print(f"mean held-out accuracy {100 * mean:.1f} %; zoo in {workdir}/zoo")
        result = {"held_out_accuracy": mean, "teachers": rows}
        return metrics.write_result(workdir, result, config)


def train_zoo(
    config: Any, recipe: Any, workdir: str, stop: stopping_lib.StopRequest
) -> tuple[zoo_lib.Zoo | None, int]:
    """Trains the zoo, or loads it if ``<workdir>/zoo`` is already there.

    Args:
      config: gives ``data``, ``seed``, ``log``, ``checkpoint`` and ``mesh``.
      recipe: the section with the teachers: ``num_teachers, way, model, epochs,
        batch_size, optimizer, train_fraction, flip``.
      workdir: run directory.
      stop: polled after every epoch.

    Returns:
      The zoo, or None when stopped; and the number of finished epochs.
    """
    target = epath.Path(workdir) / "zoo"
    if hosts.agreed((target / "zoo.json").exists()):
        return zoo_lib.load_zoo(target), recipe.epochs
    split = inputs.load_split(config, "train")
    preset = inputs.preset(config)
    per_class = int(recipe.train_fraction * split.counts.min())
    if recipe.way > len(split.class_names):
        raise InputError(
            f"pretrain.way={recipe.way} exceeds the {len(split.class_names)} training "
            f"classes of {config.data.name}"
        )
    arch = base.classifier(recipe.model, recipe.way, preset, config.dtype)
    if recipe.batch_size > per_class * recipe.way:
        raise InputError(
            f"pretrain.batch_size={recipe.batch_size} exceeds the "
            f"{per_class * recipe.way} training images of a teacher; lower it"
        )
    steps = recipe.epochs * (per_class * recipe.way // recipe.batch_size)
    tx = optimizer(recipe.optimizer)
    if recipe.cosine:
        decay = optax.cosine_decay_schedule(1.0, steps)
        tx = optax.chain(tx, optax.scale_by_schedule(decay))
    if recipe.clip_norm:
        tx = optax.chain(optax.clip_by_global_norm(recipe.clip_norm), tx)
    init, epoch, evaluate = pretraining.teacher_trainer(
        arch,
        tx,
        images_per_class=per_class,
        batch_size=recipe.batch_size,
        flip=recipe.flip,
    )
    place, map_tasks = devices.placement(config)
    rng = keys.named_rng(config.seed, "class draw")
    class_ids = np.stack(
        [
            rng.permutation(len(split.class_names))[: recipe.way]
            for _ in range(recipe.num_teachers)
        ]
    ).astype(np.int32)
    bank = place(banks.from_arrays(split.images, split.counts))
    # Not the keys of a model that is trained in the same run.
    root = keys.named(jax.random.key(config.seed), "teachers")
    init_keys = jax.random.split(keys.named(root, "init"), recipe.num_teachers)
    # Teachers in training stay on the device that trains them.
    state = jax.jit(map_tasks(lambda _, key: init(key)))((), init_keys)
    trained = map_tasks(epoch)

    def run(bank: ImageBank, tasks: tuple) -> tuple:
        state, info = trained(bank, tasks)
        return state, jax.tree.map(jnp.mean, info)

    run_epoch = jax.jit(run)
    checkpoints = checkpointing.Checkpoints(
        epath.Path(workdir) / "pretraining",
        config={"data": config.data, "seed": config.seed, "teachers": recipe},
        may_change=("data.cache_dir",),
        save_every_steps=config.checkpoint.every_steps or None,
        save_every_secs=config.checkpoint.every_secs or None,
    )
    restored = checkpoints.restore_latest(state)
    done = 0
    if restored is not None:
        state, done, _ = restored
        print(f"teachers: resuming after epoch {done}/{recipe.epochs}", flush=True)
    progress = metrics.Progress(recipe.epochs, done, every_secs=config.log.every_secs)
    start = time.monotonic()
    for number in range(done, recipe.epochs):
        epoch_keys = jax.random.split(
            keys.named(root, "epoch", number), recipe.num_teachers
        )
        state, info = run_epoch(bank, (epoch_keys, class_ids, state))
        scalars = {
            "teacher loss": np.asarray(info.loss).item(),
            "train acc": np.asarray(info.accuracy).item(),
        }
        metrics.check_finite(number + 1, scalars)
        progress.update(number + 1, scalars, force=number + 1 == recipe.epochs)
        stopping = stop.reached(number + 1) and number + 1 < recipe.epochs
        checkpoints.save(number + 1, state, {}, force=stopping)
        if stopping:
            checkpoints.close()
            return None, number + 1
    # Not "everywhere": the weights are tasks, too large to be on every device.
    measured = jax.jit(map_tasks(evaluate))(bank, (class_ids, state.variables))
    accuracy, variables = hosts.to_host((measured, state.variables))
    group = zoo_lib.ZooGroup(
        arch, Teachers(variables, jnp.asarray(class_ids)), accuracy, config.data.name
    )
    zoo = zoo_lib.Zoo((group,), split.class_names)
    hosts.first_only(lambda: zoo_lib.save_zoo(zoo, target))
    checkpoints.close()
    print(
        f"trained {recipe.num_teachers} {arch.name} teachers in "
        f"{metrics.format_duration(time.monotonic() - start)}, "
        f"held-out accuracy {100 * float(np.mean(accuracy)):.1f} %",
        flush=True,
    )
    return zoo, recipe.epochs
