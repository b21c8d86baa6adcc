"""Trains a zoo of teachers on random groups of classes, vectorised and resumable."""

import math
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import inputs
from experiments.data import Split
from experiments.harness import checkpointing, hosts, metrics, stopping
from experiments.harness.optimizers import optimizer
from experiments.harness.options import CheckpointOptions, Dtype
from experiments.harness.progress import Progress
from experiments.harness.run import Run
from experiments.inputs import networks
from experiments.inputs.options import DataOptions, TeacherRecipe
from free_jax import keys, nouns
from free_jax import zoo as zoo_lib
from free_jax.errors import InputError
from free_jax.fewshot import banks
from free_jax.types import ImageBank, Teachers
from free_jax.zoo import pretraining
from free_jax.zoo.network import Network


def train_zoo(
    recipe: TeacherRecipe,
    run: Run,
    *,
    data: DataOptions,
    dtype: Dtype = "float32",
    checkpoint: CheckpointOptions = CheckpointOptions(),
) -> zoo_lib.Zoo:
    """Trains the zoo, or loads it if ``<workdir>/zoo`` is already there.

    Args:
      recipe: of the teachers.
      run: asked to stop after every epoch.
      data: its train split is learned from.
      dtype: what teachers compute in.
      checkpoint: when their training is saved.

    Raises:
      Stopped: stop was requested; the finished epochs are kept.
      InputError: the data is too small for the recipe.
    """
    if is_trained(run):
        return zoo_lib.load_zoo(run.path("zoo"))
    # What is wrong is told before any image is read.
    _planned(recipe, run, inputs.list_split(data, "train"), data, dtype)
    split = inputs.load_split(data, "train")
    start = time.monotonic()
    plan = _planned(recipe, run, split, data, dtype)
    if len(set(plan.shares)) > 1:
        print(
            f"classes of unequal size: teachers learn from {min(plan.shares)} to "
            f"{nouns.count(max(plan.shares), 'image')} a class",
            flush=True,
        )
    bank = run.place(banks.from_arrays(split.images, split.counts))
    names = split.class_names
    training = _Training(recipe, run, plan, names, bank, data, checkpoint)
    zoo = zoo_lib.merge([training.zoo(*part) for part in training.parts().items()])
    hosts.first_only(lambda: zoo_lib.save_zoo(zoo, run.path("zoo")))
    (group,) = zoo.groups
    trained = nouns.count(group.num_teachers, f"{group.network.name} teacher")
    print(
        f"trained {trained} in "
        f"{metrics.format_duration(time.monotonic() - start)}, "
        f"held-out accuracy {100 * float(np.mean(group.accuracy)):.1f} %",
        flush=True,
    )
    return zoo


def is_trained(run: Run) -> bool:
    """Whether the zoo of a run is there already."""
    return bool(hosts.agreed((run.path("zoo") / "zoo.json").exists()))


def untrained(
    recipe: TeacherRecipe, run: Run, *, data: DataOptions, dtype: Dtype = "float32"
) -> zoo_lib.Zoo:
    """What `train_zoo` will make, with zeros for weights: to check what comes after.

    Args:
      recipe: of the teachers.
      run: decides their classes.
      data: its train split is listed; no image is read.
      dtype: what teachers compute in.

    Raises:
      InputError: the data is too small for the recipe.
    """
    split = inputs.list_split(data, "train")
    network, _, class_ids, _ = _planned(recipe, run, split, data, dtype)
    variables = jax.tree.map(
        # Views of one zero: large zoos take no memory.
        lambda x: np.broadcast_to(np.zeros((), x.dtype), (len(class_ids), *x.shape)),
        network.shapes,
    )
    ids: Any = class_ids
    group = zoo_lib.ZooGroup(
        network, Teachers(variables, ids), np.full(len(class_ids), np.nan), data.name
    )
    return zoo_lib.Zoo((group,), split.class_names)


class _Plan(NamedTuple):
    """A training that can be made.

    Attributes:
      network: of all teachers.
      trainer: see `pretraining.teacher_trainer`.
      class_ids: [T, way].
      shares: [T] images a class that each learns from.
    """

    network: Network
    trainer: tuple
    class_ids: np.ndarray
    shares: list[int]


def _planned(
    recipe: TeacherRecipe, run: Run, split: Split, data: DataOptions, dtype: Dtype
) -> _Plan:
    """The teachers' classes, network and trainer.

    A teacher learns from as many images of each of ITS classes as the smallest of them
    allows; one small class of the data limits those that know it, not all.

    Raises:
      InputError: the split is too small for the recipe.
    """
    if recipe.way > len(split.class_names):
        raise InputError(
            f"pretrain.way={recipe.way} exceeds the {len(split.class_names)} training "
            f"classes of {data.name}"
        )
    rng = run.rng("class draw")
    class_ids = np.stack(
        [
            rng.permutation(len(split.class_names))[: recipe.way]
            for _ in range(recipe.num_teachers)
        ]
    ).astype(np.int32)
    smallest = split.counts[class_ids].min(1)
    shares = [int(recipe.train_fraction * count) for count in smallest]
    if min(shares) < 1:
        worst = class_ids[int(np.argmin(shares))]
        name = split.class_names[int(worst[np.argmin(split.counts[worst])])]
        raise InputError(
            f"class {name!r} of {data.name} has {int(smallest.min())} training images, "
            f"of which train_fraction={recipe.train_fraction} leaves none; add images "
            "or remove the class"
        )
    per_class = max(shares)
    network = networks.classifier(recipe.model, recipe.way, inputs.preset(data), dtype)
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
    unequal = len(set(shares)) > 1
    trainer = pretraining.teacher_trainer(
        network,
        tx,
        images_per_class=per_class,
        batch_size=recipe.batch_size,
        flip=recipe.flip,
        train_fraction=recipe.train_fraction if unequal else None,
    )
    return _Plan(network, trainer, class_ids, shares)


class _Training:
    """The teachers of a plan, `TeacherRecipe.at_once` after the other.

    A teacher depends on its number and the seed, not on who is trained beside it.
    """

    def __init__(
        self,
        recipe: TeacherRecipe,
        run: Run,
        plan: _Plan,
        class_names: tuple[str, ...],
        bank: ImageBank,
        data: DataOptions,
        checkpoint: CheckpointOptions,
    ):
        self._recipe, self._run, self._plan, self._bank = recipe, run, plan, bank
        self._class_names, self._data = class_names, data
        self._checkpoint = checkpoint
        init, epoch, evaluate = plan.trainer
        # Not the keys of a model that is trained in the same run.
        self._root = run.key("teachers")
        mapped = run.map_tasks(epoch)

        def one_epoch(bank: ImageBank, tasks: tuple) -> tuple:
            state, info = mapped(bank, tasks)
            return state, jax.tree.map(jnp.mean, info)

        # Teachers in training stay on the device that trains them; not "everywhere":
        # the weights are tasks, too large to be on every device.
        self._init = jax.jit(run.map_tasks(lambda _, key: init(key)))
        self._epoch = jax.jit(one_epoch)
        self._evaluate = jax.jit(run.map_tasks(evaluate))

    def parts(self) -> dict[str, slice]:
        """The teachers that are trained together, by the name of their folder.

        Few teachers are one part, without a name, as all were in earlier versions: what
        these had begun is continued as it was.
        """
        count, most = self._recipe.num_teachers, self._recipe.at_once or math.inf
        whole = self._run.path("pretraining") / "checkpoints"
        if count <= most or hosts.agreed(whole.exists()):
            return {"": slice(0, count)}
        starts = range(0, count, self._recipe.at_once)
        both = [(i, min(i + self._recipe.at_once, count)) for i in starts]
        return {f"teachers_{a}_to_{b - 1}": slice(a, b) for a, b in both}

    def zoo(self, name: str, rows: slice) -> zoo_lib.Zoo:
        """Some teachers, trained, or read where they were before.

        Raises:
          Stopped: stop was requested; the finished epochs are kept.
        """
        folder = self._run.path("pretraining") / name / "zoo"
        if name and hosts.agreed((folder / "zoo.json").exists()):
            return zoo_lib.load_zoo(folder)
        variables, ids = self._trained(name, rows).variables, self._plan.class_ids[rows]
        measured = self._evaluate(self._bank, (ids, variables))
        accuracy, variables = hosts.to_host((measured, variables))
        group = zoo_lib.ZooGroup(
            self._plan.network,
            Teachers(variables, jnp.asarray(ids)),
            accuracy,
            self._data.name,
        )
        zoo = zoo_lib.Zoo((group,), self._class_names)
        if name:
            hosts.first_only(lambda: zoo_lib.save_zoo(zoo, folder))
        return zoo

    def _trained(self, name: str, rows: slice) -> Any:
        """The states of some teachers after all epochs, from the last checkpoint on."""
        recipe, run, root = self._recipe, self._run, self._root

        def of_each(key: jax.Array) -> jax.Array:
            return jax.random.split(key, recipe.num_teachers)[rows]

        state = self._init((), of_each(keys.named(root, "init")))
        checkpoints = checkpointing.Checkpoints(
            run.path("pretraining") / name,
            config={"data": self._data, "seed": run.seed, "teachers": recipe},
            may_change=("data.cache_dir", "teachers.at_once"),
            made_in=run.workdir,
            save_every_steps=self._checkpoint.every_steps or None,
            save_every_secs=self._checkpoint.every_secs or None,
        )
        restored = checkpoints.restore_latest(state)
        done = 0
        who = f"teachers {rows.start + 1} to {rows.stop}" if name else "teachers"
        if restored is not None:
            state, done, _ = restored
            print(f"{who}: resuming after epoch {done}/{recipe.epochs}", flush=True)
        progress = Progress(
            recipe.epochs,
            done,
            label=f"{who}, epoch" if name else "epoch",
            every_secs=run.every_secs,
        )
        for number in range(done, recipe.epochs):
            epoch_keys = of_each(keys.named(root, "epoch", number))
            tasks = (epoch_keys, self._plan.class_ids[rows], state)
            state, info = self._epoch(self._bank, tasks)
            scalars = {
                "teacher loss": np.asarray(info.loss).item(),
                "train acc": np.asarray(info.accuracy).item(),
            }
            metrics.check_finite(number + 1, scalars)
            last = number + 1 == recipe.epochs
            progress.update(number + 1, scalars, force=last)
            stop_here = run.stop.reached(number + 1) and not (
                last and rows.stop == recipe.num_teachers
            )
            checkpoints.save(number + 1, state, {}, force=stop_here)
            if stop_here:
                progress.close()
                checkpoints.close()
                raise stopping.Stopped(number + 1)
        checkpoints.close()
        return state
