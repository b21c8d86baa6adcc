"""How much of a server's throughput our client reaches, and what overlapping gains.

    python benchmarks/endpoints.py [--images=2000] [--repeats=5] [--no_overlap]

Starts MLServer on loopback with three untrained Conv4-32 and asks the first one, in
turn, by a plain load generator (requests encoded beforehand, answers thrown away) and
by the hub (encoding, digests, ledger on disk, checks, all included); same batches, same
requests in flight.  Then four inversion-like tasks at an endpoint with a given latency:
one after the other, as one `vmap`, and as one `vmap` a thread in two threads, which
keeps device and network busy at the same time.
"""

import argparse
import asyncio
import json
import pathlib
import socket
import statistics
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402

jax.config.update("jax_cpu_enable_async_dispatch", False)

import aiohttp  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

import free_jax as fj  # noqa: E402
from experiments import serve_zoo  # noqa: E402
from free_jax import remote  # noqa: E402

BATCH, IN_FLIGHT = 64, 4
SHAPE, WAY = (32, 32, 3), 5


def make_zoo(count=3):
    network = fj.make_network("conv4", num_classes=WAY, image_shape=SHAPE)
    variables = jax.jit(jax.vmap(network.init))(
        jax.random.split(jax.random.key(0), count)
    )
    ids = np.arange(WAY * count).reshape(count, WAY)
    teachers = fj.Teachers(variables, jnp.asarray(ids, jnp.int32))
    names = tuple(f"class{i}" for i in range(WAY * count))
    return fj.Zoo((fj.ZooGroup(network, teachers, np.full(count, np.nan)),), names)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def load(url, bodies):
    """Sends all bodies, `IN_FLIGHT` at once; returns the seconds it took."""
    waiting = list(bodies)
    header = {"Content-Type": "application/json"}

    async def worker(session):
        while waiting:
            async with session.post(url, data=waiting.pop(), headers=header) as answer:
                assert answer.status == 200, answer.status
                await answer.read()

    async with aiohttp.ClientSession() as session:
        start = time.perf_counter()
        await asyncio.gather(*(worker(session) for _ in range(IN_FLIGHT)))
        return time.perf_counter() - start


def throughput(url, count, repeats):
    spec = remote.EndpointSpec("teacher000", WAY, SHAPE)
    client = remote.OpenInference(
        spec, url, "teacher000", max_batch=BATCH, in_flight=IN_FLIGHT
    )
    rng = np.random.default_rng(0)
    rates = {"load generator": [], "hub": []}
    with tempfile.TemporaryDirectory() as folder:
        hub = remote.Hub([client], remote.Ledger(f"{folder}/queries.sqlite"))
        hub.open()
        for _ in range(repeats + 1):
            images = rng.normal(size=(count, *SHAPE)).astype(np.float32)
            bodies = [
                client._encode(images[start : start + BATCH])[0]
                for start in range(0, count, BATCH)
            ]
            path = f"{url}/v2/models/teacher000/infer"
            seconds = asyncio.run(load(path, bodies))
            rates["load generator"].append(count / seconds)
            start = time.perf_counter()
            assert np.isfinite(hub.ask(np.zeros((), np.int32), images)).all()
            rates["hub"].append(count / (time.perf_counter() - start))
        assert hub.queries == count * (repeats + 1)
        hub.close()
    return {name: values[1:] for name, values in rates.items()}  # the first warms up


class Distant:
    """An endpoint whose answers take a while but cost nothing here."""

    max_batch, in_flight = 4096, 8

    def __init__(self, number, latency):
        self.spec = remote.EndpointSpec(f"distant{number}", WAY, SHAPE)
        self.identity, self._latency = self.spec.name, latency

    async def open(self):
        pass

    async def close(self):
        pass

    async def ask(self, images):
        await asyncio.sleep(self._latency)
        return images.mean((1, 2))[:, :1] * np.arange(WAY)


def overlap(latency, repeats, steps=10, tasks=4):
    """Seconds for `tasks` tasks of `steps` rounds of generator and questions."""
    generator = fj.models.Generator(image_shape=SHAPE, width=32)
    labels = jnp.zeros(50, jnp.int32)
    params = generator.init(jax.random.key(0), jnp.zeros((2, 256)), labels[:2])

    clients = [Distant(i, latency) for i in range(tasks)]
    hub = remote.Hub(clients)
    zoo = remote.remote_zoo(
        hub,
        [client.spec for client in clients],
        [[f"{i}/{k}" for k in range(WAY)] for i in range(tasks)],
        [((0.0,) * 3, (1.0,) * 3)] * tasks,
        ["x"] * tasks,
    )
    network, stack = zoo.networks[0], zoo.teachers[0].variables

    def invert(variables, latents):
        def step(latents, _):
            def images_of(z):
                return generator.apply(params, z, labels)

            images, pull = jax.vjp(images_of, latents)
            images = jax.lax.stop_gradient(images)
            said = network.apply(variables, images)
            (grad,) = pull(jnp.broadcast_to(said.mean(), images.shape))
            return latents - 1e-3 * grad, said.mean()

        return jax.lax.scan(step, latents, None, length=steps)[1]

    one = jax.jit(invert)
    many = jax.jit(jax.vmap(invert))
    counter = iter(range(10**6))

    def fresh():
        # Never the same images twice: the ledger would answer.
        return jax.random.normal(jax.random.key(next(counter)), (tasks, 50, 256))

    def pick(part):
        return jax.tree.map(lambda x: x[part], stack)

    def sequential():
        latents = fresh()
        for i in range(tasks):
            jax.block_until_ready(one(pick(i), latents[i]))

    def mapped():
        jax.block_until_ready(many(stack, fresh()))

    def threads():
        latents, half = fresh(), tasks // 2
        parts = [slice(0, half), slice(half, tasks)]
        workers = [
            threading.Thread(
                target=lambda p=p: jax.block_until_ready(many(pick(p), latents[p]))
            )
            for p in parts
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    ways = {"sequential": sequential, "vmap": mapped, "vmap in two threads": threads}
    times = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - start)
    hub.close()
    return {name: values[1:] for name, values in times.items()}


def spread(values):
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def main() -> None:
    """Prints both tables and writes the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no_overlap", action="store_true", help="throughput only")
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--json", default="")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        serve_zoo.export(make_zoo(), folder, free_port())
        with serve_zoo.serving(folder) as url:
            rates = throughput(url, options.images, options.repeats)
    ratios = [
        ours / plain
        for ours, plain in zip(rates["hub"], rates["load generator"], strict=True)
    ]
    for name, values in rates.items():
        print(f"{name:20s} {spread(values)} images/s", flush=True)
    print(f"{'ratio of a pair':20s} {spread(ratios)}")
    times = {}
    if not options.no_overlap:
        times = overlap(options.latency, options.repeats)
    print(f"four tasks of ten rounds, {options.latency:g} s latency:")
    for name, values in times.items():
        print(f"{name:20s} {spread(values)} s", flush=True)
    if options.json:
        result = {"rates": rates, "ratios": ratios, "overlap_seconds": times}
        pathlib.Path(options.json).write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
