"""What tests of a cluster run in a process of its own, whose functions are plain.

python tests/cluster_toy.py killed|dies FOLDER
"""

import contextlib
import functools
import os
import random
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import toy
from etils import epath
from faulty_proxy import free_port

from experiments.harness import chunks, cluster, metrics, stopping
from free_jax.inversion import jobs as inversion_jobs
from free_jax.jobs import Job
from free_jax.panel import PanelOptions
from free_jax.panel.asking import ask_jobs
from free_jax.zoo import Zoo, ZooGroup


def zoo():
    stack = toy.random_teachers(toy.TINY, 6)
    names = tuple(map(str, range(toy.CLASSES)))
    return Zoo((ZooGroup(toy.TINY, stack, np.ones(6), ""),), names)


def recovery(zoo, **how):
    recipe = PanelOptions().recover.inversion._replace(num_steps=2)
    return inversion_jobs.recovery_jobs(
        jax.random.key(0), zoo, recipe, images_per_class=2, images_per_teacher=20,
        at_once=1, image_shape=toy.SHAPE, **how,
    )  # fmt: skip


def asking(zoo):
    rng = np.random.default_rng(0)
    return ask_jobs(zoo, rng.integers(0, 256, (9, *toy.SHAPE), np.uint8), chunk=4)


def assert_same(one, other):
    assert len(one) == len(other)
    for mine, its in zip(one, other, strict=True):
        for name in mine.keys() - {"seconds"}:
            np.testing.assert_array_equal(mine[name], its[name])


def numbers(count, log):
    def make(number):
        log.append(number)
        return {"x": np.arange(number)}

    return [Job(f"part-{i:02d}", functools.partial(make, i)) for i in range(count)]


def after(seconds, run):
    time.sleep(seconds)
    return run()


def slower(job, seconds):
    return job._replace(run=functools.partial(after, seconds, job.run))


@contextlib.contextmanager
def local(folder):
    """Four workers on loopback, that are started again however often they die."""
    import dask
    import distributed

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 100}),
        distributed.LocalCluster(
            n_workers=4, threads_per_worker=1, dashboard_address=None,
            local_directory=folder, silence_logs=50,
        ) as found,
    ):  # fmt: skip
        yield found


def kill_some(found, killed, over):
    """Kills a worker's process now and then, five in all."""
    rng = random.Random(0)
    while not over.wait(rng.uniform(0.5, 2.0)) and len(killed) < 5:
        process = rng.choice(list(found.workers.values())).process
        if process is not None and process.pid:
            os.kill(process.pid, signal.SIGKILL)
            killed.append(process.pid)


def run_killed(folder):
    teachers, killed, over = zoo(), [], threading.Event()
    jobs = [slower(job, 1.0) for job in recovery(teachers)]
    stop = stopping.StopRequest()
    with (
        local(f"{folder}/dask") as found,
        cluster.opened(found.scheduler_address) as work,
    ):
        killer = threading.Thread(target=kill_some, args=(found, killed, over))
        cached = functools.partial(chunks.cached, every_secs=0.0, work=work)
        killer.start()
        try:
            images = list(cached(epath.Path(folder) / "recovered", jobs, stop))
        finally:
            over.set()
            killer.join()
        answers = list(cached(epath.Path(folder) / "described", asking(teachers), stop))
    assert_same(images, [job.run() for job in recovery(teachers)])
    assert_same(answers, [job.run() for job in asking(teachers)])
    print(f"{len(killed)} killed")


def run_dies(folder):
    parts, stop = epath.Path(folder) / "parts", stopping.StopRequest()
    jobs = [
        slower(job, 0.1 if number < 4 else 3.0)
        for number, job in enumerate(numbers(20, []))
    ]
    port = free_port()
    started = [
        subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.dask_{what}", *options],
            cwd=folder, start_new_session=True, stderr=subprocess.DEVNULL,
        )
        for what, *options in (
            ("scheduler", "--port", str(port), "--no-dashboard"),
            ("worker", f"tcp://127.0.0.1:{port}", "--nthreads=1", "--nworkers=2"),
        )
    ]  # fmt: skip
    with contextlib.ExitStack() as stack:
        for process in started:
            stack.callback(kill, process)
        with cluster.opened(f"tcp://127.0.0.1:{port}") as work:
            try:
                for number, _ in enumerate(
                    chunks.cached(parts, jobs, stop, every_secs=0.0, work=work)
                ):
                    if number == 3:
                        stack.close()
            except metrics.RunError as error:
                print(error)
    kept, log = len(list(parts.glob("*.npz"))), []
    done = list(chunks.cached(parts, numbers(20, log), stop, every_secs=0.0))
    print(f"{kept} kept, {len(done)} found, {len(log)} made anew")


def kill(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    {"killed": run_killed, "dies": run_dies}[sys.argv[1]](sys.argv[2])
