"""The plumbing around a run: command line, work directory, checkpoints, logs."""

import errno
import json
import os
import signal
import subprocess
import sys
import types
from typing import NamedTuple

import harness_toy
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from experiments import run
from experiments.configs import variants
from experiments.harness import (
    checkpointing,
    command_line,
    metrics,
    optimizers,
    pictures,
    plots,
    results,
    stopping,
)
from experiments.harness import run as run_lib
from experiments.harness import workdir as workdir_lib
from experiments.harness.progress import Progress
from free_jax.errors import InputError

CONFIG = """
import ml_collections
from experiments.configs import common

def get_config(variant=""):
    chosen = common.parse_variant(variant)
    return ml_collections.ConfigDict(dict(
        run="dummy", seed=max(chosen.seed, 0), num_steps=3 if chosen.smoke else 1000,
        inversion=dict(num_steps=5, rate=0.1), record=None, shape=(1, 2), flag=False))
"""


class State(NamedTuple):
    params: dict
    optimizer: optax.OptState
    bank: jax.Array
    step: jax.Array
    key: jax.Array


def make_state(seed: int, width: int = 64) -> State:
    key = jax.random.key(seed)
    params = {"w": jax.random.normal(key, (width, 50)), "b": jnp.arange(4.0)}
    bank = jax.random.randint(key, (8, 9, 9, 3), 0, 255).astype(jnp.uint8)
    return State(params, optax.adam(0.1).init(params), bank, jnp.int32(seed), key)


def assert_same(one: State, two: State) -> None:
    def check(a, b):
        assert a.dtype == b.dtype
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)

    jax.tree.map(check, one, two)


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def dummy(monkeypatch):
    """Registers a run module and returns the calls it got."""
    calls = []
    module = types.ModuleType("dummy_run")
    module.main = lambda config, workdir: calls.append((config, workdir)) or {}
    monkeypatch.setitem(sys.modules, "dummy_run", module)
    monkeypatch.setitem(run.RUNS, "dummy", "dummy_run")
    return types.SimpleNamespace(calls=calls, module=module)


def call(*arguments: str) -> int:
    common_flags = ["--distributed=off", "--compilation_cache=off"]
    return run.main(["run.py", *arguments, *common_flags])


# ---------------------------------------------------------------- command line


def test_run_passes_config_and_workdir(config_file, dummy, capsys):
    override = "--config.inversion.num_steps=7"
    assert call(override, f"--config={config_file}:smoke,seed=4") == 0
    ((config, workdir),) = dummy.calls
    assert (config.seed, config.num_steps, config.inversion.num_steps) == (4, 3, 7)
    assert workdir == "runs/tiny_smoke_seed=4/seed4"
    assert "jax" in capsys.readouterr().out
    assert call("--config", str(config_file), "--workdir=there", "--config.flag") == 0
    assert dummy.calls[1][0].flag and dummy.calls[1][1] == "there"
    command = command_line.parse(
        ["", f"--config={config_file}", "--config.shape=(3,4)", "--noconfig.flag"]
    )
    assert command.config.shape == (3, 4) and command.workdir == "runs/tiny/seed0"


def test_a_section_given_as_a_dict_keeps_what_the_dict_does_not_say(config_file):
    def parsed(override):
        return command_line.parse(["", f"--config={config_file}", override]).config

    found = parsed("--config.inversion={'num_steps': 7}").inversion
    assert found.to_dict() == {"num_steps": 7, "rate": 0.1}
    with pytest.raises(InputError, match="did you mean 'inversion"):
        parsed("--config.inversion={'num_step': 7}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--config=FILE.py is required"),
        (("--config=nowhere.py",), "nowhere.py: no such file"),
        (("--config=panl.py:smoke",), "did you mean experiments/configs/panel.py"),
        (("--config=panel",), "did you mean experiments/configs/panel.py"),
        (("--config=CFG:smok",), "unknown variant 'smok'; did you mean 'smoke'?"),
        (("--config=CFG:seed=x",), "takes a value of type int"),
        (
            ("--config=CFG", "--config.inversion.num_step=7"),
            "no such key; did you mean 'inversion.num_steps'?",
        ),
        (("--config=CFG", "--config.rate=7"), "did you mean 'inversion.rate'?"),
        (
            ("--config=CFG", "--config.seed=a"),
            "flag --config.seed=a: must be a whole number",
        ),
        (
            ("--config=CFG", "--config.record={'kind': 'all'}"),
            "--config.record: record is None in this config and cannot be given on a",
        ),
        (("--config=CFG", "--config.record.kind=all"), "set config.record = {...} in"),
        (("--config=CFG", "--config.record=None"), "record is None in this config"),
        (("--config=CFG", "--config.flag=maybe"), "boolean flag: maybe"),
        (("--config=CFG", "--wokdir=x"), "Unknown command line flag 'wokdir'"),
        (("--config=CFG", "stray"), "unexpected argument 'stray'"),
        (("--config=CFG", "--config.run=nothing"), "config.run='nothing'"),
    ],
)
def test_wrong_command_lines_give_one_line(
    arguments, words, config_file, dummy, capsys
):
    assert call(*(a.replace("CFG", str(config_file)) for a in arguments)) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ") and words in text and text.count("\n") == 1
    assert not dummy.calls


def test_only_expected_errors_lose_their_traceback(config_file, dummy, capsys):
    def failing(error):
        def main(config, workdir):
            raise error

        return main

    dummy.module.main = failing(InputError("zoo.path: no such folder"))
    assert call(f"--config={config_file}") == 2
    assert capsys.readouterr().err == "error: zoo.path: no such folder\n"
    dummy.module.main = failing(metrics.RunError("loss is nan at step 3"))
    assert call(f"--config={config_file}") == 1
    dummy.module.main = failing(OSError(errno.ENOSPC, "No space left on device"))
    assert call(f"--config={config_file}") == 2
    assert "error: the disk is full" in capsys.readouterr().err
    dummy.module.main = failing(ValueError("a defect"))
    with pytest.raises(ValueError, match=r"a defect"):
        call(f"--config={config_file}")


def test_the_end_of_a_run_is_its_exit_status(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(run.RUNS, "toy", "harness_toy")
    toy = [f"--config={harness_toy.__file__}", f"--workdir={tmp_path}"]
    assert call(*toy, "--config.rate=1e30") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: loss is") and error.count("\n") == 1
    assert call(*toy) == 2
    assert (
        "holds a run of another config: rate: 1e+30 -> 0.1" in capsys.readouterr().err
    )
    toy[1] += "/b"
    with monkeypatch.context() as patch:
        patch.setattr(stopping.StopRequest, "reached", lambda self, step: step == 2)
        assert call(*toy) == 0
    out = capsys.readouterr().out
    assert "stopped at step 2; resume with the same command" in out
    assert call(*toy) == 0
    assert "resuming after step 2/6" in capsys.readouterr().out
    assert json.loads((tmp_path / "b" / "result.json").read_text())["steps"] == 6
    # More steps may be asked for, fewer than were made may not.
    assert call(*toy, "--config.num_steps=7") == 0
    assert call(*toy, "--config.num_steps=3") == 2
    assert "has made 7 steps, more than" in capsys.readouterr().err


def test_run_as_a_script_from_any_directory(tmp_path, config_file):
    script = command_line.REPOSITORY / "experiments" / "run.py"
    done = subprocess.run(
        [sys.executable, script, f"--config={config_file}", "--config.sed=1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr == (
        "error: --config.sed: the config has no such key; did you mean 'seed'?\n"
    )


def test_stop_request_restores_handlers():
    before = signal.getsignal(signal.SIGTERM)
    with stopping.StopRequest() as stop:
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested and stop.reached(1)
        # A second signal has its usual meaning again.
        assert signal.getsignal(signal.SIGTERM) == before
    assert signal.getsignal(signal.SIGTERM) == before


# ------------------------------------------------------------- work directory


def test_claim_refuses_another_config(tmp_path):
    workdir = tmp_path / "a" / "b"
    config = {"seed": 0, "data": {"path": "x", "shape": (1, 2)}, "num_steps": 10}
    workdir_lib.claim_workdir(workdir, config).release()
    assert json.loads((workdir / "config.json").read_text())["data"]["shape"] == [1, 2]
    workdir_lib.claim_workdir(workdir, config).release()
    # A run that failed at once, for a mistyped path, leaves nothing to protect.
    mistyped = config | {"data": {"path": "y", "shape": (1, 2)}}
    workdir_lib.claim_workdir(workdir, mistyped).release()
    workdir_lib.claim_workdir(workdir, config).release()
    (workdir / "metrics.jsonl").write_text("{}")
    other = {"seed": 1, "data": {"path": "x", "shape": (1, 2)}, "num_steps": 20}
    with pytest.raises(
        InputError, match=r"num_steps: 10 -> 20, seed: 0 -> 1; use anot"
    ):
        workdir_lib.claim_workdir(workdir, other)
    allowed = config | {"num_steps": 20}
    workdir_lib.claim_workdir(workdir, allowed, may_change=("num_steps",)).release()
    assert json.loads((workdir / "config.json").read_text())["num_steps"] == 20
    with pytest.raises(InputError, match=r"data.path: x -> "):
        workdir_lib.claim_workdir(workdir, {"seed": 0}, may_change=("num_steps",))


def test_claim_refuses_a_second_run(tmp_path):
    claim = workdir_lib.claim_workdir(tmp_path, {})
    with pytest.raises(
        InputError, match=f"in use by another run .process {os.getpid()}"
    ):
        workdir_lib.claim_workdir(tmp_path, {})
    claim.release()
    workdir_lib.claim_workdir(tmp_path, {}).release()


def test_a_run_that_is_refused_leaves_no_workdir(tmp_path):
    """Nor folders above it that were made for it; what was there before stays."""

    def refused(folder, *files_left):
        how = {"seed": 0, "place": lambda x: x, "map_tasks": map, "identity": {}}
        with pytest.raises(InputError, match="no such path"):
            with run_lib.opened(str(folder), **how):
                assert (folder / "config.json").exists()
                for name in files_left:
                    (folder / name).write_text("x")
                raise InputError("no such path")

    refused(tmp_path / "runs" / "mine" / "seed0")
    assert not list(tmp_path.iterdir())
    (tmp_path / "runs").mkdir()
    refused(tmp_path / "runs" / "mine")
    assert not list((tmp_path / "runs").iterdir())
    refused(tmp_path / "runs" / "mine", "result.json")
    there = {".lock", "config.json", "format.json", "result.json"}
    assert set(os.listdir(tmp_path / "runs" / "mine")) == there
    (tmp_path / "given").mkdir()
    refused(tmp_path / "given")
    assert (tmp_path / "given" / "config.json").exists()


def test_a_lock_of_a_folder_that_is_gone_is_none(tmp_path):
    """Who waited for a claim that was withdrawn does not hold a removed file."""
    folder = tmp_path / "run"
    first = workdir_lib.claim_workdir(folder, {})
    handle = os.open(folder / ".lock", os.O_RDWR)
    first.withdraw()
    assert not folder.exists() and not workdir_lib._is_file_of(handle, folder / ".lock")
    os.close(handle)
    workdir_lib.claim_workdir(folder, {}).release()
    assert (folder / ".lock").exists()


def test_claim_names_unusable_workdirs(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for workdir in (file, file / "below"):
        with pytest.raises(InputError, match=r"not a folder"):
            workdir_lib.claim_workdir(workdir, {})
    with pytest.raises(InputError, match=r"cannot be written"):
        workdir_lib.claim_workdir("/proc/nothing", {})


# ----------------------------------------------------------------- checkpoints


def test_checkpoint_round_trip_and_cadence(tmp_path):
    checkpoints = checkpointing.Checkpoints(tmp_path, save_every_steps=2)
    assert checkpoints.restore_latest(make_state(0)) is None
    saved = [checkpoints.save(s, make_state(s), {"best": s / 4}) for s in range(1, 7)]
    assert saved == [False, True] * 3
    assert not checkpoints.save(6, make_state(6), {}, force=True)
    checkpoints.close()
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["4", "6"]
    checkpoints = checkpointing.Checkpoints(tmp_path, save_every_secs=0.0)
    abstract = jax.eval_shape(lambda: make_state(0))
    state, step, extra = checkpoints.restore_latest(abstract)
    assert (step, extra) == (6, {"best": 1.5}) and isinstance(state, State)
    assert_same(state, make_state(6))
    with pytest.raises(InputError, match=r"params/w: float32\[64, 50\] -> float32\[65"):
        checkpoints.restore_latest(jax.eval_shape(lambda: make_state(0, 65)))
    checkpoints.close()


def test_saving_is_safe_with_donation(tmp_path):
    checkpoints = checkpointing.Checkpoints(tmp_path)
    state = make_state(1, 2000)
    checkpoints.save(1, state, {}, force=True)
    overwrite = jax.jit(lambda p: jax.tree.map(jnp.zeros_like, p), donate_argnums=0)
    jax.block_until_ready(overwrite(state.params))
    restored, _, _ = checkpoints.restore_latest(make_state(0, 2000))
    assert_same(restored, make_state(1, 2000))
    checkpoints.close()


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "half", "empty"])
def test_damaged_checkpoint_falls_back(tmp_path, damage, capfd):
    checkpoints = checkpointing.Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, make_state(step), {"at": step}, force=True)
    checkpoints.close()
    folder = tmp_path / "checkpoints" / "2"
    files = [f for f in (folder / "state").rglob("*") if f.is_file()]
    largest = max(files, key=lambda f: f.stat().st_size)
    data = bytearray(largest.read_bytes())
    if damage == "truncate":
        os.truncate(largest, len(data) // 2)
    elif damage == "flip":
        data[len(data) // 2] ^= 16
        largest.write_bytes(data)
    elif damage == "remove":
        largest.unlink()
    elif damage == "half":  # a copy that was interrupted
        (folder / "digest.json").unlink()
    else:
        (folder / "digest.json").write_text("")
    capfd.readouterr()
    checkpoints = checkpointing.Checkpoints(tmp_path)
    state, step, extra = checkpoints.restore_latest(make_state(0))
    assert (step, extra) == (1, {"at": 1})
    assert_same(state, make_state(1))
    text = capfd.readouterr().err
    assert text.startswith("warning: checkpoint 2 is damaged") and text.count("\n") == 1
    assert (tmp_path / "damaged_checkpoint_2").exists()
    # The step can be reached and saved again.
    assert checkpoints.save(2, make_state(2), {}, force=True)
    checkpoints.close()
    checkpoints = checkpointing.Checkpoints(tmp_path)
    assert checkpoints.restore_latest(make_state(0))[1] == 2
    checkpoints.close()


def test_unfinished_saves_are_ignored(tmp_path):
    (tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    checkpoints = checkpointing.Checkpoints(tmp_path)
    assert checkpoints.restore_latest(make_state(0)) is None
    assert checkpoints.save(3, make_state(3), {}, force=True)
    checkpoints.close()
    for file in (tmp_path / "checkpoints" / "3" / "extra").iterdir():
        file.write_text("")
    with pytest.raises(InputError, match=r"no sound checkpoint is left"):
        checkpointing.Checkpoints(tmp_path).restore_latest(make_state(0))


def test_full_disk_keeps_older_checkpoints(tmp_path, monkeypatch):
    checkpoints = checkpointing.Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, make_state(step), {}, force=True)
    checkpoints.wait()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpointing.files, "write_json", full)
        checkpoints.save(3, make_state(3), {}, force=True)
        with pytest.raises(InputError, match=r"disk is full: checkpoint 3 .*\[1, 2\]"):
            checkpoints.wait()
    assert checkpoints.save(4, make_state(4), {}, force=True)
    checkpoints.close()
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["2", "4"]


# Orbax leaves a failed write's coroutine behind; Python complains when it goes.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_really_full_disk(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount")
    try:
        checkpoints = checkpointing.Checkpoints(tmp_path)
        checkpoints.save(1, make_state(1), {}, force=True)
        with pytest.raises(InputError, match=r"the disk is full: checkpoint 2"):
            checkpoints.save(2, make_state(2, 20_000), {}, force=True)
            checkpoints.wait()
        assert os.listdir(tmp_path / "checkpoints") == ["1"]
        assert checkpoints.restore_latest(make_state(0))[1] == 1
        checkpoints.close()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


# ------------------------------------------------------------------------ logs


def test_metrics_have_each_step_once(tmp_path):
    writer = metrics.MetricWriter(tmp_path)
    for step in range(1, 6):
        writer.write(step, {"loss": jnp.float32(step / 2), "n": np.int32(step)})
    file = tmp_path / "metrics.jsonl"
    before = file.read_text()
    with file.open("a") as stream:  # a kill in the middle of a line
        stream.write('{"step": 6, "lo')
    writer = metrics.MetricWriter(tmp_path)
    assert file.read_text() == before
    writer.truncate_after(3)
    for step in (4, 5):
        writer.write(step, {"loss": jnp.float32(step / 2), "n": np.int32(step)})
    assert file.read_text() == before
    writer.write(6, {"loss": float("nan")})
    assert writer.read()[-1] == {"step": 6, "loss": "nan"}


def test_tensorboard_is_optional(tmp_path):
    pytest.importorskip("tensorboardX")
    writer = metrics.MetricWriter(tmp_path, tensorboard=True)
    writer.write(1, {"loss": jnp.float32(1)})
    writer.close()
    assert os.listdir(tmp_path / "tensorboard")


def test_progress_excludes_compilation(capsys):
    now = [0.0]
    progress = Progress(1000, 100, every_secs=30, clock=lambda: now[0])
    now[0] = 60.0  # the first step compiles
    progress.update(101, {"ce": jnp.float32(0.42), "replay acc": 61.234})
    for step in range(102, 111):
        now[0] += 10
        progress.update(step, {"ce": 0.4})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "step 101/1000  ce 0.42  replay acc 61.2  eta ?"
    assert lines[-1] == "step 110/1000  ce 0.4  eta 2h28m"
    assert len(lines) == 4


def test_durations():
    spans = [0.4, 59.6, 185, 11520, 190000]
    assert [metrics.format_duration(s) for s in spans] == [
        "0s",
        "1m00s",
        "3m05s",
        "3h12m",
        "2d04h",
    ]


def test_nan_is_named():
    metrics.check_finite(3, {"ce": jnp.float32(1), "n": 2})
    with pytest.raises(metrics.RunError, match=r"ce is nan at step 3; lower"):
        metrics.check_finite(3, {"ce": jnp.float32(jnp.nan), "ok": 1.0})
    with pytest.raises(FloatingPointError, match=r"kl is inf at steps 11 to 20"):
        metrics.check_finite(20, {"kl": float("inf")}, since=10)


def test_result_and_tables(tmp_path, capsys):
    config = {"b": 1, "a": {"c": (1, 2)}}
    results.write_result(tmp_path, {"accuracy": jnp.float32(0.5)}, config)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["format"] == 2 and result["accuracy"] == 0.5
    reordered = results.write_result(tmp_path, {}, {"a": {"c": [1, 2]}, "b": 1})
    assert reordered["config_hash"] == result["config_hash"]
    rows = [{"method": "ours", "5-way": 38.71}, {"method": "random", "5-way": None}]
    markdown = metrics.print_table(rows, ["method", "5-way"], title="Accuracy")
    assert markdown.splitlines()[2] == "| ours | 38.7 |"
    assert capsys.readouterr().out.splitlines()[:4] == [
        "Accuracy",
        "method  5-way",
        "------  -----",
        "ours    38.7",
    ]


# -------------------------------------------------------- pictures, optimizers


def test_grid(tmp_path):
    images = np.zeros((6, 8, 8, 3), np.float32)
    images[0, ..., 0] = 2.0  # out of range is clipped
    path = tmp_path / "new" / "grid.png"
    pictures.save_grid(path, images, rows=2, scale=3)
    picture = np.asarray(Image.open(path))
    assert picture.shape == (2 * 26 + 2, 3 * 26 + 2, 3)
    assert (picture[2:26, 2:26] == [255, 0, 0]).all()
    assert (picture[28:52, 2:26] == 0).all()
    pictures.save_grid(path, images, rows=2, labels=["teacher 1", "teacher 2"])
    assert Image.open(path).width > 3 * 18 + 2
    with pytest.raises(ValueError, match=r"6 images do not fill 4 rows"):
        pictures.save_grid(path, images, rows=4)


def test_curves(tmp_path, monkeypatch, capsys):
    path = tmp_path / "curves.png"
    series = {"ours": [(0, 20.0, 1.0), (10, 30.0, 0.8)], "none": [], "x": [(0, 1)]}
    assert plots.save_curves(path, series, ylabel="accuracy")
    assert Image.open(path).size == (768, 480)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert not plots.save_curves(path, series)
    assert "pip install matplotlib" in capsys.readouterr().err


def test_optimizer():
    schedule = {"name": "constant_schedule", "kwargs": {"value": 0.5}}
    transform = optimizers.optimizer(
        {"name": "sgd", "kwargs": {"learning_rate": schedule}}
    )
    updates, _ = transform.update(jnp.ones(2), transform.init(jnp.ones(2)))
    np.testing.assert_array_equal(updates, [-0.5, -0.5])
    with pytest.raises(InputError, match=r"'adamm'.* did you mean 'adam'"):
        optimizers.optimizer({"name": "adamm"})
    with pytest.raises(InputError, match=r"optax.adam takes learning_rate, b1"):
        optimizers.optimizer({"name": "adam", "kwargs": {"lr": 1}})
    with pytest.raises(InputError, match=r"is not an optimizer"):
        optimizers.optimizer(schedule)


def test_variants():
    assert variants.parse_variant("smoke").smoke
    parsed = variants.parse_variant("rate=2,name=x", rate=0.5, name="y", fast=False)
    assert vars(parsed) == {"rate": 2.0, "name": "x", "fast": False}
    with pytest.raises(ValueError, match=r"Known: smoke, reference, cpu, seed=N"):
        variants.parse_variant("nothing")
