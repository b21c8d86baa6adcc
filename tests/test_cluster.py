"""Jobs on the workers of a cluster end as in one process, whoever dies meanwhile."""

import functools
import os
import pathlib
import pickle
import re
import subprocess
import sys

import cluster_toy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cluster_toy import asking, assert_same, numbers, recovery
from etils import epath

from experiments import methods
from experiments.harness import chunks, cluster, stopping
from experiments.inputs import command_line
from experiments.methods import checks
from free_jax import parallel
from free_jax.errors import InputError
from free_jax.jobs import Job

pytest.importorskip("distributed", reason="extra cluster is not installed")


@pytest.fixture(scope="module")
def zoo():
    return cluster_toy.zoo()


def sent(jobs):
    return pickle.loads(cluster.pickled(tuple(jobs)))


@pytest.mark.parametrize("make", [recovery, asking])
def test_a_list_that_was_sent_makes_the_same(zoo, make):
    jobs = make(zoo)
    there = sent(jobs)
    assert [job.name for job in there] == [job.name for job in jobs]
    assert_same([job.run() for job in there[:2]], [job.run() for job in jobs[:2]])


def test_a_mesh_becomes_that_of_the_devices_where_it_is_read(zoo):
    mesh = parallel.make_mesh({"task": -1})
    spread = functools.partial(parallel.map_tasks, mesh=mesh)
    jobs = recovery(zoo, map_tasks=spread)[:1]
    assert_same([sent(jobs)[0].run()], [jobs[0].run()])


def backwards(jobs):
    """The last first, with pauses."""
    for number in reversed(range(len(jobs))):
        yield None
        yield number, chunks.timed(jobs[number])


def test_results_in_any_order_are_kept_when_they_come(tmp_path, capsys):
    folder, log, stop = epath.Path(tmp_path) / "parts", [], stopping.StopRequest()
    cached = functools.partial(chunks.cached, every_secs=0.0, work=backwards)
    first = next(cached(folder, numbers(4, log), stop))
    assert first["x"].size == 0 and log == [3, 2, 1, 0]
    (folder / "part-02.npz").unlink()
    found = list(cached(folder, numbers(4, log), stop))
    assert [part["x"].size for part in found] == [0, 1, 2, 3]
    assert log == [3, 2, 1, 0, 2]
    assert "parts 4/4" in capsys.readouterr().out


def test_a_stop_is_heard_while_nothing_comes(tmp_path):
    class Asked(stopping.StopRequest):
        polled = 0

        @property
        def requested(self):
            self.polled += 1
            return self.polled > 3

    def never(jobs):
        while True:
            yield None

    folder = epath.Path(tmp_path) / "parts"
    with pytest.raises(stopping.Stopped):
        list(chunks.cached(folder, numbers(1, []), Asked(), every_secs=0, work=never))


def test_what_cannot_be_sent_is_done_here():
    log = []
    jobs = [job._replace(here=True) for job in numbers(2, log)]
    found = dict(cluster._work(None, jobs))
    assert [part["x"].size for _, part in sorted(found.items())] == [0, 1]


def sent_by(versions, settings, jobs):
    jobs = cluster.pickled(tuple(jobs))
    return pickle.dumps(cluster.Sent(versions, settings, jobs))


def test_each_list_is_done_by_the_settings_of_its_run():
    jobs = [Job("dtype", lambda: {"x": np.asarray(jnp.zeros(1) + 1.0)})]
    first, second = (
        sent_by(cluster.versions(), {"jax_enable_x64": x}, jobs) for x in (True, False)
    )
    before = jax.config.jax_enable_x64
    try:
        found = [cluster._do(each, 0)["x"].dtype for each in (first, second, first)]
    finally:
        jax.config.update("jax_enable_x64", before)
    assert [x.itemsize for x in found] == [8, 4, 8]


def test_a_worker_of_other_sources_or_without_the_files_says_so(tmp_path):
    gone = Job("gone", lambda: dict(np.load(tmp_path / "gone.npz")))
    with pytest.raises(InputError, match=r"gone.npz.*must be the same for all"):
        cluster._do(sent_by(cluster.versions(), {}, [gone]), 0)
    with pytest.raises(InputError, match="install the same"):
        cluster._do(sent_by("sources 0", {}, [gone]), 0)


def test_nobody_answers():
    with pytest.raises(InputError, match=r"no scheduler answers.*dask scheduler"):
        with cluster.opened("tcp://127.0.0.1:9", patience=0.5):
            pass


def test_whoever_has_no_jobs_does_not_connect(capsys):
    address, choose = "--config.cluster=tcp://10.0.0.2:1", "zoo.choose.teachers=2"
    teachers = "--config.zoo.path=models"

    def connects(name, *extra):
        argv = ["run.py", f"--config=experiments/configs/{name}.py", address, teachers]
        config = checks.validate(command_line.parse([*argv, *extra]).config)
        return bool(methods.for_devices(config).cluster)

    assert connects("panel") and connects("free", f"--config.{choose}")
    assert not connects("free")
    assert "free has no jobs for it" in capsys.readouterr().out
    assert not connects("free", f"--config.{choose}", "--config.zoo.choose.by=random")


def in_a_process(what, folder):
    """What is printed; types are not checked there, as for users."""
    root = pathlib.Path(__file__).parents[1]
    paths = os.pathsep.join([str(root), str(root / "tests")])
    done = subprocess.run(
        [sys.executable, root / "tests" / "cluster_toy.py", what, folder],
        env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_four_workers_killed_at_random_end_as_one_process(tmp_path):
    told = in_a_process("killed", tmp_path)
    assert int(re.findall(r"(\d+) killed", told)[0]) > 0


@pytest.mark.slow
def test_when_the_cluster_dies_what_it_finished_is_kept(tmp_path):
    told = in_a_process("dies", tmp_path)
    assert "the same command continues" in told
    kept, found, anew = map(int, re.findall(r"(\d+) (?:kept|found|made)", told))
    assert found == 20 and 4 <= kept < 20 and anew == 20 - kept
