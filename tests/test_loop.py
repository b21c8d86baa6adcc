"""The loop and its cache of jobs, driven by a toy method: no science, milliseconds."""

import errno
import json
import os
from typing import NamedTuple

import harness_toy as toy
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.harness import checkpointing, devices, memory, metrics, stopping
from experiments.harness.method import Judge, Meters
from experiments.harness.progress import Progress
from free_jax import rows
from free_jax.algorithm import bind
from free_jax.errors import InputError
from free_jax.jobs import Job

# Cases of what a neighbouring case shows already.
SLOW = pytest.mark.slow


def newest(folder):
    steps = [int(name) for name in os.listdir(folder / "checkpoints") if name.isdigit()]
    return max(steps)


# --------------------------------------------------------------- stop and resume


@pytest.mark.parametrize(
    "stops", [(3,), (1, 2, 4), *(pytest.param((n,), marks=SLOW) for n in (1, 5))]
)
def test_a_stopped_run_ends_as_if_it_had_not_been(tmp_path, stops):
    whole = toy.history(tmp_path / "a", toy.train(tmp_path / "a"))
    for stop in stops:
        assert toy.train(tmp_path / "b", stop) == stop
    assert toy.history(tmp_path / "b", toy.train(tmp_path / "b")) == whole


@pytest.mark.parametrize(
    "every",
    [(3, 100), (2, 3), *(pytest.param((100, n), marks=SLOW) for n in (4, 100))],
)
def test_a_stop_leaves_no_row_wherever_it_falls(tmp_path, every):
    """The mean over the logged rows tells which there are."""
    log, judge = every
    made = toy.method(toy.open_run(tmp_path).map_tasks)
    made = made._replace(meters=Meters({}, updates_of=lambda row: row["step"]))
    options = {"log_every_steps": log, "judge_every_steps": judge, "num_steps": 7}
    options |= {"made": made, "checkpoint_every_steps": 0}
    whole = toy.train(tmp_path / "whole", **options)
    expected = toy.history(tmp_path / "whole", whole)
    steps = [n for n in range(1, 8) if not n % log or not n % judge or n == 7]
    assert [row["step"] for row in toy.rows(tmp_path / "whole")] == steps
    assert whole.meta_updates == round(7 * np.mean(steps))
    for stop in range(1, 7):
        folder = tmp_path / str(stop)
        assert toy.train(folder, stop, **options) == stop
        assert toy.history(folder, toy.train(folder, **options)) == expected


def test_a_longer_run_continues_and_a_shorter_one_is_refused(tmp_path, capsys):
    before = toy.train(tmp_path)
    assert toy.train(tmp_path, num_steps=8).curve[:6] == before.curve
    assert "resuming after step 6/8" in capsys.readouterr().out
    whole = toy.train(tmp_path / "whole", num_steps=8)
    after = toy.train(tmp_path, num_steps=8)
    assert toy.history(tmp_path, after) == toy.history(tmp_path / "whole", whole)
    with pytest.raises(InputError, match=r"has made 8 steps.*num_steps=3; ask for at"):
        toy.train(tmp_path, num_steps=3)


def test_a_finished_run_makes_no_step_again(tmp_path):
    def forbidden(*_):
        pytest.fail("a finished run was trained on")

    before = toy.train(tmp_path)
    made = toy.method(toy.open_run(tmp_path).map_tasks)
    made = made._replace(algorithm=made.algorithm._replace(step=forbidden))
    again = toy.train(tmp_path, made=made)
    assert toy.history(tmp_path, again) == toy.history(tmp_path, before)


def test_one_device_compiles_a_step_once_wherever_its_data_comes_from():
    """Arrays of a checkpoint name their device, those that `jit` makes do not."""
    place, _ = devices.placement(1)
    step = jax.jit(lambda x, data: x + data)
    data = place(jax.device_put(np.ones(3), jax.devices()[0]))
    x = place(jax.jit(jnp.zeros, static_argnums=0)(3))
    for _ in range(2):
        x = step(x, data)
    assert step._cache_size() == 1


def test_steps_draw_from_named_keys_of_the_seed(tmp_path):
    outcome = toy.train(tmp_path, num_steps=2, judge=Judge())
    run = toy.open_run(tmp_path)
    made = toy.method(run.map_tasks)
    state = made.algorithm.init(run.key("init"))
    for number in range(2):
        state, _ = made.algorithm.step(run.key("step", number), state, made.data)
    np.testing.assert_allclose(outcome.state.x, state.x, rtol=1e-6)
    assert run.rng("a").random() == run.rng("a").random() != run.rng("b").random()


def test_a_run_of_another_config_is_refused(tmp_path):
    assert toy.train(tmp_path, 2) == 2
    other = {"identity": {"seed": 0, "num_steps": 6, "rate": 0.2}}
    with pytest.raises(InputError, match=r"another version: rate: \(absent\) -> 0.2"):
        toy.train(tmp_path, **other)
    more = {"seed": 0, "num_steps": 9}
    with pytest.raises(InputError, match=r"num_steps: 6 -> 9"):
        toy.train(tmp_path, identity=more, may_change=())
    assert toy.train(tmp_path, identity=more, num_steps=9).steps == 9
    wide = toy.method(toy.open_run(tmp_path).map_tasks)
    init = wide.algorithm.init
    wide = wide._replace(
        algorithm=wide.algorithm._replace(
            init=lambda key: init(key)._replace(x=np.zeros(4, np.float32))
        ),
        data=np.zeros(4, np.float32),
    )
    with pytest.raises(InputError, match=r"x: float32\[3\] -> float32\[4\]"):
        toy.train(tmp_path, made=wide, num_steps=9)


# ----------------------------------------------------------- damage and full disks


@pytest.mark.parametrize("damage", ["truncate", "remove", "unfinished"])
def test_damage_costs_steps_but_no_bits(tmp_path, capfd, damage):
    whole = toy.history(tmp_path / "a", toy.train(tmp_path / "a"))
    folder = tmp_path / "b"
    assert toy.train(folder, 4) == 4
    last = folder / "checkpoints" / "4"
    inside = [file for file in (last / "state").rglob("*") if file.is_file()]
    largest = max(inside, key=lambda file: file.stat().st_size)
    if damage == "truncate":
        os.truncate(largest, largest.stat().st_size // 2)
    elif damage == "remove":
        largest.unlink()
    else:
        last.rename(last.with_name("4.orbax-checkpoint-tmp"))
    # A kill in the middle of a line.
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    assert toy.history(folder, toy.train(folder)) == whole
    told = capfd.readouterr()
    assert "resuming after step 3/6" in told.out
    assert ("warning: checkpoint 4 is damaged" in told.err) == (damage != "unfinished")


def test_a_full_disk_is_one_line_and_the_run_continues(tmp_path, monkeypatch):
    whole = toy.history(tmp_path / "a", toy.train(tmp_path / "a"))
    folder = tmp_path / "b"
    assert toy.train(folder, 3) == 3

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpointing.files, "write_json", full)
        with pytest.raises(
            InputError, match=r"the disk is full: checkpoint 4 .*\[2, 3"
        ):
            toy.train(folder)
    assert newest(folder) == 3
    with monkeypatch.context() as patch:
        patch.setattr(metrics.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            toy.train(folder)
    assert toy.history(folder, toy.train(folder)) == whole


def test_what_is_not_finite_ends_the_run_and_is_not_saved(tmp_path):
    made = toy.method(toy.open_run(tmp_path).map_tasks, rate=1e30)
    with pytest.raises(metrics.RunError, match=r"loss is (inf|nan) at steps 1 to 1"):
        toy.train(tmp_path, made=made)
    assert not (tmp_path / "metrics.jsonl").exists()

    made = toy.method(toy.open_run(tmp_path).map_tasks)

    def hidden(key, state, data):
        state, info = step(key, state, data)
        return state, info._replace(is_finite=state.step < 4)

    step = made.algorithm.step
    made = made._replace(algorithm=made.algorithm._replace(step=hidden))
    with pytest.raises(metrics.RunError, match=r"not finite in steps 4 to 4; lower"):
        toy.train(tmp_path / "b", made=made)
    assert [row["step"] for row in toy.rows(tmp_path / "b")] == [1, 2, 3]
    assert toy.train(tmp_path / "b").steps == 6  # The checkpoint before is sound.


# ------------------------------------------------------------- selection and budgets


def scored(*values):
    """A judge that gives these scores, one a step."""
    return Judge(
        lambda model, state: {"val_score": values[int(state.step) - 1]}, "val_score"
    )


@pytest.mark.parametrize("stops", [(), (2, 4, 5), pytest.param((3,), marks=SLOW)])
def test_the_best_score_selects_and_a_tie_keeps_the_first(tmp_path, stops):
    judge = scored(1.0, 5.0, 2.0, 5.0, 3.0, 4.0)
    for stop in stops:
        assert toy.train(tmp_path, stop, judge=judge) == stop
    outcome = toy.train(tmp_path, judge=judge)
    second = toy.train(tmp_path / "two", num_steps=2, judge=Judge())
    np.testing.assert_array_equal(outcome.model["params"], second.state.x)
    assert outcome.best == 5.0 and outcome.steps == 6
    assert [row["val_score"] for row in outcome.curve] == [1.0, 5.0, 2.0, 5.0, 3.0, 4.0]


def test_without_a_rule_the_last_model_is_selected(tmp_path):
    outcome = toy.train(tmp_path, judge=Judge(toy.distance, None))
    np.testing.assert_array_equal(outcome.model["params"], outcome.state.x)
    assert outcome.best is None and "val_score" in outcome.curve[-1]


def test_a_run_that_ends_where_it_was_stopped_keeps_its_model(tmp_path):
    assert toy.train(tmp_path, 3, judge=Judge()) == 3
    outcome = toy.train(tmp_path, num_steps=3, judge=Judge())
    assert outcome.steps == 3 and np.abs(outcome.model["params"]).max() > 0
    np.testing.assert_array_equal(outcome.model["params"], outcome.state.x)


def test_a_rule_that_never_found_a_score_says_so(tmp_path):
    with pytest.raises(metrics.RunError, match="val_score was never measured; lower"):
        toy.train(tmp_path, judge=Judge(rule="val_score"))


def test_only_every_nth_step_and_the_last_are_judged(tmp_path):
    outcome = toy.train(tmp_path, judge_every_steps=4)
    assert [row["step"] for row in outcome.curve] == [4, 6]
    assert [row["step"] for row in toy.rows(tmp_path)] == [1, 2, 3, 4, 5, 6]


class Clock:
    """Each look at the clock is a second later."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        self.now += 1.0
        return self.now


def test_a_budget_of_seconds_ends_a_run_and_a_larger_one_continues(
    tmp_path, monkeypatch, capsys
):
    budgets = []

    def progress(*args, budget, **kwargs):
        budgets.append(budget)
        return Progress(*args, budget=budget, **kwargs)

    monkeypatch.setattr("experiments.harness.loop.time", Clock())
    monkeypatch.setattr("experiments.harness.loop.Progress", progress)
    short = {"max_seconds": 4.0, "num_steps": 50}
    first = toy.train(tmp_path, **short)
    assert 1 <= first.steps < 50 and first.seconds >= 4.0
    told = capsys.readouterr().out
    assert "50 steps or 4 seconds, workdir" in told
    assert "4 seconds are over: ending after step" in told
    assert toy.train(tmp_path, **short).steps == first.steps  # Nothing more is made.
    longer = toy.train(tmp_path, max_seconds=9.0, num_steps=50)
    assert longer.steps > first.steps and longer.curve[: first.steps] == first.curve
    # The time left is told, of what earlier calls left.
    assert budgets == [4.0, 4.0 - first.seconds, 9.0 - first.seconds]
    # What was spent before the first step counts.
    spent = toy.train(tmp_path / "b", seconds_before=100.0, **short)
    assert spent.steps == 1 and spent.seconds > 100.0


def test_seconds_add_up_over_interruptions(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.harness.loop.time", Clock())
    whole = toy.train(tmp_path / "a", seconds_before=3.0)
    assert toy.train(tmp_path / "b", 2, seconds_before=3.0) == 2
    again = toy.train(tmp_path / "b", seconds_before=3.0)
    assert whole.seconds == again.seconds == 9.0  # A look a step.


# ------------------------------------------------------------------------- services


def test_a_step_without_answers_is_undone(tmp_path):
    """It does not count: another one is made, with other numbers, in its place."""
    service = toy.Service(lost={2, 4})
    outcome = toy.train(tmp_path / "a", service=service, judge=Judge())
    assert outcome.steps == int(outcome.state.step) == 6
    assert [row["step"] for row in toy.rows(tmp_path / "a")] == [1, 2, 3, 4, 5, 6]
    # Eight steps asked.
    assert [row["queries"] for row in outcome.curve] == [10, 30, 50, 60, 70, 80]
    # The same after a stop, which remembers how many were undone.
    service = toy.Service(lost={2, 4})
    assert toy.train(tmp_path / "b", 3, service=service, judge=Judge()) == 3
    again = toy.train(tmp_path / "b", service=toy.Service(), judge=Judge())
    np.testing.assert_array_equal(again.state.x, outcome.state.x)
    # Not the state of six steps that were all answered: other keys.
    whole = toy.train(tmp_path / "c", judge=Judge())
    assert (np.asarray(whole.state.x) != np.asarray(outcome.state.x)).any()


def test_a_run_that_ends_without_an_answer_tells_what_it_asked(tmp_path, capsys):
    # After the second step nothing is answered, and nobody says why.
    service = toy.Service(lost=set(range(3, 99)))
    outcome = toy.train(tmp_path, service=service, judge_every_steps=2)
    assert outcome.steps == int(outcome.state.step) == 2
    assert "50 steps in a row found no answers: ending after step 2" in (
        capsys.readouterr().out
    )
    assert [(row["step"], row["queries"]) for row in outcome.curve] == [(2, 520)]
    assert [row["step"] for row in toy.rows(tmp_path)] == [1, 2]
    assert newest(tmp_path) == 2


def test_what_is_not_trained_is_taken_as_it_is_made(tmp_path, capsys):
    outcome = toy.train(tmp_path, num_steps=0, judge=Judge())
    made = toy.method(toy.open_run(tmp_path).map_tasks)
    state = made.algorithm.init(toy.open_run(tmp_path).key("init"))
    np.testing.assert_array_equal(outcome.model["params"], state.x)
    assert (outcome.steps, outcome.meta_updates, outcome.curve) == (0, 0, [])
    assert not (tmp_path / "metrics.jsonl").exists()
    assert "compiling" not in capsys.readouterr().out


def test_an_exhausted_service_ends_the_run(tmp_path, capsys):
    outcome = toy.train(tmp_path, service=toy.Service(spent_at=4))
    assert outcome.steps == int(outcome.state.step) == 3
    assert "all is spent: ending after step 3" in capsys.readouterr().out
    assert newest(tmp_path) == 3
    # Another call finds nothing more to ask, and ends with what there is.
    spent = toy.Service(spent_at=0)
    again = toy.train(tmp_path, service=spent, judge=Judge(), num_steps=9)
    assert again.steps == 3
    np.testing.assert_array_equal(again.model["params"], again.state.x)


def test_no_answer_at_all_is_an_error(tmp_path):
    for service in (toy.Service(spent_at=0), toy.Service(lost=set(range(99)))):
        with pytest.raises(metrics.RunError, match="no step found answers to all"):
            toy.train(tmp_path, service=service)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_broken_service_keeps_what_was_saved(tmp_path):
    with pytest.raises(ConnectionError, match="nobody answers"):
        toy.train(tmp_path, service=toy.Service(broken_at=3))
    assert [row["step"] for row in toy.rows(tmp_path)] == [1, 2]
    assert toy.train(tmp_path, service=toy.Service()).steps == 6


# ----------------------------------------------------------------------- what is told


def test_status_lines_name_scores_and_the_method(tmp_path, capsys):
    judge = Judge(lambda model, state: {"val_1shot_transductive": 40.0}, None)
    toy.train(tmp_path, judge=judge, num_steps=2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("toy, meta-model point with 3 parameters, 2 steps, work")
    assert lines[1].startswith("compiling the first step")
    assert lines[2].startswith("a step takes ")
    assert lines[3].startswith("step 1/2  loss ") and "val 1shot 40 " in lines[3]
    assert toy.rows(tmp_path)[0].keys() == {"step", "loss", "val_1shot_transductive"}


def test_queries_of_the_state_are_in_every_row(tmp_path):
    made = toy.method(toy.open_run(tmp_path).map_tasks)
    meters = Meters({}, queries_of=lambda state: np.asarray([2, 5]) * int(state.step))
    outcome = toy.train(tmp_path, made=made._replace(meters=meters), num_steps=2)
    assert [row["queries"] for row in outcome.curve] == [7, 14]


@pytest.mark.parametrize("stops", [(), (3,)])
def test_a_step_is_fed_what_it_needs_alone(tmp_path, stops):
    """Data of each step are made from the step's key, also where a run goes on."""
    run = toy.open_run(tmp_path)
    made, keys = toy.method(run.map_tasks), []

    def words(key):
        return tuple(np.asarray(jax.random.key_data(key)).tolist())

    def feed(key, step, data):
        keys.append(words(key))
        return data[:3]

    algorithm = made.algorithm._replace(feed=feed)
    fed = made._replace(algorithm=algorithm, data=np.arange(1.0, 9, dtype="f4"))
    for stop in stops:
        assert toy.train(tmp_path / "fed", stop, made=fed) == stop
    outcome = toy.train(tmp_path / "fed", made=fed)
    # And what was made ahead of the end.
    assert {words(run.key("step", n)) for n in range(6)} <= set(keys)
    whole = toy.train(tmp_path / "whole", made=made)
    np.testing.assert_array_equal(outcome.model["params"], whole.model["params"])


def test_a_step_that_does_not_fit_is_told_before_it_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 10)
    made = toy.method(toy.open_run(tmp_path).map_tasks)._replace(remedy="lower x")
    with pytest.raises(InputError, match=r"more than the device's 0 MB; lower x"):
        toy.train(tmp_path, made=made)


class Halves(NamedTuple):
    rate: float
    wide: int


def of_two_programs(map_tasks, wide=1):
    """The toy by two programs, in turn, of which the second takes far more room."""

    def toward(parts, number, x, target):
        room = jnp.sort(x[0] * jnp.arange(parts.wide if number else 1))
        return x - target + 0.0 * room[0]

    def finish(parts, state, gradient):
        x = state.x - parts.rate * gradient
        return toy.State(state.step + 1, x), toy.Info(x.sum(), jnp.isfinite(x).all())

    def step(parts, key, state, data, programs):
        number = int(state.step) % 2
        gradient = programs(toward, number)(state.x, data[number])
        return programs(finish, donate=0)(state, gradient)

    def init(parts, key):
        return toy.State(jnp.int32(0), jnp.zeros(3))

    made = toy.method(map_tasks)
    algorithm = bind(init, step, Halves(0.5, wide), num_programs=2)
    algorithm = algorithm._replace(model=lambda state: {"params": state.x})
    targets = (np.ones(3, np.float32), np.full(3, 3, np.float32))
    return made._replace(algorithm=algorithm, data=targets, remedy="lower x")


def test_of_several_programs_each_is_looked_at_before_it_runs(
    tmp_path, monkeypatch, capsys
):
    map_tasks = toy.open_run(tmp_path).map_tasks
    outcome = toy.train(tmp_path / "fits", made=of_two_programs(map_tasks))
    x = 0.0
    for number in range(6):
        x += 0.5 * ((1.0, 3.0)[number % 2] - x)
    np.testing.assert_allclose(outcome.state.x, x, rtol=1e-6)
    assert "a step takes 0 MB of the device's" in capsys.readouterr().out
    monkeypatch.setattr(memory, "available", lambda: 1 << 20)
    large = of_two_programs(map_tasks, wide=1 << 20)
    with pytest.raises(InputError, match=r"more than the device's 1 MB; lower x"):
        toy.train(tmp_path / "large", made=large)
    assert "a step takes 0 MB" in capsys.readouterr().out  # The first step fitted.


def test_what_a_step_holds_beside_a_program_counts_once(monkeypatch):
    told = []
    monkeypatch.setattr(memory, "tell", lambda needed, *_: told.append(needed))
    watch = memory.Watch()
    used, other = jnp.ones(1000), jnp.ones(5000)
    for held in ((used,), (used, other), (used, other)):
        program = watch.jit(lambda x: x.sum())
        with watch.holding(held):
            program(used)
    assert len(told) == 2 and told[1] - told[0] == 4 * 5000
    assert 4 * 1000 < told[0] < 4 * 2000


# ----------------------------------------------------------------- the cache of jobs


def jobs(made, count=3, **extra):
    def run(number):
        made.append(number)
        return {"value": np.full(1000, number)} | extra

    return [Job(f"part-{i}", lambda i=i: run(i)) for i in range(count)]


def values(found):
    return [int(part["value"][0]) for part in found]


def test_a_job_is_done_once_and_only_when_asked_for(tmp_path, capsys):
    made, run = [], toy.open_run(tmp_path)
    found = run.cached("stage", jobs(made))
    assert not made
    next(found)
    assert made == [0]
    assert values(found) == [1, 2] and made == [0, 1, 2]
    assert values(run.cached("stage", jobs(made))) == [0, 1, 2] and made == [0, 1, 2]
    told = capsys.readouterr().out
    assert "stage 3/3  eta 0s" in told and "stage: 3 parts in" in told
    assert 0 < run.seconds_spent("stage", "missing") < 5
    assert sorted(os.listdir(run.path("stage"))) == [f"part-{i}.npz" for i in range(3)]


def test_arrays_of_a_result_stay_in_its_file_only_where_a_job_says_so(tmp_path):
    """However large they are: who wanted an array may do with it what it likes."""
    large = np.arange(1 << 20).reshape(4, -1)
    job = Job("a", lambda: {"x": large, "y": large}, by_rows=("y",))
    run = toy.open_run(tmp_path)
    for _ in ("made", "kept"):
        (found,) = run.cached("stage", [job])
        np.testing.assert_array_equal(found["x"].reshape(-1), large.reshape(-1))
        assert isinstance(found["y"], rows.FileRows)
        np.testing.assert_array_equal(found["y"][2], large[2])


def test_a_stop_between_jobs_keeps_what_is_done(tmp_path):
    made = []
    stopped = toy.open_run(tmp_path, stop=toy.Stop(polls=2))
    with pytest.raises(stopping.Stopped):
        list(stopped.cached("stage", jobs(made)))
    assert made == [0, 1]
    # What is there is read even when asked to stop.
    halted = toy.open_run(tmp_path, stop=toy.Stop(polls=0))
    assert values(halted.cached("stage", jobs(made, 2))) == [0, 1] == made
    assert values(toy.open_run(tmp_path).cached("stage", jobs(made))) == [0, 1, 2]
    assert made == [0, 1, 2]


def test_a_damaged_file_is_made_anew(tmp_path, capsys):
    made, run = [], toy.open_run(tmp_path)
    list(run.cached("stage", jobs(made)))
    os.truncate(tmp_path / "stage" / "part-1.npz", 500)
    (tmp_path / "stage" / "part-2.npz").write_bytes(b"")
    assert values(run.cached("stage", jobs(made))) == [0, 1, 2]
    assert made == [0, 1, 2, 1, 2]
    assert capsys.readouterr().err.count("is damaged") == 2


def test_an_incomplete_result_is_yielded_but_not_kept(tmp_path):
    made, run = [], toy.open_run(tmp_path)
    for complete in (False, True, True):
        flag = np.bool_(complete)
        assert values(run.cached("stage", jobs(made, 2, complete=flag))) == [0, 1]
    assert made == [0, 1, 0, 1]


def test_a_full_disk_keeps_the_results_before(tmp_path, monkeypatch):
    made, run = [], toy.open_run(tmp_path)
    found = run.cached("stage", jobs(made))
    next(found)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("experiments.harness.files.os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            next(found)
    assert os.listdir(tmp_path / "stage") == ["part-0.npz"]
    assert values(run.cached("stage", jobs(made))) == [0, 1, 2]


def test_the_toys_metrics_are_json(tmp_path):
    toy.train(tmp_path)
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        assert json.loads(line)["step"] > 0
