"""The loop over steps: restores, steps, judges, logs, saves and stops."""

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.evaluation.selection import Judge
from experiments.harness import checkpointing, metrics
from experiments.harness import stopping as stopping_lib
from experiments.methods.base import Experiment
from experiments.stages import adversarial_rounds
from free_jax import keys
from free_jax.errors import InputError


def train(
    config: Any,
    workdir: str,
    experiment: Experiment,
    judge: Judge,
    place: Callable,
    stop: stopping_lib.StopRequest,
    may_change: tuple[str, ...],
) -> dict[str, Any]:
    """Runs the steps of a config, from the last checkpoint on.

    Args:
      config: of the run.
      workdir: run directory.
      experiment: what to train.
      judge: scores parameters along the way and says which score selects.
      place: puts a tree on the devices.
      stop: `checkpointing.StopRequest`.
      may_change: config keys that a resumed run may have otherwise.

    Returns:
      The selected parameters and the run's history, or ``{"stopped_at": step}``.

    Raises:
      InputError: the working directory is further than the config asks for.
      RunError: a loss that is not finite, or no step found answers.
    """
    run = _Run(config, workdir, experiment, judge, place, may_change)
    start = run.restore()
    _announce(config, workdir, experiment)
    if start == 0:
        print("compiling the first step (cached afterwards) ...", flush=True)
    run.start_clock()
    for number in range(start, start if run.time_is_over() else config.num_steps):
        done = number + 1
        run.step(number)
        if run.info is None:
            if run.ending and start:  # It ended by its budget already, or nearly so.
                run.select_last()
                break
            if run.ending or done == config.num_steps:
                raise metrics.RunError(
                    "no step found answers to all of its queries; raise the budget in "
                    f"{config.zoo.apis}, or ask less a step"
                )
            continue
        run.done = done
        last = bool(run.ending) or done == config.num_steps
        stopping = stop.reached(done) and not last
        judged = last or done % config.eval.every_steps == 0
        # A stop must leave no trace in the record: the step is saved, not logged.
        logged = judged or done % config.log.every_steps == 0
        saving = last or stopping or run.checkpoints.due(done)
        if logged or saving:
            scalars = run.measure(done, judged)
        if logged:
            run.log(done, scalars, judged)
        if judged:
            run.remember(done, scalars)
        if last:
            run.select_last()
        if saving:
            run.save(done)
        if stopping:
            run.close()
            return {"stopped_at": done}
        if run.ending:
            print(f"{run.ending}: ending after step {done}", flush=True)
            break
    return run.finish()


class _Run:
    """What changes from step to step, and where it is kept."""

    def __init__(self, config, workdir, experiment, judge, place, may_change):
        self.config, self.workdir = config, workdir
        self.experiment, self.judge, self.place = experiment, judge, place
        algorithm = experiment.algorithm
        self.params_of = algorithm.params
        # Keys are named: a resumed run draws the same numbers without storing them.
        self.root = jax.random.key(config.seed)
        self.state = place(jax.jit(algorithm.init)(keys.named(self.root, "init")))
        self.data = place(experiment.data)
        # Until a score selects, this is a placeholder and `best` is None.
        shapes = jax.eval_shape(self.params_of, self.state)
        self.selected = place(
            jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        )
        self.hub = experiment.zoo.service if experiment.zoo else None
        # A step whose queries found no answer is undone: the state before must
        # outlive it.
        self.step_fn = jax.jit(algorithm.step, donate_argnums=() if self.hub else 1)
        self.checkpoints = checkpointing.Checkpoints(
            workdir,
            config=config,
            may_change=may_change,
            save_every_steps=config.checkpoint.every_steps or None,
            save_every_secs=config.checkpoint.every_secs or None,
        )
        self.writer = metrics.MetricWriter(
            workdir, tensorboard=config.log.get("tensorboard", False)
        )
        self.extra: dict[str, Any] = {
            "seconds": adversarial_rounds.seconds_before(config, workdir),
            "curve": [],
            "best": None,
        }
        self.limit = config.get("max_seconds") or math.inf
        self.info, self.ending = None, ""
        self.done = self.checked = 0

    def restore(self) -> int:
        """Takes up the last checkpoint, if there is one; returns its step."""
        restored = self.checkpoints.restore_latest(self._carried())
        if restored is not None:
            carried, self.done, self.extra = restored
            self.state = self.place(carried["state"])
            self.selected = self.place(carried["selected"])
            asked = self.config.num_steps
            if self.done > asked:
                raise InputError(
                    f"{self.workdir} has made {self.done} steps, more than "
                    f"config.num_steps={asked}; ask for at least {self.done} or use "
                    "another --workdir"
                )
            print(f"resuming after step {self.done}/{asked}", flush=True)
        self.checked = self.done
        self.writer.truncate_after(self.done)
        return self.done

    def start_clock(self) -> None:
        """From here on, seconds are training's."""
        self.progress = metrics.Progress(
            self.config.num_steps, self.done, every_secs=self.config.log.every_secs
        )
        self.clock = time.monotonic()
        if self.hub:
            self.hub.all_answered()  # What was asked before the loop is no step's.

    def time_is_over(self) -> bool:
        """Whether an earlier call spent all of ``config.max_seconds``."""
        return self.done > 0 and self.extra["seconds"] >= self.limit

    def step(self, number: int) -> None:
        """One step; `ending` says why it has to be the last one."""
        key = keys.named(self.root, "step", number)
        state, info = self.step_fn(key, self.state, self.data)
        if self.hub and not self.hub.all_answered(jax.block_until_ready((state, info))):
            self.hub.raise_if_broken()
            if not self.hub.alive().any():
                self.ending = "the budget of queries is spent"
            state, info = self.state, self.info
        self.state, self.info = state, info
        if self.limit < math.inf and info is not None:
            jax.block_until_ready(info)
            if self.extra["seconds"] + time.monotonic() - self.clock >= self.limit:
                self.ending = f"{self.config.max_seconds:g} seconds are over"

    def measure(self, done: int, judged: bool) -> dict[str, float]:
        """This step's scalars.

        Raises:
          RunError: one is not finite: that must not overwrite a sound checkpoint.
        """
        assert self.info is not None
        scalars = {k: np.asarray(v).item() for k, v in self.info._asdict().items()}
        is_finite = scalars.pop("is_finite")
        if judged:
            scalars |= self.judge.scores(self.params_of(self.state), self.state)
        if self.experiment.queries_of:
            scalars["queries"] = int(self.experiment.queries_of(self.state).sum())
        metrics.check_finite(done, scalars, since=self.checked)
        if not is_finite:
            raise metrics.RunError(
                f"a parameter or an inversion loss is not finite in steps "
                f"{self.checked + 1} to {done}; lower the learning rates; earlier "
                "checkpoints and metrics are kept"
            )
        self.checked = done
        now = time.monotonic()
        self.extra["seconds"] += now - self.clock
        self.clock = now
        return scalars

    def log(self, done: int, scalars: dict[str, float], judged: bool) -> None:
        """Metrics file and status line."""
        self.writer.write(done, scalars)
        shown = {v: scalars[k] for k, v in self.experiment.status.items()}
        self.progress.update(done, shown | _val(scalars), force=judged)

    def remember(self, done: int, scalars: dict[str, float]) -> None:
        """A row of the curve, and the parameters if their score is the best yet."""
        spent = {"queries": self.hub.queries} if self.hub else {}
        row = {"step": done, "seconds": self.extra["seconds"]} | scalars | spent
        self.extra["curve"].append(row)
        score, best = scalars.get(self.judge.rule), self.extra["best"]
        if score is not None and (best is None or score > best):
            self.extra["best"] = score
            self.selected = _copy(self.params_of(self.state))

    def select_last(self) -> None:
        """Where no score selects, the parameters as they are now."""
        if self.judge.rule is None:
            self.selected = _copy(self.params_of(self.state))

    def save(self, done: int) -> None:
        """A checkpoint."""
        self.checkpoints.save(done, self._carried(), self.extra, force=True)

    def close(self) -> None:
        """Waits for what is being written."""
        self.checkpoints.close()
        self.writer.close()

    def finish(self) -> dict[str, Any]:
        """The selected parameters and the run's history."""
        self.close()
        if self.judge.rule and self.extra["best"] is None:
            raise metrics.RunError(
                f"no model was selected: {self.judge.rule} was never measured; lower "
                "config.eval.every_steps or recover more images"
            )
        updates = [self.experiment.meta_updates(row) for row in self.writer.read()]
        return {
            "params": self.selected,
            "state": self.state,
            "steps": self.done,
            # Exact where every step was logged.
            "meta_updates": round(self.done * float(np.mean(updates or [0]))),
        } | self.extra

    def _carried(self) -> dict[str, Any]:
        return {"state": self.state, "selected": self.selected}


def _val(scalars: dict[str, float]) -> dict[str, float]:
    """Validation accuracies for the status line, transductive."""
    end = "_transductive"
    return {
        name.removesuffix(end).replace("_", " "): value
        for name, value in scalars.items()
        if name.startswith("val_") and name.endswith(end)
    }


def _copy(tree: Any) -> Any:
    # The step donates its state; what must outlive it needs buffers of its own.
    return jax.tree.map(jnp.copy, tree)


def _announce(config: Any, workdir: str, experiment: Experiment) -> None:
    student = experiment.model
    shapes = jax.eval_shape(lambda: student.init(jax.random.key(0))["params"])
    total = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    teachers = experiment.zoo.num_teachers if experiment.zoo else 0
    print(
        f"{config.algorithm}: {teachers} teachers, meta-model {student.name} with "
        f"{total} parameters, {config.num_steps} steps, workdir {workdir}",
        flush=True,
    )
