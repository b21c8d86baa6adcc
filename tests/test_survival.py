"""Whole runs that are killed, starved of disk, or spread over two processes."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from experiments import checkpointing, command_line, jsonio, recovering
from experiments.run import REPOSITORY
from free_jax import architecture, load_model, save_model
from free_jax.errors import InputError

# As small as the harness allows; two devices, so that one process can be compared
# with two.  Nothing here is about learning.
CONFIG = [
    "--config=experiments/configs/demo.py:smoke,free",
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
TWO_DEVICES = ("--config.host_devices=2", "--distributed=off")


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts ``run.py`` on a workdir; compiled programs are shared."""
    cache = tmp_path_factory.mktemp("xla")
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {
        "JAX_PLATFORMS": "cpu",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "OMP_NUM_THREADS": "1",
    }
    started = []

    def start(workdir, *extra):
        command = [sys.executable, str(REPOSITORY / "experiments" / "run.py")]
        command += [*CONFIG, f"--workdir={workdir}", f"--compilation_cache={cache}"]
        process = subprocess.Popen(
            [*command, *(extra or TWO_DEVICES)],
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


def wait_for(process, text):
    """Reads lines until one starts with `text`, and returns them all."""
    lines = []
    while not lines or not lines[-1].startswith(text):
        lines.append(process.stdout.readline())
        assert lines[-1], (lines, process.stderr.read())
    return lines


def end(process, status=0):
    out, err = process.communicate(timeout=200)
    assert process.returncode == status, (out, err)
    return out, err


def outcome(workdir):
    """What must not depend on interruptions."""
    result = json.loads((workdir / "result.json").read_text())
    curve = [
        {k: v for k, v in row.items() if k != "seconds"} for row in result["curve"]
    ]
    return (workdir / "metrics.jsonl").read_text(), result["results"], curve


@pytest.fixture(scope="module")
def uninterrupted(start, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    end(start(workdir))
    return workdir


def test_killed_at_any_moment_it_ends_as_if_it_had_not_been(
    start, uninterrupted, tmp_path
):
    process = start(tmp_path)
    wait_for(process, "step 1/2  teacher loss")  # Training the zoo.
    process.kill()
    process.communicate()

    process = start(tmp_path)
    wait_for(process, "step 1/6")
    os.kill(process.pid, signal.SIGSTOP)
    _, error = end(start(tmp_path), 2)  # It still has the directory.
    assert "in use by another run" in error and error.count("\n") == 1
    os.kill(process.pid, signal.SIGCONT)
    stopping = time.monotonic()
    process.terminate()
    out, _ = end(process)
    assert time.monotonic() - stopping < 30
    assert "resume with the same command" in out

    process = start(tmp_path)
    line = wait_for(process, "resuming after step")[-1]
    reached = int(line.split("step ")[1].split("/")[0])
    folder = tmp_path / "checkpoints"
    while not list(folder.glob("*.orbax-checkpoint-tmp*")):
        assert process.poll() is None
    process.kill()  # In the middle of a save.
    process.communicate()

    process = start(tmp_path)
    resumed = wait_for(process, "resuming after step")[-1]
    assert int(resumed.split("step ")[1].split("/")[0]) >= reached
    wait_for(process, "step ")
    process.kill()  # In the middle of a step, or near it.
    process.communicate()

    out, error = end(start(tmp_path))
    assert "resuming after step" in out and "damaged" not in error
    assert outcome(tmp_path) == outcome(uninterrupted)


def test_a_longer_run_continues_a_finished_one(start, uninterrupted, tmp_path):
    shutil.copytree(uninterrupted, tmp_path / "run")
    more = (*TWO_DEVICES, "--config.num_steps=7")
    out, _ = end(start(tmp_path / "run", *more))
    assert "resuming after step 6/7" in out
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    before = json.loads((uninterrupted / "result.json").read_text())
    assert result["steps"] == 7 and len(result["curve"]) == len(before["curve"]) + 1
    assert result["results"] != before["results"]
    assert load_model(tmp_path / "run" / "model.npz")[2]["steps"] == 7
    cells = json.loads((tmp_path / "run" / "cells.json").read_text())
    assert cells["results"] == result["results"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_full_disk_ends_a_run_clearly_and_it_continues(start, uninterrupted, tmp_path):
    def used(folder):
        return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())

    one = used(uninterrupted / "checkpoints" / "6")
    room = used(uninterrupted / "zoo") + int(1.7 * one)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount")
    try:
        shutil.copytree(uninterrupted / "zoo", tmp_path / "zoo")
        _, error = end(start(tmp_path), 2)
        assert "the disk is full" in error and "Traceback" not in error
        assert (tmp_path / "checkpoints" / "1").is_dir()
        subprocess.run(["mount", "-o", "remount,size=100m", str(tmp_path)], check=True)
        out, _ = end(start(tmp_path))
        assert "resuming after step 1" in out
        assert outcome(tmp_path) == outcome(uninterrupted)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_two_processes_give_the_result_of_one(start, uninterrupted, tmp_path):
    def both():
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        flags = ("--distributed=on", f"--coordinator=localhost:{port}")
        flags += "--num_processes=2"
        # By the clock of process 0, which both must follow.
        flags += ("--config.checkpoint.every_steps=0",)
        flags += ("--config.checkpoint.every_secs=0.2",)
        return [start(tmp_path, *flags, f"--process_id={i}") for i in range(2)]

    first, second = both()
    wait_for(first, "step 2/6")
    second.terminate()  # One host is preempted; both stop after the same step.
    out, _ = end(first)
    silent, _ = end(second)
    assert "resume with the same command" in out and "step" not in silent
    assert not (tmp_path / "result.json").exists()
    assert (tmp_path / "zoo" / "zoo.json").exists()

    first, second = both()
    out, _ = end(first)
    end(second)
    assert "process 0/2; 2 cpu device" in out and "resuming after step" in out
    lines, results, _ = outcome(tmp_path)
    expected_lines, expected, _ = outcome(uninterrupted)
    for mine, other in zip(
        lines.splitlines(), expected_lines.splitlines(), strict=True
    ):
        assert json.loads(mine) == pytest.approx(json.loads(other), rel=1e-3, abs=1e-3)
    for method, cells in expected.items():
        for name, cell in cells["1"].items():
            found = results[method]["1"][name]["per_episode"]
            np.testing.assert_allclose(found, cell["per_episode"], atol=0.05)


# ------------------------------------------------------------------ small parts


def test_a_step_that_takes_too_long_does_not_outlive_sigterm(tmp_path):
    script = tmp_path / "slow.py"
    script.write_text(
        textwrap.dedent("""
        import hashlib
        from experiments.stopping import StopRequest
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
    assert process.returncode == 0 and "the last checkpoint stands" in error


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


def test_a_damaged_chunk_is_made_anew(tmp_path, capsys):
    made = []

    def job(number):
        made.append(number)
        return {"value": np.full(1000, number)}

    def chunks():
        jobs = [(f"part-{i}", lambda i=i: job(i)) for i in range(3)]
        config = command_line.parse(["", CONFIG[0]]).config
        stop = types.SimpleNamespace(requested=False)
        folder = epath.Path(tmp_path) / "parts"
        found = recovering._chunks(folder, "making", jobs, config, stop)
        return [int(part["value"][0]) for part in found]

    assert chunks() == [0, 1, 2] == chunks() and made == [0, 1, 2]
    os.truncate(tmp_path / "parts" / "part-1.npz", 500)
    (tmp_path / "parts" / "part-2.npz").write_bytes(b"")
    assert chunks() == [0, 1, 2] and made == [0, 1, 2, 1, 2]
    assert capsys.readouterr().err.count("is damaged") == 2


def test_remote_paths_are_left_to_epath(monkeypatch, tmp_path):
    """Nothing joins, resolves or locks what is no local file; here without network."""
    written = {}

    class Bucket(pathlib.PurePosixPath):
        def write_bytes(self, data):
            written[str(self)] = data

        def read_bytes(self):
            return written[str(self)]

        def with_name(self, name):
            return Bucket(super().with_name(name))

        def replace(self, target):
            written[str(target)] = written.pop(str(self))

    monkeypatch.setattr(epath, "Path", Bucket)
    jsonio.write_json("gs://bucket/run/result.json", {"a": 1})
    assert written == {"gs:/bucket/run/result.json": b'{\n  "a": 1\n}\n'}
    arch = architecture("conv4", way=5, image_shape=(16, 16, 3), width=4)
    shapes = jax.eval_shape(arch.init, jax.random.key(0))["params"]
    params = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shapes)
    save_model("gs://bucket/run/model.npz", arch, params, steps=3)
    found, loaded, notes = load_model("gs://bucket/run/model.npz")
    assert found == arch and notes["steps"] == 3
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    assert not list(tmp_path.iterdir())
