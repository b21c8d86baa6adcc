"""Remote teachers against a real MLServer on loopback, sound and behind a bad proxy."""

import collections
import contextlib
import importlib.util
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

MISSING = [
    name
    for name in ("mlserver", "onnxruntime", "onnx", "aiohttp", "orjson")
    if importlib.util.find_spec(name) is None
]
if MISSING:
    pytest.skip(f"not installed: {', '.join(MISSING)}", allow_module_level=True)

import yaml  # noqa: E402
from aiohttp import web  # noqa: E402
from faulty_proxy import Proxy, free_port  # noqa: E402

from experiments import run, serve_zoo, train  # noqa: E402
from experiments.data import preset, procedural  # noqa: E402
from experiments.harness import loop, stopping  # noqa: E402
from experiments.harness.method import Meters, Method, Schedule  # noqa: E402
from experiments.harness.run import Run  # noqa: E402
from experiments.inputs import command_line, endpoints  # noqa: E402
from experiments.inputs.options import DataOptions, ZooOptions  # noqa: E402
from experiments.methods import bidf, runs  # noqa: E402
from experiments.stages import teachers  # noqa: E402
from free_jax import (  # noqa: E402
    InputError,
    Teachers,
    Zoo,
    ZooGroup,
    inversion,
    make_network,
    map_tasks,
    panel,
    release,
    take,
)
from free_jax import images as images_lib  # noqa: E402
from free_jax import remote as remote_lib  # noqa: E402
from free_jax.algorithm import Algorithm  # noqa: E402
from free_jax.baselines import BASELINES  # noqa: E402
from free_jax.panel import classifiers  # noqa: E402
from free_jax.zoo import save_zoo  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[1]
WAY, COUNT = 5, 3
QUICK = {"seconds": 8, "first_delay": 0.02, "longest_delay": 0.5, "opening": 0.2}


@pytest.fixture(scope="module")
def zoo():
    """Three teachers of the procedural classes, whose answers differ by image."""
    chosen = preset("procedural")
    arch = make_network(
        "conv4",
        num_classes=WAY,
        image_shape=(32, 32, 3),
        mean=chosen.mean,
        std=chosen.std,
        width=4,
    )
    stack = toy.random_teachers(arch, COUNT, seed=1).variables
    head = jax.tree.map(lambda x: 5 * x, stack["params"]["head"])
    variables = {**stack, "params": {**stack["params"], "head": head}}
    ids = jnp.arange(WAY * COUNT, dtype=jnp.int32).reshape(COUNT, WAY)
    group = ZooGroup(
        arch, Teachers(variables, ids), np.full(COUNT, np.nan), "procedural"
    )
    return Zoo((group,), procedural.class_names("train"))


@pytest.fixture(scope="module")
def served(zoo, tmp_path_factory):
    """A real MLServer with the three teachers; the folder of ``apis.yaml``."""
    folder = tmp_path_factory.mktemp("served")
    serve_zoo.export(zoo, folder, free_port())
    with serve_zoo.serving(folder):
        yield folder


@pytest.fixture(scope="module")
def proxy(served):
    url = yaml.safe_load((served / "apis.yaml").read_text())["defaults"]["url"]
    made = Proxy(url)
    yield made
    made.close()


@pytest.fixture
def listed(served, proxy, tmp_path):
    """Writes a list of the three endpoints behind the proxy, with changes."""

    def write(change=lambda entries: None, url=None, **sections):
        content = yaml.safe_load((served / "apis.yaml").read_text())
        content["defaults"] |= {"url": url or proxy.url, "max_batch": 4, "timeout": 5}
        content["patience"] = dict(QUICK)
        change(content["endpoints"])
        file = tmp_path / "apis.yaml"
        file.write_text(yaml.safe_dump({**content, **sections}))
        return file

    proxy.reset()
    return write


@contextlib.contextmanager
def opened(file, workdir=None):
    """The remote zoo, its hub, and ``images -> [n, T, way]`` asked of all at once."""
    with endpoints.opened(
        str(file), str(workdir or file.parent), "procedural"
    ) as remote:
        embed = panel.embedder(remote.networks, output="logits", mirror=False)
        ask = jax.jit(embed)
        yield (
            remote,
            remote.service,
            lambda images: np.asarray(ask(remote.teachers, images)).reshape(
                len(images), -1, WAY
            ),
        )


def pictures(count=10, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.uniform(size=(count, 32, 32, 3)), jnp.float32)


@pytest.fixture(scope="module")
def truth(zoo):
    embed = panel.embedder(zoo.networks, output="logits", mirror=False)
    ask = jax.jit(embed)
    return lambda images: np.asarray(ask(zoo.teachers, images)).reshape(
        len(images), -1, WAY
    )


def assert_same(got, wanted):
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


def test_answers_are_the_teachers_and_repeated_images_cost_nothing(listed, truth):
    images = pictures()
    with opened(listed()) as (remote, hub, ask):
        assert_same(ask(images), truth(images))
        assert hub.queries == 10 * COUNT
        assert_same(ask(images[::-1]), truth(images[::-1]))
        twice = jnp.concatenate([images[:2], images[:2]])
        assert_same(ask(twice), truth(twice))
        assert hub.queries == 10 * COUNT
        counts = hub.bill()["endpoints"]["teacher001"]
        assert counts["answered"] == counts["queries"] == 10
        assert counts["answered_by_ledger"] == 10 + 4
        # One teacher after the other, as in `lax.map`, is the same.
        arch, stack = remote.networks[0], remote.teachers[0]
        apply = jax.jit(lambda v, x: jax.lax.map(lambda one: arch.apply(one, x), v))
        mapped = apply(stack.variables, images[:3])
        assert_same(mapped.swapaxes(0, 1), truth(images[:3]))


def test_zero_order_inversion_over_http_follows_the_one_in_process(listed, zoo, proxy):
    """Two steps down a forward-difference gradient: the images must agree."""
    labels = jnp.arange(4) % WAY

    def invert(arch, teacher, images):
        def loss(x):
            logits = arch.apply(teacher.variables, x)
            return -jax.nn.log_softmax(logits)[jnp.arange(4), labels]

        def step(x, key):
            noise = jax.random.normal(key, (3, *x.shape))
            norm = jnp.sqrt(jnp.square(noise).sum((2, 3, 4), keepdims=True))
            units = noise / norm
            base = loss(x)
            rise = jax.lax.map(lambda u: loss(x + 0.1 * u) - base, units)
            slope = (rise[..., None, None, None] * units).mean(0)
            return x - 50 * slope, base.mean()

        return jax.lax.scan(step, images, jax.random.split(jax.random.key(1), 2))

    with opened(listed()) as (remote, hub, _):
        got, losses = jax.jit(lambda t, x: invert(remote.networks[0], t, x))(
            take(remote.teachers[0], 1), pictures(4)
        )
        # The images themselves once a step, and three perturbed copies of each.
        assert hub.queries == 2 * 4 * (1 + 3)
    wanted, theirs = jax.jit(lambda t, x: invert(zoo.networks[0], t, x))(
        take(zoo.teachers[0], 1), pictures(4)
    )
    assert np.abs(np.asarray(wanted - pictures(4))).max() > 0.01
    np.testing.assert_allclose(got, wanted, atol=2e-3)
    np.testing.assert_allclose(losses, theirs, atol=2e-3)


def test_black_boxes_have_no_gradient_features_or_moments(listed):
    with opened(listed()) as (remote, hub, _):
        arch, teacher = remote.networks[0], take(remote.teachers[0], 0)
        with pytest.raises(InputError, match="no gradients"):
            jax.grad(lambda x: arch.apply(teacher.variables, x).sum())(pictures(1))
        for wrong in (
            lambda: arch.apply_with_moments(teacher.variables, pictures(1)),
            lambda: arch.apply(teacher.variables, pictures(1), features=True),
        ):
            with pytest.raises(InputError, match="only answer queries"):
                wrong()
        assert hub.queries == 0


def failing(status, share=0, **headers):
    def fault(number, request):
        if number % 10 == share:
            return web.Response(status=status, text="no", headers=headers)

    return fault


@pytest.mark.parametrize(
    ("fault", "billed", "wait"),
    [
        (failing(500), True, 0),
        (failing(503), False, 0),
        (failing(429, **{"Retry-After": "0.4"}), False, 0.4),
        (lambda number, request: "drop" if number % 10 == 0 else None, True, 0),
    ],
    ids=["500", "503", "429", "drop"],
)
def test_a_tenth_of_requests_failing_changes_only_the_counts(
    listed, proxy, truth, capsys, fault, billed, wait
):
    images = pictures(41, seed=2)
    with opened(listed()) as (_, hub, ask):
        proxy.fault = fault
        start = time.monotonic()
        assert_same(ask(images), truth(images))
        assert time.monotonic() - start >= wait
        # One image first, then 40 images, 4 a request; three endpoints.
        failed = proxy.requests - 33
        assert failed >= 3
        assert hub.queries == 123 + 4 * failed * billed
        report = hub.bill()["endpoints"].values()
        assert sum(r["failed_but_billed"] for r in report) == 4 * failed * billed
        assert sum(r["refused_not_billed"] for r in report) == 4 * failed * (not billed)
    assert "warning" not in capsys.readouterr().err


def test_latency_is_waited_for_once_not_once_a_teacher(listed, proxy, truth):
    images = pictures(8, seed=3)
    with opened(listed()) as (_, _, ask):
        ask(pictures(8, seed=99))  # compiled
        proxy.fault = lambda number, request: 0.5
        start = time.monotonic()
        got = ask(images)
        # Six requests, all under way at the same time.
        assert time.monotonic() - start < 1.5
    assert_same(got, truth(images))


def tampered(change):
    def answer(body):
        tensor = body["outputs"][0]
        values = np.asarray(tensor["data"], float).reshape(tensor["shape"])
        body["outputs"][0] = {**tensor, **change(values, body)}
        return body

    return answer


def wrong_count(values, body):
    return {"data": values[:, :4].ravel().tolist(), "shape": [len(values), 4]}


def other_model(values, body):
    body["model_name"] = "somebody_else"
    return {}


BROKEN = {
    "no JSON but a page": web.Response,
    "where 5 classes for each of 1 images": tampered(wrong_count),
    "another model (somebody_else": tampered(other_model),
    "no distribution": None,
    "HTTP status 404 (no such model": 404,
    "HTTP status 401 (token": 401,
    "no answer within 0.3 s": 5.0,
}


@pytest.mark.parametrize("message", list(BROKEN), ids=range(len(BROKEN)))
def test_one_broken_endpoint_is_named_and_left_out(
    listed, proxy, truth, capsys, message
):
    images, how = pictures(4, seed=4), BROKEN[message]

    def change(entries):
        if how is None:
            entries[1]["output"] = "probabilities"
        if how == 5.0:
            entries[1]["timeout"] = 0.3

    def fault(number, request):
        if "teacher001" not in request.path:
            return None
        if how is web.Response:
            return web.Response(text="<html>Sign in</html>", content_type="text/html")
        return web.Response(status=how) if isinstance(how, int) else how

    patience = {**QUICK, "seconds": 0.5}
    with opened(listed(change, patience=patience)) as (_, hub, ask):
        proxy.fault = fault
        got = ask(images)
        assert np.isnan(got[:, 1]).all()
        assert_same(got[:, [0, 2]], truth(images)[:, [0, 2]])
        assert hub.alive().tolist() == [True, False, True]
        assert not hub.all_answered() and hub.all_answered()
        asked = proxy.requests
        assert np.isnan(ask(pictures(4, seed=5))[:, 1]).all()
        assert proxy.requests == asked + 2  # Left out from then on.
        hub.raise_if_broken()
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert "endpoint teacher001" in lines[0] and message in lines[0]
    assert "left out" in lines[0]


def test_unreachable_endpoints_are_left_out_and_none_left_is_an_error(
    listed, truth, capsys
):
    nowhere = f"http://127.0.0.1:{free_port()}"

    def one(entries):
        entries[2]["url"] = nowhere

    with opened(listed(one)) as (_, hub, ask):
        assert_same(ask(pictures(2))[:, :2], truth(pictures(2))[:, :2])
        assert hub.queries == 4
    assert "endpoint teacher002: cannot be reached" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"no endpoint answers.*teacher000, cannot be"):
        with opened(listed(url=nowhere)):
            pass


@pytest.mark.slow
def test_server_restarted_between_requests(served, zoo, truth, tmp_path, listed):
    folder = tmp_path / "own"
    serve_zoo.export(zoo, folder, free_port())
    url = yaml.safe_load((folder / "apis.yaml").read_text())["defaults"]["url"]
    images = pictures(12, seed=6)
    patience = {**QUICK, "seconds": 60}
    with contextlib.ExitStack() as first:
        first.enter_context(serve_zoo.serving(folder))
        with opened(listed(url=url, patience=patience)) as (_, hub, ask):
            assert_same(ask(images[:4]), truth(images[:4]))
            first.close()  # The server is gone, its connections are broken.
            answers = []
            asking = threading.Thread(target=lambda: answers.append(ask(images)))
            asking.start()
            time.sleep(0.5)
            with serve_zoo.serving(folder):
                asking.join()
            assert_same(answers[0], truth(images))
            # Refused connections are not billed; broken ones may have been answered.
            broken = sum(
                r["failed_but_billed"] for r in hub.bill()["endpoints"].values()
            )
            assert hub.queries == 12 * COUNT + broken


@pytest.mark.parametrize("total", [False, True])
def test_budgets_are_exact(listed, proxy, truth, total):
    images = pictures(10, seed=7)

    def limit(entries):
        if not total:
            entries[0]["budget"] = 6

    with opened(listed(limit, budget=17 if total else 0)) as (_, hub, ask):
        # A failure that is billed counts.
        proxy.fault = lambda number, request: (
            web.Response(status=500)
            if "teacher000" in request.path and number <= 3
            else None
        )
        got, wanted = ask(images), truth(images)
        known = np.isfinite(got).all(-1)
        assert_same(got[known], wanted[known])
        if total:
            assert hub.queries == 17 and hub.spent and not hub.alive().any()
        else:
            counts = hub.bill()["endpoints"]["teacher000"]
            assert counts["queries"] == 6 and counts["state"] == "spent"
            assert known[:, 0].sum() == 6 - counts["failed_but_billed"]
            assert known[:, 1:].all() and hub.alive().tolist() == [False, True, True]
            assert hub.remaining()[0] == 0
        before = hub.queries
        ask(images)
        assert hub.queries == before


def test_killed_run_asks_nothing_twice(listed, proxy, truth, tmp_path):
    file = listed()
    code = f"""
        import jax, numpy as np
        jax.config.update("jax_cpu_enable_async_dispatch", False)
        from experiments.inputs import endpoints
        from free_jax import panel
        rng = np.random.default_rng(0)
        images = np.asarray(rng.uniform(size=(40, 32, 32, 3)), np.float32)
        with endpoints.opened({str(file)!r}, {str(tmp_path)!r}, "procedural") as zoo:
            ask = jax.jit(panel.embedder(zoo.networks, mirror=False))
            for start in range(0, 40, 8):
                ask(zoo.teachers, images[start : start + 8]).block_until_ready()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, stdout=subprocess.PIPE
    )

    def kill(number, request):
        if number == 15:
            process.send_signal(signal.SIGKILL)

    proxy.fault = kill
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    sent = sum(json.loads(b)["inputs"][0]["shape"][0] for _, b in proxy.bodies)
    proxy.fault = lambda number, request: None
    with opened(file, tmp_path) as (_, hub, ask):
        before = hub.queries
        # What was sent is counted, whether or not its answer arrived.
        assert sent <= before <= sent + 4 * COUNT * 4
        under_way = sum(
            r["failed_but_billed"] for r in hub.bill()["endpoints"].values()
        )
        assert_same(ask(pictures(40)), truth(pictures(40)))
        assert hub.queries == 40 * COUNT + under_way
    # Only images whose answer had not arrived were sent again.
    sent = collections.Counter(
        (path, tuple(image))
        for path, body in proxy.bodies
        for image in np.reshape(json.loads(body)["inputs"][0]["data"], (-1, 32**2 * 3))
    )
    assert len(sent) == 40 * COUNT
    assert sum(sent.values()) - len(sent) <= under_way < 40


def test_token_is_sent_but_never_written(listed, proxy, tmp_path, monkeypatch, capsys):
    def with_token(entries):
        entries[0]["token_variable"] = "SOME_TOKEN"

    file = listed(with_token)
    monkeypatch.delenv("SOME_TOKEN", raising=False)
    with pytest.raises(InputError, match="teacher000: the environment variable SOME_"):
        with opened(file):
            pass
    monkeypatch.setenv("SOME_TOKEN", "s3cret")
    proxy.fault = lambda number, request: (
        web.Response(status=500) if number == 1 else None
    )
    with opened(file) as (_, hub, ask):
        ask(pictures(2))
        written = json.dumps(hub.bill())
    assert proxy.tokens == {None, "Bearer s3cret"}
    printed = capsys.readouterr()
    kept = b"".join(f.read_bytes() for f in tmp_path.rglob("*") if f.is_file())
    assert b"s3cret" not in kept and "s3cret" not in written
    assert "s3cret" not in printed.out + printed.err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 28}, "takes FP32 .*not images of 28x28x3; correct image_size"),
        ({"class_names": ["a", "b", "c"]}, "has 5 outputs but 3 class names"),
        ({"class_names": ["a", "a", "c"]}, "must be two or more, distinct"),
        ({"clas_names": []}, "unknown key 'clas_names'; did you mean class_names"),
        ({"image_size": "32"}, "image_size='32' must be of type int"),
        ({"url": "127.0.0.1"}, "must start with http"),
        ({"output": "scores"}, "output='scores'; choose logits"),
        ({"std": [0.5, 0.5]}, "std 2 values but images have 3 channels"),
        ({"onnx": "nowhere.onnx"}, "nowhere.onnx: no such file"),
        ({"onnx": "apis.yaml"}, "no model that can be run"),
        ({"channels": 2}, "channels=2 must be 1 or 3"),
        ({"max_batch": 0}, "max_batch=0 must be positive"),
        ({"model": ""}, "give url and model, or onnx"),
        ({"name": "teacher000"}, "teacher000'. appear twice"),
    ],
)
def test_what_is_wrong_in_the_list_is_said_before_any_query(listed, change, message):
    file = listed(lambda entries: entries[1].update(change))
    with pytest.raises(InputError, match=message) as caught:
        with opened(file):
            pass
    assert "\n" not in str(caught.value)


def test_onnx_files_are_endpoints_too(listed, served, truth):
    def as_files(entries):
        for number, entry in enumerate(entries):
            entry["onnx"] = str(served / f"teacher{number:03d}" / "model.onnx")

    with opened(listed(as_files)) as (_, hub, ask):
        assert_same(ask(pictures(6)), truth(pictures(6)))
        assert hub.queries == 6 * COUNT


def test_numbers_are_classes_of_an_endpoint_or_of_a_stated_domain(listed, capsys):
    def classes(change):
        with opened(listed(change)) as (zoo, _, _):
            ids = [np.asarray(group.teachers.class_ids) for group in zoo.groups]
            return zoo.class_names, np.concatenate(ids).tolist()

    numbers = [f"LABEL_{i}" for i in range(5)]

    def numbered(entries):
        for entry in entries:
            entry["class_names"] = numbers
            entry.pop("domain", None)

    names, ids = classes(numbered)
    assert len(names) == 5 * COUNT and sorted(np.ravel(ids)) == [*range(5 * COUNT)]
    assert names[0] == "teacher000#0"
    assert (
        "class_names that are numbers are taken as classes" in capsys.readouterr().out
    )

    def of_one_domain(entries):
        for entry in entries:
            entry.update(class_names=numbers, domain="animals")

    assert classes(of_one_domain) == (tuple(numbers), [list(range(5))] * COUNT)

    def of_two_domains(entries):
        of_one_domain(entries)
        entries[0]["domain"] = "plants"

    names, _ = classes(of_two_domains)
    assert {"plants/LABEL_0", "animals/LABEL_0"} < set(names) and len(names) == 10


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("resnet10", {}),
        ("resnet10", {"width": 8}),
        pytest.param("resnet50", {}, marks=pytest.mark.slow),
    ],
)
def test_resnets_as_onnx_agree(name, kwargs):
    import onnxruntime
    from flax import traverse_util

    arch = make_network(name, num_classes=3, image_shape=(16, 16, 3), **kwargs)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(arch.init, jax.random.key(0))
    flat = {}
    for path, leaf in traverse_util.flatten_dict(shapes).items():
        value = 0.05 * rng.normal(size=leaf.shape)
        if path[-1] in ("var", "scale"):
            value = rng.uniform(0.5, 1.5, leaf.shape)
        flat[path] = jnp.asarray(value, jnp.float32)
    variables = traverse_util.unflatten_dict(flat)
    images = pictures(2)[:, :16, :16]
    file = release.onnx_classifier(arch, variables).SerializeToString()
    session = onnxruntime.InferenceSession(file)
    (got,) = session.run(None, {"images": np.asarray(arch.normalize(images))})
    wanted = np.asarray(jax.jit(arch.apply)(variables, images))
    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())


def test_any_network_is_served(tmp_path):
    """One that is not written as ONNX by JAX, whatever number of images is sent."""
    import asyncio

    from mlserver import ModelSettings
    from mlserver.codecs import NumpyCodec
    from mlserver.types import InferenceRequest

    from free_jax.remote import mlserver_model

    arch = make_network("vit", num_classes=3, image_shape=(16, 16, 3), bgr=True)
    assert not release.is_written(arch)
    shapes = jax.eval_shape(jax.vmap(arch.init), jax.random.split(jax.random.key(0), 2))
    inits = jax.tree.map(np.asarray, toy.random_like(shapes, scale=0.1))
    ids = jnp.arange(6).reshape(2, 3)
    group = ZooGroup(arch, Teachers(inits, ids), np.full(2, np.nan), "")
    one = Zoo((group,), tuple("abcdef"))
    file = serve_zoo.export(one, tmp_path / "served")
    assert [
        e["class_names"] for e in yaml.safe_load(file.read_text())["endpoints"]
    ] == [
        ["a", "b", "c"],
        ["d", "e", "f"],
    ]
    settings = tmp_path / "served" / "teacher001" / "model-settings.json"
    model = mlserver_model.ZooModel(ModelSettings.parse_file(settings))
    images = pictures(3)[:, :16, :16]
    sent = np.asarray(jnp.asarray(images) / 255 if images.dtype == np.uint8 else images)
    sent = (sent - np.float32(arch.mean)) / np.float32(arch.std)
    request = InferenceRequest(inputs=[NumpyCodec.encode_input("images", sent)])

    async def answered():
        await model.load()
        return await model.predict(request)

    (output,) = asyncio.run(answered()).outputs
    wanted = jax.jit(arch.apply)(take(group.teachers, 1).variables, images)
    np.testing.assert_allclose(NumpyCodec.decode_output(output), wanted, atol=1e-5)


def test_models_of_other_widths_sizes_and_of_grey_images(tmp_path):
    colour = make_network("conv4", num_classes=3, image_shape=(24, 24, 3), width=4)
    grey = make_network(
        "conv4",
        num_classes=2,
        image_shape=(16, 16, 1),
        width=4,
        mean=(0.4,),
        std=(0.2,),
    )
    groups = []
    for arch, ids in ((colour, [0, 1, 2]), (grey, [3, 4])):
        variables = jax.tree.map(lambda x: x[None], arch.init(jax.random.key(0)))
        teacher = Teachers(variables, jnp.asarray([ids]))
        groups.append(ZooGroup(arch, teacher, np.ones(1), ""))
    file = serve_zoo.export(Zoo(tuple(groups), tuple("abcde")), tmp_path)
    listed = yaml.safe_load(file.read_text())
    for entry in listed["endpoints"]:
        entry["onnx"] = str(tmp_path / entry["model"] / "model.onnx")
    file.write_text(yaml.safe_dump(listed))
    with opened(file) as (zoo, *_):
        for group, its in zip(groups, zoo.groups, strict=True):
            assert its.network.image_shape == group.network.image_shape
            views = images_lib.fit_to(pictures(3), group.network.image_shape)
            got, wanted = (
                jax.jit(g.network.apply)(take(g.teachers, 0).variables, views)
                for g in (its, group)
            )
            np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_less_telling_answers_become_logits_of_what_they_tell():
    def spec(output, digits=0):
        return remote_lib.EndpointSpec("x", 4, (32, 32, 3), output, digits)

    def softmax(logits):
        shifted = np.exp(np.float64(logits))
        return shifted / shifted.sum(-1, keepdims=True)

    p = np.asarray([[0.7, 0.2, 0.1, 0.0], [0.25, 0.25, 0.25, 0.25]])
    said = softmax(remote_lib.to_logits(spec("probabilities"), p, 2))
    np.testing.assert_allclose(said, p, atol=1e-6)
    said = softmax(remote_lib.to_logits(spec("probabilities", 2), p, 2))
    assert 0 < said[0, 3] < 0.005
    top = np.asarray([[0.7, 0.2, 0.0, 0.0]])
    said = softmax(remote_lib.to_logits(spec("top_k"), top, 1))
    np.testing.assert_allclose(said, [[0.7, 0.2, 0.05, 0.05]], atol=1e-6)
    said = remote_lib.to_logits(spec("label"), np.asarray([[2], [0]]), 2)
    assert said.argmax(1).tolist() == [2, 0]
    np.testing.assert_allclose(softmax(said).max(1), 0.9, atol=1e-6)
    for output, answer, message in [
        ("probabilities", 2 * p, "no distribution"),
        ("probabilities", p - 0.1, "no distribution"),
        ("logits", p[:, :3], "4 classes for each of 2"),
        ("logits", p.T, "4 classes for each of 2"),
        ("label", np.asarray([4, 0]), "none of the 4 classes"),
    ]:
        with pytest.raises(ValueError, match=message):
            remote_lib.to_logits(spec(output), answer, 2)


def test_binary_request_is_what_tritons_own_client_sends():
    client = pytest.importorskip("tritonclient.http")
    images = np.asarray(pictures(2))
    ours = remote_lib.OpenInference(
        remote_lib.EndpointSpec("x", 5, (32, 32, 3)), "http://h", "m"
    )
    ours._binary, ours._layout = True, "nchw"
    body, headers = ours._encode(images)
    theirs = client.InferInput("input", [2, 3, 32, 32], "FP32")
    theirs.set_data_from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    wanted, length = client.InferenceServerClient.generate_request_body([theirs])
    start = int(headers["Inference-Header-Content-Length"])
    assert json.loads(body[:start])["inputs"] == json.loads(wanted[:length])["inputs"]
    assert body[start:] == wanted[length:]


SMALL = [
    "--config.student.kwargs.width=4",
    "--config.recover.images_per_class=0",
    "--config.recover.scenes=30",
    "--config.eval.episodes=4",
    "--config.eval.val_episodes=0",
    "--config.eval.queries=3",
    "--config.eval.shots=(1,)",
    "--config.eval.baselines=('panel',)",
    "--config.learner.test_steps=1",
    "--config.zoo.pretrain.num_teachers=0",
    "--config.panel.trust=False",
]


def parse(*extra):
    config = "--config=experiments/configs/panel_cifar_fs.py:smoke"
    return command_line.parse(["run.py", config, *SMALL, *extra]).config


def test_panel_over_http_is_the_panel_in_process(
    listed, truth, tmp_path, proxy, monkeypatch
):
    every_method = classifiers.methods

    def one_method(*args, **kwargs):
        return dict([next(iter(every_method(*args, **kwargs).items()))])

    # The others are tested elsewhere and take long to compile.
    monkeypatch.setattr(classifiers, "methods", one_method)
    proxy.fault = failing(500)
    config = parse(f"--config.zoo.apis={listed()}", "--config.num_steps=2")
    needs_teachers = [name for name in BASELINES if name != "random"]
    config.eval.baselines = tuple(needs_teachers)
    result = train.main(config, str(tmp_path / "run"))
    asked = np.load(tmp_path / "run" / "recovered" / "leaves-000000.npz")["images"]
    told = np.load(tmp_path / "run" / "described" / "images-000000.npz")["logits"]
    assert_same(told.reshape(len(told), -1, WAY), truth(jnp.asarray(asked)))
    queries = result["queries"]
    failed = sum(r["failed_but_billed"] for r in queries["endpoints"].values())
    assert queries["total"] == 30 * COUNT + failed and failed > 0
    assert all(row["queries"] == queries["total"] for row in result["curve"])
    table = (tmp_path / "run" / "table.md").read_text()
    for name in needs_teachers:
        skipped = result["results"][BASELINES[name].label]["1"]
        assert "endpoints" in skipped["skipped"]
        assert f"| {BASELINES[name].label} | 1 | - (teachers are endpoints" in table
    assert (tmp_path / "run" / "model.npz").exists()


def test_panel_whose_budget_ends_uses_what_it_has(listed, truth, tmp_path, capsys):
    file = listed(budget=65)
    images = np.uint8(255 * np.asarray(pictures(30, seed=8)))
    with (
        opened(file, tmp_path) as (remote, hub, _),
        stopping.StopRequest() as stop,
    ):
        made = Run(str(tmp_path), 0, lambda tree: tree, map_tasks, stop)
        answers = panel.ask_zoo(remote, images, made.cached, chunk=10)
        assert hub.queries == 65
    logits = answers.logits
    assert np.isfinite(logits[:, answers.columns[:-1]]).sum() == 65
    assert panel.most_answers(answers) == 20  # all teachers about two chunks
    assert_same(logits[:10].reshape(10, -1, WAY), truth(jnp.asarray(images[:10])))
    # What is incomplete is not kept: with a larger budget the rest is asked.
    kept = sorted(file.name for file in (tmp_path / "described").glob("*.npz"))
    assert kept == ["images-000000.npz", "images-000010.npz"]


@pytest.fixture
def prepared(monkeypatch):
    """Methods that were built; nothing is trained."""
    made = []

    def ended(run, method, *_, **__):
        made.append(method)
        raise stopping.Stopped

    monkeypatch.setattr(loop, "train", ended)
    return made


def few_of(file):
    """A run of the two of the three that tell most about twelve probes."""
    config = parse(f"--config.zoo.apis={file}", "--config.zoo.choose.teachers=2")
    config.zoo.choose.probes = 12
    return config


def billed(file, folder):
    with endpoints.opened(str(file), str(folder), "procedural") as remote:
        bill = remote.service.bill()
        return [each["queries"] for each in bill["endpoints"].values()]


def test_a_choice_is_billed_and_asks_nothing_twice(listed, proxy, tmp_path, prepared):
    file, folder = listed(), tmp_path / "run"
    train.check(few_of(file), str(folder))
    assert not proxy.bodies
    train.main(few_of(file), str(folder))
    (method,), chosen = prepared, folder / "chosen_teachers.json"
    told = json.loads(chosen.read_text())
    places = [each["place"] for each in told["teachers"]]
    rest = places.index(None)
    assert len(method.data.columns) == 3 and told["asked"] == 12 * COUNT
    wanted = [12 if i == rest else 12 + 30 for i in range(COUNT)]
    assert billed(file, folder) == wanted
    # Neither where the choice is read, nor where it is made of what the ledger knows.
    sent = len(proxy.bodies)
    train.main(few_of(file), str(folder))
    chosen.unlink()
    shutil.rmtree(folder / "probed")
    train.main(few_of(file), str(folder))
    assert json.loads(chosen.read_text()) == told
    assert len(proxy.bodies) == sent and billed(file, folder) == wanted


def test_a_choice_is_paid_from_the_budget(listed, proxy, tmp_path, prepared):
    file = listed(budget=36)
    for ask in (train.check, train.main):
        with pytest.raises(InputError, match="36 of the 36 queries that all endpoints"):
            ask(few_of(file), str(tmp_path / "little"))

    def own(entries):
        entries[1]["budget"] = 12

    with pytest.raises(InputError, match="12 of the 12 queries that teacher001 may"):
        train.main(few_of(listed(own)), str(tmp_path / "own"))
    assert not proxy.bodies
    # After the choice 24 queries are left: at most 12 images for two.
    file = listed(budget=60)
    train.main(few_of(file), str(tmp_path / "run"))
    assert sum(billed(file, tmp_path / "run")) == 60
    assert 0 < len(prepared[0].data.images) <= 12
    # Who is drawn is not paid for.
    drawn = few_of(file)
    drawn.zoo.choose.by = "random"
    train.main(drawn, str(tmp_path / "drawn"))
    assert sorted(billed(file, tmp_path / "drawn")) == [0, 30, 30]


def test_an_endpoint_that_fails_is_not_chosen(listed, proxy, tmp_path, prepared):
    proxy.fault = lambda number, request: (
        web.Response(status=404) if "teacher001" in request.path else None
    )
    train.main(few_of(listed()), str(tmp_path / "run"))
    told = json.loads((tmp_path / "run" / "chosen_teachers.json").read_text())
    assert [each["place"] is None for each in told["teachers"]] == [False, True, False]
    assert "finite" in told["teachers"][1]["reason"]
    assert len(prepared[0].data.columns) == 3


def test_a_wrong_command_is_one_line(listed, tmp_path, capsys):
    argv = ["run.py", "--config=experiments/configs/panel_cifar_fs.py:smoke", *SMALL]
    argv += [f"--workdir={tmp_path / 'w'}", "--distributed=off"]
    argv += ["--compilation_cache=off", f"--config.zoo.apis={tmp_path / 'no.yaml'}"]
    assert run.main(argv) == 2
    error = capsys.readouterr().err
    assert "no.yaml: No such file" in error and error.count("\n") == 1
    # The white-box stage of the panel is refused for endpoints.
    both = parse(f"--config.zoo.apis={listed()}", "--config.zoo.sabotage=0.5")
    with pytest.raises(InputError, match="exclude each other"):
        train.main(both, str(tmp_path / "x"))
    white = parse(
        f"--config.zoo.apis={listed()}", "--config.recover.images_per_class=2"
    )
    with pytest.raises(InputError, match="asks for gradients, which endpoint does not"):
        train.main(white, str(tmp_path / "y"))


def test_endpoints_stand_beside_models(listed, tmp_path, monkeypatch):
    """Who gives gradients is differentiated, the others are asked."""
    network = make_network("conv4", num_classes=WAY, image_shape=(32, 32, 3), width=4)
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    variables = jax.tree.map(lambda x: np.ones((2, *x.shape), x.dtype), shapes)
    ids = jnp.asarray([range(WAY), range(1, WAY + 1)], jnp.int32)
    group = ZooGroup(network, Teachers(variables, ids), np.full(2, np.nan))
    save_zoo(Zoo((group,), tuple(f"own {i}" for i in range(WAY + 1))), tmp_path / "zoo")
    options = ZooOptions(path=str(tmp_path / "zoo"), apis=str(listed()))
    made = Run(str(tmp_path), 0, lambda tree: tree, map_tasks, None)
    recipes = []
    monkeypatch.setattr(
        bidf.inversion,
        "build",
        lambda recipe, network, *_, **__: recipes.append(
            (network.name, inversion.is_estimated(recipe, network))
        ),
    )
    with teachers.opened(options, made, data=DataOptions(name="procedural")) as zoo:
        assert [g.network.name for g in zoo.groups] == ["conv4", "endpoint"]
        assert zoo.num_teachers == 5 and zoo.service is not None
        assert zoo.num_classes > WAY + 1
        where_needed = bidf.QUERIES.estimator._replace(teachers="without_gradients")
        recipe = bidf.QUERIES._replace(estimator=where_needed)
        config = bidf.Config(inversion=recipe)
        bidf.inverters(config, zoo.networks, network)
        assert zoo.service.queries == 0
    assert recipes == [("conv4", False), ("endpoint", True)]


class Asking(NamedTuple):
    is_finite: jax.Array
    loss: jax.Array


def test_a_step_without_answers_is_undone_and_an_ended_budget_ends_the_run(
    listed, tmp_path
):
    """A made-up algorithm whose every step asks one teacher about two new images."""
    file = listed(budget=11)
    config = parse(f"--config.zoo.apis={file}", "--config.num_steps=9")
    config.eval.val_episodes = 0
    with opened(file, tmp_path) as (remote, hub, _):
        arch = remote.networks[0]

        def step(key, state, stacks):
            one = take(stacks[0], 0)
            said = arch.apply(one.variables, jax.random.uniform(key, (2, 32, 32, 3)))
            return state + said.mean(), Asking(jnp.isfinite(said).all(), said.mean())

        made = Method(
            title="asking",
            algorithm=Algorithm(lambda key: jnp.zeros(()), step, lambda state: state),
            data=remote.teachers,
            network=make_network(
                "conv4", num_classes=5, image_shape=(32, 32, 3), width=4
            ),
            meters=Meters({"loss": "loss"}),
        )
        with runs.opened(config, str(tmp_path / "run"), may_change=()) as opened_run:
            outcome = loop.train(opened_run, made, Schedule(num_steps=9), service=hub)
    # Five steps were answered; the sixth got one answer of two, and is undone.
    assert hub.queries == 11
    assert outcome.steps == outcome.curve[-1]["step"] == 5
    assert outcome.curve[-1]["queries"] == 11
    assert np.isfinite(outcome.model) and outcome.model == outcome.state
    assert (tmp_path / "run" / "checkpoints" / "5").is_dir()


@pytest.mark.slow
def test_inversion_over_http_counts_every_image(listed, tmp_path):
    """BiDf-MKD on a real server: each query that a step makes is sent once."""
    argv = ["--config=experiments/configs/bidf_cifar_fs_5w1s.py:smoke"]
    argv += [f"--config.zoo.apis={listed()}", "--config.zoo.pretrain.num_teachers=0"]
    argv += ["--config.num_steps=2", "--config.eval.baselines=()"]
    argv += ["--config.eval.val_episodes=0", "--config.student.kwargs.width=4"]
    config = command_line.parse(["run.py", *argv]).config
    result = train.main(config, str(tmp_path / "run"))
    told = result["queries"]["endpoints"].values()
    asked = sum(row["answered"] + row["answered_by_ledger"] for row in told)
    steps = [json.loads(x) for x in open(tmp_path / "run" / "metrics.jsonl")]
    assert asked == steps[-1]["queries"] and steps[-1]["queries"] > 0
    assert result["recovery_seconds"] is None  # Timing it would have sent more.
