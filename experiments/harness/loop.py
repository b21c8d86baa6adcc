"""The loop over steps: restores, steps, judges, logs, saves and stops."""

import contextlib
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness import checkpointing, memory, metrics, stopping
from experiments.harness.method import Judge, Method, Outcome, Schedule, Service
from experiments.harness.progress import Progress
from experiments.harness.run import Run
from free_jax import nouns
from free_jax.ahead import Feed, on_host
from free_jax.errors import InputError


def train(
    run: Run,
    method: Method,
    schedule: Schedule,
    judge: Judge = Judge(),
    service: Service | None = None,
) -> Outcome:
    """Trains a method from its last checkpoint on, or from the start.

    Args:
      run: where it writes and draws from.
      method: what to train.
      schedule: how long, and how often it is looked at.
      judge: scores the model along the way and says which score selects.
      service: what steps ask outside of this process, if they do.  A step whose queries
        found no answer is undone and does not count: another is made in its place.

    Returns:
      The selected model and the history of the training.

    Raises:
      Stopped: the run was asked to stop; the step is saved.
      InputError: the working directory is further than the schedule asks for.
      RunError: a loss that is not finite, or no step found answers.
    """
    training = _Training(run, method, schedule, judge, service)
    try:
        _make_steps(training)
    except Exception:
        # The last save goes on in the background: the next call must find it whole.
        with contextlib.suppress(Exception):
            training.close()
        raise
    return training.finish()


def _make_steps(training: "_Training") -> None:
    schedule = training.schedule
    # A method without training is evaluated as it is made.
    start = training.restore() if schedule.num_steps else 0
    training.announce()
    if start == 0 and schedule.num_steps:
        print("compiling the first step (cached afterwards) ...", flush=True)
    training.start_clock()
    end = start if training.time_is_over() else schedule.num_steps
    if end == start:  # Nothing is left to do; the model is where it stopped.
        training.select_last()
    while training.done < end:
        if not training.step():
            if training.ending:
                training.end_without_answer()
                break
            if training.run.stop.reached(training.done):
                if training.done:
                    training.save(training.done)
                raise stopping.Stopped(training.done)
            continue
        done = training.done
        last = bool(training.ending) or done == schedule.num_steps
        stop_here = training.run.stop.reached(done) and not last
        judged = last or done % schedule.judge_every_steps == 0
        # A stop must leave no trace in the record: the step is saved, not logged.
        logged = judged or done % schedule.log_every_steps == 0
        saving = last or stop_here or training.checkpoints.due(done)
        if logged or saving:
            scalars = training.measure(done, judged)
        if logged:
            training.log(done, scalars, judged)
        if judged:
            training.remember(done, scalars)
        if last:
            training.select_last()
        if saving:
            training.save(done)
        if stop_here:
            training.close()
            raise stopping.Stopped(done)
        if training.ending:
            print(f"{training.ending}: ending after step {done}", flush=True)
            break


# So many steps in a row without an answer end a run: there is something that the
# service does not know of.
MOST_UNDONE = 50


class _Training:
    """What changes from step to step, and where it is kept."""

    def __init__(
        self,
        run: Run,
        method: Method,
        schedule: Schedule,
        judge: Judge,
        service: Service | None,
    ):
        self.run, self.method, self.judge = run, method, judge
        self.schedule, self.service = schedule, service
        algorithm = method.algorithm
        self.model_of = algorithm.model
        # Keys are named: a resumed run draws the same numbers without storing them.
        self.state = run.place(jax.jit(algorithm.init)(run.key("init")))
        # Data that a step is fed from stay where they are.
        self.fed = self._fed() if algorithm.feed else None
        self.data = None if self.fed else run.place(method.data)
        # Until a score selects, this is a placeholder and `best` is None.
        shapes = jax.eval_shape(self.model_of, self.state)
        self.selected = run.place(
            jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        )
        # A step whose queries found no answer is undone: the state before must
        # outlive it.
        self.watch = memory.Watch(method.remedy)
        self.step_fn = algorithm.compiled(donate=not service, jit=self.watch.jit)
        self.checkpoints = checkpointing.Checkpoints(
            run.workdir,
            config=run.identity,
            may_change=run.may_change,
            upgrade=run.upgrade,
            save_every_steps=schedule.checkpoint_every_steps or None,
            save_every_secs=schedule.checkpoint_every_secs or None,
        )
        self.writer = metrics.MetricWriter(
            run.workdir, tensorboard=schedule.tensorboard
        )
        self.extra: dict[str, Any] = {
            "seconds": schedule.seconds_before,
            "curve": [],
            "best": None,
        }
        self.limit = schedule.max_seconds or math.inf
        self.info, self.ending, self.silent = None, "", 0
        self.done = self.checked = 0
        self.progress: Progress | None = None
        self.closed = False

    def _fed(self) -> Feed:
        """The data of a step by its number, made while the step before is."""
        feed, data = self.method.algorithm.feed, self.method.data
        assert feed is not None

        def make(number: int) -> Any:
            with on_host():
                step = number - self.extra.get("undone", 0)
                found = feed(self.run.key("step", number), step, data)
            return self.run.place(found)

        return Feed(make)

    def restore(self) -> int:
        """Takes up the last checkpoint, if there is one; returns its step."""
        restored = self.checkpoints.restore_latest(self._carried())
        if restored is not None:
            carried, self.done, self.extra = restored
            self.state = self.run.place(carried["state"])
            self.selected = self.run.place(carried["selected"])
            asked = self.schedule.num_steps
            if self.done > asked:
                raise InputError(
                    f"{self.run.workdir} has made {self.done} steps, more than "
                    f"config.num_steps={asked}; ask for at least {self.done} or use "
                    "another --workdir"
                )
            print(f"resuming after step {self.done}/{asked}", flush=True)
        self.checked = self.done
        self.writer.truncate_after(self.done)
        return self.done

    def announce(self) -> None:
        """One line on what is trained."""
        network = self.method.network
        shapes = jax.eval_shape(lambda: network.init(jax.random.key(0))["params"])
        total = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        print(
            f"{self.method.title}, meta-model {network.name} with {total} parameters, "
            f"{self._length()}, workdir {self.run.workdir}",
            flush=True,
        )

    def _length(self) -> str:
        steps = nouns.count(self.schedule.num_steps, "step")
        seconds = self.schedule.max_seconds
        timed = seconds and self.schedule.num_steps
        return f"{steps} or {seconds:g} seconds" if timed else steps

    def start_clock(self) -> None:
        """From here on, seconds are training's."""
        self.progress = Progress(
            self.schedule.num_steps,
            self.done,
            every_secs=self.run.every_secs,
            budget=self.limit - self.extra["seconds"],
        )
        self.clock = time.monotonic()
        if self.service:
            self.service.answered(())  # What was asked before the loop is no step's.

    def time_is_over(self) -> bool:
        """Whether an earlier call spent all of ``max_seconds``."""
        return self.done > 0 and self.extra["seconds"] >= self.limit

    def step(self) -> bool:
        """One step, which counts if its queries found answers.

        `ending` says why it has to be the last one.
        """
        # Not the numbers of an undone step again: they lead to the same queries.
        undone = self.extra.get("undone", 0)
        number = self.done + undone
        key = self.run.key("step", number)
        data = self.fed(number) if self.fed else self.data
        with self.watch.holding((key, self.state, data)):
            state, info = self.step_fn(key, self.state, data)
        answered = not self.service or self.service.answered((state, info))
        if answered:
            self.state, self.info, self.silent = state, info, 0
            self.done += 1
        else:
            assert self.service is not None
            self.extra["undone"], self.silent = undone + 1, self.silent + 1
            self.extra.setdefault("undone_keys", []).append(self.done + undone)
            if self.fed:  # What was begun is of one step more.
                self.fed.forget()
            self.ending = self.service.exhausted()
            if self.silent == MOST_UNDONE and not self.ending:
                self.ending = f"{self.silent} steps in a row found no answers"
        if self.limit < math.inf:
            jax.block_until_ready(info)
            if self.extra["seconds"] + time.monotonic() - self.clock >= self.limit:
                self.ending = f"{self.schedule.max_seconds:g} seconds are over"
        return answered

    def end_without_answer(self) -> None:
        """Ends after the last step that was answered, with what was asked since.

        Raises:
          RunError: none was.
        """
        if not self.done:
            raise metrics.RunError(
                "no step found answers to all of its queries; raise the budget, or "
                "ask less a step"
            )
        if self.info is not None:  # Made by this call: its row is written anew.
            self.writer.truncate_after(self.done - 1)
            curve = self.extra["curve"]
            self.extra["curve"] = [row for row in curve if row["step"] < self.done]
            scalars = self.measure(self.done, True)
            self.log(self.done, scalars, True)
            self.remember(self.done, scalars)
        self.select_last()
        self.save(self.done)
        print(f"{self.ending}: ending after step {self.done}", flush=True)

    def measure(self, done: int, judged: bool) -> dict[str, float]:
        """This step's scalars.

        Raises:
          RunError: one is not finite: that must not overwrite a sound checkpoint.
        """
        assert self.info is not None
        scalars = {k: np.asarray(v).item() for k, v in self.info._asdict().items()}
        is_finite = scalars.pop("is_finite")
        if judged:
            scalars |= self.judge.scores(self.model_of(self.state), self.state)
        if self.method.meters.queries_of:
            scalars["queries"] = int(self.method.meters.queries_of(self.state).sum())
        metrics.check_finite(done, scalars, since=self.checked)
        if not is_finite:
            raise metrics.RunError(
                f"a parameter or a loss is not finite in steps "
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
        shown = {v: scalars[k] for k, v in self.method.meters.status.items()}
        if self.progress:
            self.progress.update(done, shown | _val(scalars), force=judged)

    def remember(self, done: int, scalars: dict[str, float]) -> None:
        """A row of the curve, and the model if its score is the best yet."""
        row = {"step": done, "seconds": self.extra["seconds"]} | scalars
        if self.service:
            row["queries"] = self.service.bill()["queries"]
        self.extra["curve"].append(row)
        score, best = scalars.get(self.judge.rule or ""), self.extra["best"]
        if score is not None and (best is None or score > best):
            self.extra["best"] = score
            self.selected = _copy(self.model_of(self.state))

    def select_last(self) -> None:
        """Where no score selects, the model as it is now."""
        if self.judge.rule is None:
            self.selected = _copy(self.model_of(self.state))

    def save(self, done: int) -> None:
        """A checkpoint."""
        self.checkpoints.save(done, self._carried(), self.extra, force=True)

    def close(self) -> None:
        """Waits for what is being written; calling it twice is harmless."""
        if not self.closed:
            self.closed = True
            if self.fed:
                self.fed.close()
            if self.progress:
                self.progress.close()
            self.writer.close()
            self.checkpoints.close()

    def finish(self) -> Outcome:
        """The selected model and the history of the training."""
        self.close()
        if self.judge.rule and self.extra["best"] is None:
            raise metrics.RunError(
                f"no model was selected: {self.judge.rule} was never measured; lower "
                "config.eval.every_steps, or give it more to be measured by"
            )
        updates = [self.method.meters.updates_of(row) for row in self.writer.read()]
        count, undone = self.extra.pop("undone", 0), self.extra.pop("undone_keys", [])
        return Outcome(
            model=self.selected,
            state=self.state,
            steps=self.done,
            meta_updates=round(self.done * float(np.mean(updates or [0]))),
            undone=tuple(undone) if len(undone) == count else None,
            **self.extra,
        )

    def _carried(self) -> dict[str, Any]:
        return {"state": self.state, "selected": self.selected}


def _val(scalars: dict[str, float]) -> dict[str, float]:
    """Validation accuracies for the status line, transductive where there are such."""
    ends = ("_transductive", "_inductive")
    end = next((e for e in ends if any(name.endswith(e) for name in scalars)), "")
    return {
        name.removesuffix(end).replace("_", " "): value
        for name, value in scalars.items()
        if name.startswith("val_") and name.endswith(end)
    }


def _copy(tree: Any) -> Any:
    # The step donates its state; what must outlive it needs buffers of its own.
    return jax.tree.map(jnp.copy, tree)
