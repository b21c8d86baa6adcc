"""Whole runs that are killed, stopped, or spread over two processes."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import textwrap
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from experiments.harness import checkpointing, files
from experiments.run import REPOSITORY
from free_jax import load_model, make_network, save_model
from free_jax.errors import InputError

TOY = str(REPOSITORY / "tests" / "harness_toy.py")
# Two devices, so that one process can be compared with two.
ONE_PROCESS = ("--config.host_devices=2", "--distributed=off")


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts a command on a workdir; compiled programs are shared."""
    cache = tmp_path_factory.mktemp("xla")
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {
        "JAX_PLATFORMS": "cpu",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "OMP_NUM_THREADS": "1",
    }
    started = []

    def start(workdir, *options, script=TOY, config=TOY):
        command = [sys.executable, str(script), f"--config={config}", *options]
        command += [f"--workdir={workdir}", f"--compilation_cache={cache}"]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def toy(start):
    """Starts the toy method of `harness_toy`: 12 steps of a few milliseconds."""

    def toy(workdir, *options, alone=ONE_PROCESS):
        steps = ("--config.num_steps=12", "--config.task=-1")
        return start(workdir, *steps, *alone, *options)

    return toy


def wait_for(process, text):
    """Reads lines until one starts with `text`, and returns them all."""
    lines = []
    while not lines or not lines[-1].startswith(text):
        lines.append(process.stdout.readline())
        assert lines[-1], (lines, process.stderr.read())
    return lines


def end(process, status=0):
    out, err = process.communicate(timeout=600)
    assert process.returncode == status, (out, err)
    return out, err


def outcome(workdir):
    """What must not depend on interruptions."""
    result = json.loads((workdir / "result.json").read_text())
    curve = [
        {k: v for k, v in row.items() if k != "seconds"} for row in result["curve"]
    ]
    lines = (workdir / "metrics.jsonl").read_text()
    return lines, curve, result.get("model"), result.get("results")


def step_of(line):
    return int(line.split("step ")[1].split("/")[0])


@pytest.fixture(scope="module")
def uninterrupted(toy, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    end(toy(workdir))
    return workdir


def test_killed_at_any_moment_it_ends_as_if_it_had_not_been(
    toy, uninterrupted, tmp_path
):
    slow = "--config.sleep=0.3"
    process = toy(tmp_path, slow)
    wait_for(process, "prepared 1/2")  # In the middle of a stage of jobs.
    process.kill()
    process.communicate()
    assert os.listdir(tmp_path / "prepared") == ["part-0.npz"]

    process = toy(tmp_path, slow)
    wait_for(process, "step 1/12")
    os.kill(process.pid, signal.SIGSTOP)
    _, error = end(toy(tmp_path), 2)  # It still has the directory.
    assert "in use by another run" in error and error.count("\n") == 1
    os.kill(process.pid, signal.SIGCONT)
    stopping = time.monotonic()
    process.terminate()
    out, error = end(process)
    assert time.monotonic() - stopping < 30 and "Traceback" not in error
    assert "resume with the same command" in out
    stopped = int(out.split("stopped at step ")[1].split(";")[0])

    process = toy(tmp_path, slow)
    reached = step_of(wait_for(process, "resuming after step")[-1])
    assert reached == stopped
    folder = tmp_path / "checkpoints"
    while not list(folder.glob("*.orbax-checkpoint-tmp*")):
        assert process.poll() is None
    process.kill()  # In the middle of a save, and of the step that goes on meanwhile.
    process.communicate()

    out, error = end(toy(tmp_path))
    assert step_of(out[out.index("resuming") :]) >= reached
    assert "damaged" not in error
    assert outcome(tmp_path) == outcome(uninterrupted)


@pytest.mark.slow
def test_a_chain_of_signals_in_the_stage_and_in_the_loop(toy, uninterrupted, tmp_path):
    """SIGTERM and SIGINT, each as soon as something new is told."""
    slow = "--config.sleep=0.2"
    for number, told in enumerate(["prepared 1/2", "step 2/12", "step 4/12"]):
        process = toy(tmp_path, slow)
        wait_for(process, told)
        process.send_signal((signal.SIGTERM, signal.SIGINT)[number % 2])
        out, error = end(process)
        assert "resume with the same command" in out and "Traceback" not in error
    assert "stopped at step 0" not in out
    end(toy(tmp_path))
    assert outcome(tmp_path) == outcome(uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_killed_at_random_moments(toy, uninterrupted, tmp_path, seed):
    rng, kills = np.random.default_rng(seed), 0
    while not (tmp_path / "result.json").exists():
        process = toy(tmp_path, "--config.sleep=0.1")
        try:
            # The first one surely before its end.
            process.wait(rng.uniform(1.0, 8.0 if kills else 2.5))
        except subprocess.TimeoutExpired:
            process.send_signal(rng.choice([signal.SIGKILL, signal.SIGTERM]))
            kills += 1
        process.communicate()
    assert kills and outcome(tmp_path) == outcome(uninterrupted)


def both(start, workdir, *options, **kwargs):
    """Starts two processes on one workdir, which find each other on loopback."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = ("--distributed=on", f"--coordinator=localhost:{port}")
    flags += ("--num_processes=2", *options)
    return [start(workdir, *flags, f"--process_id={i}", **kwargs) for i in range(2)]


def assert_alike(workdir, other):
    """Both runs have the same metrics and results, up to rounding."""
    lines, _, model, results = outcome(workdir)
    expected_lines, _, expected_model, expected = outcome(other)
    for mine, theirs in zip(
        lines.splitlines(), expected_lines.splitlines(), strict=True
    ):
        wanted = pytest.approx(json.loads(theirs), rel=1e-3, abs=1e-3)
        assert json.loads(mine) == wanted
    if model:
        np.testing.assert_allclose(model, expected_model, rtol=1e-5)
    for method, cells in (expected or {}).items():
        for name, cell in cells["1"].items():
            found = results[method]["1"][name]["per_episode"]
            np.testing.assert_allclose(found, cell["per_episode"], atol=0.05)


@pytest.mark.slow
def test_two_processes_stop_together_and_give_the_result_of_one(
    toy, uninterrupted, tmp_path
):
    # By the clock of process 0, which both must follow.
    clock = ("--config.checkpoint.every_steps=0", "--config.checkpoint.every_secs=0.2")
    options = {"alone": ()}
    first, second = both(toy, tmp_path, *clock, "--config.sleep=0.8", **options)
    wait_for(first, "compiling the first step")  # JAX looks for signals once a second.
    second.terminate()  # One host is preempted; both stop after the same step.
    out, _ = end(first)
    silent, _ = end(second)
    assert "resume with the same command" in out and "step" not in silent
    assert not (tmp_path / "result.json").exists()

    first, second = both(toy, tmp_path, *clock, **options)
    out, _ = end(first)
    end(second)
    assert "process 0/2; 2 cpu device" in out and "resuming after step" in out
    assert_alike(tmp_path, uninterrupted)


@pytest.mark.slow
def test_free_on_two_processes(start, tmp_path):
    """The one method whose whole step is spread over hosts, as small as it goes."""
    options = {
        "script": REPOSITORY / "experiments" / "run.py",
        "config": "experiments/configs/demo.py:smoke,free",
    }
    small = [
        "--config.data.image_size=16",
        "--config.student.kwargs.width=4",
        "--config.generator.width=4",
        "--config.generator.latent_dim=8",
        "--config.zoo.pretrain.num_teachers=4",
        "--config.zoo.pretrain.model.kwargs.width=4",
        "--config.zoo.pretrain.train_fraction=0.3",
        "--config.learner.kind=protonet",
        "--config.inversion.num_steps=1",
        "--config.inversion.objective.adversarial=0.0",
        "--config.inversion.objective.moments=0.0",
        "--config.inversion.images_per_class=6",
        "--config.inversion.warmup_steps=1",
        "--config.replay.queries=5",
        "--config.replay.augment=False",
        "--config.eval.queries=5",
        "--config.eval.episodes=8",
        "--config.eval.val_episodes=4",
        "--config.eval.yardsticks=()",
        "--config.num_steps=6",
        "--config.log.every_secs=0",
        "--config.checkpoint.every_steps=1",
        "--config.mesh.task=-1",
    ]
    alone, spread = tmp_path / "alone", tmp_path / "spread"
    end(start(alone, *small, *ONE_PROCESS, **options))
    first, second = both(start, spread, *small, **options)
    end(first)
    end(second)
    assert_alike(spread, alone)
    assert (spread / "recovered.png").exists()


# ------------------------------------------------------------------ small parts


def test_a_step_that_takes_too_long_does_not_outlive_sigterm(tmp_path):
    script = tmp_path / "slow.py"
    script.write_text(
        textwrap.dedent("""
        import hashlib
        from experiments.harness.stopping import StopRequest
        with StopRequest(grace_secs=0.3):
            print("working", flush=True)
            # Python runs no signal handler before this returns, as in a compilation.
            hashlib.pbkdf2_hmac("sha256", b"a", b"b", 10**9)
        """)
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    wait_for(process, "working")
    process.terminate()
    _, error = process.communicate(timeout=20)
    assert process.returncode == 0 and "what is on disk stands" in error


def test_checkpoints_of_another_config_or_version_are_refused(tmp_path, monkeypatch):
    state = {"x": jnp.ones(3)}

    def opened(**config):
        return checkpointing.Checkpoints(
            tmp_path, config=config, may_change=("num_steps",)
        )

    checkpoints = opened(rate=0.1, num_steps=5)
    checkpoints.save(1, state, {}, force=True)
    checkpoints.close()
    with pytest.raises(InputError, match=r"another version: rate: 0.1 -> 0.2; use"):
        opened(rate=0.2, num_steps=5).restore_latest(state)
    assert opened(rate=0.1, num_steps=9).restore_latest(state)[1] == 1
    monkeypatch.setattr(checkpointing, "FORMAT", 99)
    with pytest.raises(InputError, match=r"format: 1 -> 99"):
        opened(rate=0.1, num_steps=5).restore_latest(state)


def test_remote_paths_are_left_to_epath(monkeypatch, tmp_path):
    """Nothing joins, resolves or locks what is no local file; here without network."""
    written = {}

    class Bucket(pathlib.PurePosixPath):
        def expanduser(self):
            return self

        def is_dir(self):
            return False

        def write_bytes(self, data):
            written[str(self)] = data

        def read_bytes(self):
            return written[str(self)]

        def with_name(self, name):
            return Bucket(super().with_name(name))

        def replace(self, target):
            written[str(target)] = written.pop(str(self))

    monkeypatch.setattr(epath, "Path", Bucket)
    files.write_json("gs://bucket/run/result.json", {"a": 1})
    assert written == {"gs:/bucket/run/result.json": b'{\n  "a": 1\n}\n'}
    arch = make_network("conv4", num_classes=5, image_shape=(16, 16, 3), width=4)
    shapes = jax.eval_shape(arch.init, jax.random.key(0))["params"]
    params = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shapes)
    save_model("gs://bucket/run/model.npz", arch, params, steps=3)
    found, loaded, notes = load_model("gs://bucket/run/model.npz")
    assert found == arch and notes["steps"] == 3
    assert jax.tree.structure(loaded) == jax.tree.structure({"params": params})
    assert not list(tmp_path.iterdir())
