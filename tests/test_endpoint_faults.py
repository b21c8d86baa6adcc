"""Faults of inference servers that users of such servers have reported."""

import importlib.util
import json

import numpy as np
import pytest

if any(importlib.util.find_spec(name) is None for name in ("aiohttp", "orjson")):
    pytest.skip("the extra `remote` is not installed", allow_module_level=True)

import yaml
from aiohttp import web
from faulty_proxy import free_port
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted_server import WAY, Server, error, logits_of, tensor

from experiments.inputs import endpoints
from free_jax import InputError
from free_jax import remote as remote_lib
from free_jax.remote import failures, metadata, tensors

NAMES = ("cat", "dog", "horse", "mouse", "sheep")
QUICK = remote_lib.Patience(seconds=3, first_delay=0.02, longest_delay=0.1, opening=0.3)


@pytest.fixture(scope="module")
def one_server():
    made = Server()
    yield made
    made.close()


@pytest.fixture
def server(one_server):
    one_server.reset()
    return one_server


def spec(output="logits", digits=0):
    return remote_lib.EndpointSpec("e", WAY, (4, 4, 3), output, digits, NAMES)


class Asker:
    """A hub of one endpoint."""

    def __init__(self, server, output="logits", *, digits=0, ledger=None, **options):
        budget = options.pop("budget", 0)
        options.setdefault("max_batch", 8)
        url = options.pop("url", server.url)
        self.client = remote_lib.OpenInference(
            spec(output, digits), url, "m", **options
        )
        self.hub = remote_lib.Hub(
            [self.client], ledger, budgets=[budget], patience=QUICK
        )

    def __enter__(self):
        try:
            self.hub.open()
        except BaseException:
            self.hub.close()
            raise
        return self

    def __exit__(self, *_):
        self.hub.close()

    def __call__(self, images):
        found = self.hub.ask(0, images)
        if self.hub.alive().any():
            self.hub.raise_if_broken()
        return found

    @property
    def counts(self):
        return self.hub.report()["endpoints"]["e"]


def pictures(count=10, seed=0):
    shape = (count, 4, 4, 3)
    return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


def assert_answered(asker, images, wanted=None, tolerance=1e-5):
    wanted = logits_of(images) if wanted is None else wanted
    np.testing.assert_allclose(asker(images), wanted, rtol=tolerance, atol=tolerance)


def softmax(logits):
    values = np.exp(np.asarray(logits, np.float64))
    return values / values.sum(-1, keepdims=True)


# --- Refusals.


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize("most", [1, 3])
def test_a_batch_that_is_too_large_is_halved(server, status, most):
    text = f"inference request batch-size must be <= {most} for 'm'"
    server.refuse = lambda images, _: (
        error(status, text) if len(images) > most else None
    )
    with Asker(server) as ask:
        assert_answered(ask, pictures(40))
        assert ask.counts["queries"] == ask.counts["answered"] == 40
        assert ask.counts["refused_not_billed"] > 0
        # What was learned lasts: nothing is refused again.
        refused = ask.counts["refused_not_billed"]
        assert_answered(ask, pictures(40, seed=1))
        assert ask.counts["refused_not_billed"] == refused


@pytest.mark.parametrize("where", ["config", "metadata", "parameters"])
def test_the_servers_limit_is_kept_to_from_the_start(server, where):
    if where == "config":
        server.config = {"max_batch_size": 3}
    elif where == "metadata":
        server.metadata["max_batch_size"] = 3
    else:
        server.metadata["parameters"] = {"max_batch_size": "3"}
    server.refuse = lambda images, _: error(500, "no") if len(images) > 3 else None
    with Asker(server) as ask:
        assert_answered(ask, pictures(10))
        assert ask.counts["queries"] == 10 and server.sizes == [1, 3, 3, 3]


def test_fixed_batches_are_filled_up_and_counted(server):
    server.metadata["inputs"][0]["shape"] = [4, 4, 4, 3]
    server.refuse = lambda images, _: error(400, "4!") if len(images) != 4 else None
    with Asker(server, budget=14) as ask:
        assert_answered(ask, pictures(6))
        assert server.sizes == [4, 4] and ask.counts["queries"] == 8
        more = ask(pictures(8, seed=1))
        assert np.isfinite(more).all(-1).tolist() == [True] * 4 + [False] * 4
        # Two are left of the budget, too few for a request.
        assert ask.counts["queries"] == 12 and not ask.hub.alive().any()
    server.metadata["inputs"][0]["shape"] = [1, 4, 4, 3]
    server.refuse = lambda images, _: error(400, "1!") if len(images) != 1 else None
    with Asker(server) as ask:
        assert_answered(ask, pictures(3))
        assert ask.counts["queries"] == 3


def test_memory_that_ends_at_large_batches(server):
    server.refuse = lambda images, _: (
        error(500, "CUDA out of memory. Tried to allocate") if len(images) > 2 else None
    )
    with Asker(server) as ask:
        assert_answered(ask, pictures(10))
        assert ask.counts["failed_but_billed"] > 0


@pytest.mark.parametrize("which", [0, 13])
def test_an_image_that_is_refused_alone_has_no_answer(server, capsys, which):
    images = pictures(20)
    bad = images[which].ravel()[:WAY]

    def refuse(got, _):
        if np.isclose(got.reshape(len(got), -1)[:, :WAY], bad).all(1).any():
            return error(422, "cannot decode an image")

    server.refuse = refuse
    with Asker(server) as ask:
        answers = ask(images)
        assert np.isnan(answers[which]).all() and ask.hub.alive().all()
        rest = np.arange(20) != which
        np.testing.assert_allclose(answers[rest], logits_of(images)[rest], rtol=1e-5)
        assert ask.counts["queries"] == 19
        # The images were to blame, not their number.
        server.sizes.clear()
        ask(pictures(16, seed=3))
        assert server.sizes == [8, 8]
    said = capsys.readouterr().err
    assert "cannot decode an image" in said and said.count("\n") == 1


def test_a_server_that_begins_to_refuse_everything_is_left_out(server, capsys):
    seen = []

    def refuse(*_):
        seen.append(1)
        return error(400, "quota used up") if len(seen) > 2 else None

    server.refuse = refuse
    with Asker(server) as ask:
        answers = ask(pictures(200))
        assert np.isfinite(answers).all(-1).sum() == ask.counts["queries"] == 9
        assert not ask.hub.alive().any() and len(seen) < 100
    assert "quota used up; left out from now on" in capsys.readouterr().err


SAYINGS = {
    json.dumps({"error": "unexpected input 'x'"}): "unexpected input 'x'",
    json.dumps({"error": {"code": 3, "message": "no"}}): ": no",
    json.dumps({"detail": [{"loc": ["a"], "msg": "field required"}]}): "field required",
    json.dumps({"message": "a\nb\x1b[31m\u202ec"}): r"a b\x1b[31m\u202ec",
    json.dumps({"error": "q" * 3000}): "q" * 200 + " ...",
    "<html><title>413 Entity\nToo Large</title></html>": "413 Entity Too Large",
    "just text": "just text",
    "": "(it does not accept the request)",
}


@pytest.mark.parametrize("body", SAYINGS, ids=range(len(SAYINGS)))
def test_the_servers_own_words_are_shown_in_one_line(server, body):
    server.refuse = lambda *_: web.Response(status=400, body=body.encode())
    with Asker(server) as ask:
        assert np.isnan(ask(pictures(9))).all()
        with pytest.raises(InputError) as caught:
            ask.hub.raise_if_broken()
        assert ask.counts["queries"] == 0
        assert len(server.requests) == QUICK.bad_answers
    said = str(caught.value)
    assert SAYINGS[body] in said and said.isprintable() and len(said) < 450


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (400, "Model m is not ready yet."),
        (503, "Model with name m is not ready."),
        (503, ""),
        (400, "Request for unknown model: 'm' has no available versions"),
        (404, "Model m not found"),
    ],
)
@pytest.mark.parametrize("at", ["metadata", "infer"])
def test_a_server_that_loads_is_waited_for(server, capsys, status, text, at):
    if status == 404 and at == "infer":
        pytest.skip("an unknown model, once known, is gone")
    seen, server.ready = [], status != 404

    def loads(*_):
        seen.append(1)
        return error(status, text) if len(seen) < 12 else None

    if at == "metadata":
        server.refuse_metadata = loads
    else:
        server.refuse = loads
    with Asker(server) as ask:
        assert_answered(ask, pictures(3))
        assert ask.counts["queries"] == 3
    if at == "metadata":
        said = capsys.readouterr().err
        assert "waiting for it, up to 3 s" in said and said.count("\n") == 1


def test_a_server_that_never_gets_ready_is_left_out_in_the_stated_time(server):
    server.refuse_metadata = lambda *_: error(503, "loading the model")
    with pytest.raises(InputError, match="503: loading the model, for 3 s"):
        with Asker(server):
            pass


# --- Types and shapes.


def halves(values, datatype):
    if datatype == "FP16":
        return np.asarray(values, "<f2").tobytes()
    bits = np.asarray(values, "<f4").view("<u4")
    return (bits >> 16).astype("<u2").tobytes()


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
@pytest.mark.parametrize("known", [True, False])
def test_half_precision_is_asked_for_and_sent_as_bytes(server, datatype, known):
    server.extensions = ["binary_tensor_data"] if known else []
    server.metadata["inputs"][0]["datatype"] = datatype
    server.metadata["outputs"][0]["datatype"] = datatype

    def refuse(images, request):
        (tensor_in,) = request["inputs"]
        wants = request.get("parameters", {}).get("binary_data_output")
        for output in request.get("outputs", ()):
            wants = output["parameters"]["binary_data"]
        if "data" in tensor_in or not wants:
            return error(
                400,
                f"sending {datatype} data via JSON is not supported. Please use the "
                "binary data format",
            )

    server.refuse = refuse
    server.outputs = lambda images, _: [
        tensor("y", logits_of(images), datatype, halves(logits_of(images), datatype))
    ]
    with Asker(server) as ask:
        assert_answered(ask, pictures(5), tolerance=0.02)
        assert ask.counts["queries"] == 5
        assert len(server.requests) == 2 + (not known)


def test_bytes_that_nobody_asked_for_are_read_too(server):
    def both(images, _):
        values = logits_of(images)
        whole = np.arange(len(values), dtype="<i8")
        return [
            tensor("other", whole, "INT64", whole.tobytes()),
            tensor("y", values, "FP64", values.astype("<f8").tobytes()),
        ]

    server.outputs = both
    with Asker(server) as ask:
        assert_answered(ask, pictures(5))


@pytest.mark.parametrize("config", [None, {"max_batch_size": 0}])
def test_a_model_of_one_image_without_an_axis_for_it(server, config):
    server.config = config
    server.metadata["inputs"][0]["shape"] = [3, 4, 4]
    server.metadata["outputs"][0]["shape"] = [WAY]
    server.refuse = lambda images, _: (
        error(400, "unexpected shape for input 'x'") if images.ndim != 3 else None
    )
    server.outputs = lambda image, _: [
        tensor("y", logits_of(image.transpose(1, 2, 0)[None])[0])
    ]
    with Asker(server) as ask:
        assert_answered(ask, pictures(5))
        assert ask.counts["queries"] == 5 and len(server.requests) == 5 + (not config)


def test_metadata_that_only_leave_the_axis_out(server):
    server.metadata["inputs"][0]["shape"] = [4, 4, 3]
    server.metadata["outputs"][0]["shape"] = [WAY]
    with Asker(server) as ask:
        assert_answered(ask, pictures(9))
        assert server.sizes == [1, 8]


WITHOUT = [
    ("inputs", None),
    ("inputs", []),
    ("inputs", [{}]),
    ("inputs", [{"name": "x"}]),
    ("inputs", [{"name": "x", "datatype": "FP32", "shape": None}]),
    ("inputs", [{"name": "x", "datatype": "FP32", "shape": []}]),
    ("inputs", [{"name": "x", "datatype": "FP32", "shape": [None] * 4}]),
    ("inputs", [{"name": "x", "datatype": "FP32", "shape": "?"}]),
    ("inputs", "nonsense"),
    ("inputs", [{"name": "x", "datatype": "FP32", "shape": [-1, 48]}]),
    ("inputs", [{"name": "x", "datatype": "BYTES", "shape": [-1, 4, 4, 3]}]),
    ("outputs", {"y": 1}),
    ("name", "other\n"),
]


@pytest.mark.parametrize(("key", "value"), WITHOUT, ids=range(len(WITHOUT)))
def test_metadata_that_do_not_tell_enough_are_one_line(server, key, value):
    server.metadata[key] = value
    with pytest.raises(InputError, match="endpoint e: ") as caught:
        with Asker(server):
            pass
    assert str(caught.value).isprintable()
    assert not server.requests


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("shape", None),
        ("shape", []),
        ("shape", [None] * 4),
        ("shape", ["", "4", 4.0, None]),
        ("datatype", None),
    ],
)
def test_with_the_layout_given_the_rest_may_be_missing(server, key, value):
    server.metadata["inputs"][0][key] = value
    server.metadata["outputs"][0][key] = value
    server.metadata["versions"] = None
    with Asker(server, layout="nhwc") as ask:
        assert_answered(ask, pictures(3))


# --- Versions.


@pytest.mark.parametrize("listed", [["3", "2", "1"], ["1", "2", "3"], [3], "3", None])
@pytest.mark.parametrize("told", ["3", 3, None, ""])
def test_versions_are_optional_and_listed_in_any_order(server, listed, told):
    server.metadata["versions"] = listed
    server.answer = {"model_name": "m", "model_version": told}
    if told is None:
        server.answer = {}
    with Asker(server) as ask:
        assert_answered(ask, pictures(20))
        assert ask.counts["queries"] == 20
        if listed:
            assert json.loads(ask.client.identity) == ["e", "m", "3", "logits", 0]


def test_the_default_may_be_another_than_the_highest_version(server, tmp_path):
    server.metadata["versions"] = ["a", "b", "c"]
    server.answer["model_version"] = "b"
    with Asker(server, ledger=remote_lib.Ledger(tmp_path / "l")) as ask:
        assert_answered(ask, pictures(20))
        assert json.loads(ask.client.identity)[2] == "b"
        assert_answered(ask, pictures(20))
        assert ask.counts["queries"] == 20
        server.answer["model_version"] = "c"  # It changes while the run asks.
        assert np.isnan(ask(pictures(4, seed=1))).all()
        spent = ask.counts["queries"]
    server.answer["model_version"] = "b"
    with Asker(server, ledger=remote_lib.Ledger(tmp_path / "l")) as ask:
        assert_answered(ask, pictures(20))
        assert ask.counts["queries"] == spent  # Not even the first one again.
        assert_answered(ask, pictures(5, seed=2))
    server.answer["model_version"] = "c"
    with Asker(server, ledger=remote_lib.Ledger(tmp_path / "l")) as ask:
        assert_answered(ask, pictures(21)[20:])
        assert json.loads(ask.client.identity)[2] == "c"


def test_one_image_is_tried_before_the_rest_is_paid(server):
    server.answer["model_name"] = "another"
    with Asker(server, max_batch=64) as ask:
        assert np.isnan(ask(pictures(1000))).all()
        assert ask.counts["queries"] == QUICK.bad_answers
        with pytest.raises(InputError, match="another model"):
            ask.hub.raise_if_broken()


# --- Which output, and what it holds.


def both(reverse):
    def outputs(images, request):
        logits = logits_of(images)
        found = [tensor("probabilities", softmax(logits)), tensor("logits", logits)]
        found += [tensor("embedding", np.zeros((len(images), 7)))]
        wanted = {output["name"] for output in request.get("outputs", ())}
        found = [t for t in found if not wanted or t["name"] in wanted]
        return found[::-1] if reverse else found

    return outputs


@pytest.mark.parametrize("reverse", [True, False])
@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("output", ["logits", "probabilities"])
def test_outputs_are_chosen_by_name_not_by_position(server, reverse, told, output):
    server.outputs = both(reverse)
    listed = [
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, WAY]},
        {"name": "logits", "datatype": "FP32", "shape": [-1, WAY]},
        {"name": "embedding", "datatype": "FP32", "shape": [-1, 7]},
    ]
    server.metadata["outputs"] = listed[::-1] if reverse else listed
    if not told:
        del server.metadata["outputs"]
    for name in ("", output):
        with Asker(server, output, output_name=name) as ask:
            got = ask(pictures(9))
            np.testing.assert_allclose(
                softmax(got), softmax(logits_of(pictures(9))), atol=1e-4
            )
            if output == "logits":
                np.testing.assert_allclose(got, logits_of(pictures(9)), rtol=1e-5)
        if told or name:
            assert all(r["outputs"] == [{"name": output}] for r in server.requests)
        server.requests.clear()


def test_outputs_that_nothing_tells_apart_need_a_name(server):
    named = [
        {"name": name, "datatype": "FP32", "shape": [-1, WAY]} for name in ("a", "b")
    ]
    server.metadata["outputs"] = named
    server.outputs = lambda images, _: [
        tensor("a", -logits_of(images)),
        tensor("b", logits_of(images)),
    ]
    with pytest.raises(InputError, match=r"outputs a, b, .*add output_name"):
        with Asker(server):
            pass
    with pytest.raises(InputError, match="no output 'c' but a, b; correct output_name"):
        with Asker(server, output_name="c"):
            pass
    with Asker(server, output_name="b") as ask:
        assert_answered(ask, pictures(3))
    # By width alone.
    server.metadata["outputs"] = [{**named[0], "shape": [-1, 1000]}, named[1]]
    with Asker(server) as ask:
        assert_answered(ask, pictures(3))
        assert json.loads(ask.client.identity) == ["e", "m", "1", "logits", 0, "b"]
    # The first one is what older ledgers hold.
    server.metadata["outputs"] = [named[0]]
    with Asker(server, output_name="a") as ask:
        assert json.loads(ask.client.identity) == ["e", "m", "1", "logits", 0]
    del server.metadata["outputs"]
    with Asker(server) as ask:
        assert np.isnan(ask(pictures(9))).all()
        with pytest.raises(InputError, match="add output_name"):
            ask.hub.raise_if_broken()
        assert ask.counts["queries"] <= QUICK.bad_answers


def test_probabilities_are_not_taken_for_logits(server):
    server.outputs = lambda images, _: [tensor("y", softmax(logits_of(images)))]
    with Asker(server) as ask:
        assert np.isnan(ask(pictures(30))).all()
        with pytest.raises(InputError, match="add output: probabilities"):
            ask.hub.raise_if_broken()
        assert ask.counts["queries"] == 1


@pytest.mark.parametrize(
    "say",
    [
        lambda i: NAMES[i],
        lambda i: f" {NAMES[i].upper()}\n",
        lambda i: str(i),
        lambda i: f"0.93:{i}:{NAMES[i]}",
        lambda i: f"0.93:{i}",
        lambda i: i,
    ],
)
@pytest.mark.parametrize("binary", [True, False])
def test_labels_may_be_names(server, say, binary):
    server.metadata["outputs"] = [{"name": "y", "datatype": "BYTES", "shape": [-1]}]

    def outputs(images, _):
        said = [say(int(i)) for i in logits_of(images).argmax(1)]
        if not isinstance(said[0], str):
            return [tensor("y", np.asarray(said), "INT64")]
        text = [s.encode() for s in said]
        raw = b"".join(len(s).to_bytes(4, "little") + s for s in text)
        return [tensor("y", np.asarray(said), "BYTES", raw if binary else None)]

    server.outputs = outputs
    with Asker(server, "label") as ask:
        got = ask(pictures(9))
        assert got.argmax(1).tolist() == logits_of(pictures(9)).argmax(1).tolist()


def test_names_that_are_numbers_are_names():
    told = spec("label")._replace(class_names=("4", "3", "2", "1", "0"))
    output = {"data": ["4", "0"], "shape": [2], "datatype": "BYTES"}
    ((_, values),) = tensors.received([output], b"")
    assert remote_lib.to_logits(told, values, 2).argmax(1).tolist() == [0, 4]


def test_base64_and_rows_of_null():
    output = {"data": ["ZG9n"], "datatype": "BYTES"}
    output["parameters"] = {"content_type": "base64"}
    ((_, values),) = tensors.received([output], b"")
    assert values.tolist() == ["dog"]
    output = {"data": [[1.0, "NaN"], None], "shape": [2, 2], "datatype": "FP32"}
    ((_, values),) = tensors.received([output], b"")
    np.testing.assert_array_equal(values, [[1, np.nan], [np.nan, np.nan]])


def test_one_label_that_is_no_class_is_no_answer():
    told = remote_lib.to_logits(spec("label"), np.asarray(["dog", "unknown"]), 2)
    assert told[0].argmax() == 1 and np.isnan(told[1]).all()


def test_a_label_that_is_no_class_is_named(server):
    server.outputs = lambda images, _: [tensor("y", ["goat"] * len(images), "BYTES")]
    with Asker(server, "label") as ask:
        ask(pictures(9))
        with pytest.raises(InputError, match=r"label 'goat', .*correct class_names"):
            ask.hub.raise_if_broken()
        assert ask.counts["queries"] == QUICK.bad_answers


# --- Answers about some images only.


def spoiled(output, how):
    def outputs(images, _):
        logits = logits_of(images)
        hit = np.isclose(logits[:, 0], logits_of(pictures(20))[7, 0], atol=1e-6)
        if output == "label":
            values = logits.argmax(1).astype(float)
        else:
            values = softmax(logits) if output == "probabilities" else logits.copy()
        values[hit] = how
        return [tensor("y", values)]

    return outputs


@pytest.mark.parametrize(
    ("output", "how"),
    [
        ("logits", np.nan),
        ("logits", np.inf),
        ("probabilities", np.nan),
        ("probabilities", 0.0),
        ("label", np.nan),
        ("label", -1),
    ],
)
@pytest.mark.parametrize("batch", [1, 8])
def test_one_image_without_a_number_has_no_answer_the_others_have(
    server, tmp_path, capsys, output, how, batch
):
    server.outputs = spoiled(output, how)
    for _ in range(2):  # The second run asks nothing again.
        ledger = remote_lib.Ledger(tmp_path / "l")
        with Asker(server, output, ledger=ledger, max_batch=batch) as ask:
            got = ask(pictures(20))
            assert np.isnan(got).any(-1).nonzero()[0].tolist() == [7]
            assert np.isnan(got[7]).all() and ask.hub.alive().all()
            assert ask.counts["queries"] == ask.counts["answered"] == 20
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "about 1 of" in said


def test_an_endpoint_that_never_gives_a_number_is_left_out(server):
    server.outputs = lambda images, _: [tensor("y", np.nan * logits_of(images))]
    with Asker(server) as ask:
        ask(pictures(400))
        assert not ask.hub.alive().any() and ask.counts["queries"] < 60


# --- Quantised probabilities.


def bfloat(values):
    bits = np.asarray(values, "<f4").view("<u4")
    return ((bits + 0x8000) & 0xFFFF0000).astype("<u4").view("<f4")


QUANTISED = {
    "bf16": bfloat,
    "int8": lambda p: np.round(p * 256) / 256,
    "int7": lambda p: np.floor(p * 127) / 127,
    "two decimals": lambda p: np.round(p, 2),
    "one decimal": lambda p: np.round(p, 1),
    "three decimals, cut off": lambda p: np.floor(p * 1000) / 1000,
}


@pytest.mark.parametrize("how", QUANTISED)
@pytest.mark.parametrize("way", [5, 20, 100])
def test_quantised_probabilities_are_told_of_digits(how, way):
    rng = np.random.default_rng(0)
    exact = softmax(2 * rng.normal(size=(400, way)))
    p = QUANTISED[how](exact)
    p = p[p.any(-1)]

    def declared(digits):
        return remote_lib.EndpointSpec("e", way, (4, 4, 3), "probabilities", digits)

    off = np.abs(p.sum(-1) - 1)
    if off.max() < 1e-3:
        return  # bfloat16 of few classes may do without.
    worst = p[off.argmax()][None]
    with pytest.raises(ValueError, match="digits") as caught:
        remote_lib.to_logits(declared(0), worst, 1)
    assert "logits" not in str(caught.value)
    digits = int(str(caught.value).split("digits: ")[1])
    remote_lib.to_logits(declared(digits), p, len(p))


def test_what_is_no_distribution_at_all_is_still_asked_about():
    values = np.random.default_rng(0).normal(size=(3, WAY))
    for wrong in (values, 40 * np.abs(values), np.full((3, WAY), 0.9)):
        with pytest.raises(ValueError, match="is its output logits"):
            remote_lib.to_logits(spec("probabilities"), wrong, 3)


# --- Getting there.


def test_own_headers_are_sent_and_never_shown(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SOME_KEY", "s3cret-key\n")
    monkeypatch.setenv("SOME_TOKEN", "Bearer s3cret-token\r\n")
    content = {
        "defaults": {
            "url": server.url,
            "image_size": 16,
            "headers": {"Host": "m.models.local", "X-Common": 7},
        },
        "endpoints": [
            {
                "model": "m",
                "class_names": list(NAMES),
                "token_variable": "SOME_TOKEN",
                "headers": {"x-api-key": "${SOME_KEY}"},
            }
        ],
    }
    server.metadata["inputs"][0]["shape"] = [-1, 16, 16, 3]
    file = tmp_path / "apis.yaml"
    file.write_text(yaml.safe_dump(content))
    # The server repeats what it was sent.
    server.refuse = lambda *_: error(400, f"not s3cret-key nor {'Bearer s3cret-token'}")
    with endpoints.opened(str(file), str(tmp_path), "d") as zoo:
        hub = zoo.service
        hub.ask(0, np.zeros((2, 16, 16, 3), np.float32))
        with pytest.raises(InputError, match=r"not \*\*\* nor"):
            hub.raise_if_broken()
        shown = json.dumps(hub.report())
    for headers in server.headers:
        assert headers["Host"] == "m.models.local" and headers["X-Common"] == "7"
        assert headers["x-api-key"] == "s3cret-key"
        assert headers["Authorization"] == "Bearer s3cret-token"
    printed = capsys.readouterr()
    kept = b"".join(f.read_bytes() for f in tmp_path.iterdir() if f != file)
    assert "s3cret" not in printed.out + printed.err + shown
    assert b"s3cret" not in kept


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"headers": {"x-api-key": "${NO_SUCH}"}}, "NO_SUCH with its value is not set"),
        ({"headers": {"x-api-key": "${no such s3cret}"}}, "name of an environment"),
        ({"headers": {"x-api-key": "s3cret\nb"}}, "header 'x-api-key' holds a line"),
        ({"headers": {"x api": "s3cret"}}, "is no name of a header"),
        ({"headers": {"Content-Type": "s3cret"}}, "set for each request; leave it out"),
        ({"headers": {"x": ["s3cret"]}}, "needs a text as its value"),
        ({"headers": {"x": None}}, "needs a text as its value"),
        ({"token_variable": "NO_SUCH"}, "variable NO_SUCH with its token is not set"),
        ({"token_variable": "BLANK"}, "variable BLANK with its token is not set"),
        ({"token_variable": "s3cret-token"}, "must be given by the name of an env"),
        ({"token_variable": "TWO_LINES"}, "TWO_LINES holds a line break"),
        (
            {"token_variable": "GOOD", "headers": {"authorization": "s3cret"}},
            "both token_variable and the header",
        ),
    ],
)
def test_headers_that_cannot_be_sent_are_one_line(
    server, monkeypatch, options, message
):
    monkeypatch.setenv("BLANK", " \n")
    monkeypatch.setenv("TWO_LINES", "s3cret\ns3cret")
    monkeypatch.setenv("GOOD", "s3cret")
    monkeypatch.delenv("NO_SUCH", raising=False)
    with pytest.raises(InputError, match=message) as caught:
        with Asker(server, **options):
            pass
    said = str(caught.value)
    assert said.startswith("endpoint e: ") and "s3cret" not in said
    assert said.isprintable() and not server.headers


@pytest.mark.parametrize("at", ["metadata", "infer"])
@pytest.mark.parametrize(
    ("location", "shown"),
    [
        (
            "https://me:pw@login.example.org/in?s3cret=1",
            "https://login.example.org/in,",
        ),
        ("/elsewhere", "{url}/elsewhere,"),
    ],
)
def test_a_redirect_is_named_not_followed(server, at, location, shown):
    def redirect(*_):
        return web.Response(status=307, headers={"Location": location})

    if at == "metadata":
        server.refuse_metadata = redirect
    else:
        server.refuse = redirect
    wanted = "redirects to " + shown.format(url=server.url)
    with pytest.raises(InputError, match=wanted) as caught:
        with Asker(server) as ask:
            ask(pictures(3))
            ask.hub.raise_if_broken()
    assert "s3cret" not in str(caught.value) and "pw" not in str(caught.value)


def test_proxies_of_the_environment(server, monkeypatch):
    for name in ("http_proxy", "no_proxy", "NO_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    # The server is its own proxy for a host that does not exist.
    monkeypatch.setenv("HTTP_PROXY", server.url.replace("//", "//me:word@"))
    with Asker(server, url="http://nowhere.invalid") as ask:
        assert_answered(ask, pictures(3))
    assert server.headers[-1]["Host"] == "nowhere.invalid"
    assert server.headers[-1]["Proxy-Authorization"].startswith("Basic ")
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(InputError, match=r"the proxy 127.0.0.1:.* cannot be reached"):
        with Asker(server):
            pass
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    with Asker(server) as ask:
        assert_answered(ask, pictures(3))
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("HTTP_PROXY", "socks5://127.0.0.1:9")
    with pytest.raises(InputError, match="HTTP_PROXY must start with http://"):
        with Asker(server):
            pass


def test_what_proxies_and_gateways_say(server, monkeypatch):
    for name in ("https_proxy", "no_proxy", "NO_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", server.url)  # It opens no tunnel.
    with pytest.raises(InputError, match=r"proxy of its env.* refuses it .status"):
        with Asker(server, url="https://nowhere.invalid"):
            pass
    server.metadata = {"error": "no\nsuch model"}
    with pytest.raises(InputError, match="metadata are an error: no such model"):
        with Asker(server):
            pass
    server.reset()
    server.answer, server.outputs = {"error": "it broke"}, lambda *_: []
    with Asker(server) as ask:
        ask(pictures(9))
        with pytest.raises(InputError, match="an answer without outputs: it broke"):
            ask.hub.raise_if_broken()
    monkeypatch.setenv("SOME_TOKEN", "token")
    url = server.url.replace("//", "//me:s3cret@")
    with pytest.raises(InputError, match="holds a user beside a token") as caught:
        with Asker(server, url=url, token_variable="SOME_TOKEN"):
            pass
    assert "s3cret" not in str(caught.value)


def test_a_token_beside_an_entry_of_netrc(server, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password word\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("SOME_TOKEN", "token")
    with Asker(server, token_variable="SOME_TOKEN") as ask:
        assert_answered(ask, pictures(3))
    assert {h["Authorization"] for h in server.headers} == {"Bearer token"}


# --- Whatever comes: one line or a result, never a defect.

json_like = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(
            st.sampled_from(
                "name versions inputs outputs shape datatype data parameters error "
                "binary_data_size max_batch_size content_type".split()
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
fuzzed = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
sizes = st.none() | st.integers(-1, 5) | st.sampled_from([4, 3, "4", "", 4.0, 1e400])
tensor_like = st.fixed_dictionaries(
    {},
    optional={
        "name": st.none() | st.sampled_from(["x", "y", "logits", 3]),
        "datatype": st.none() | st.sampled_from(["FP32", "BF16", "BYTES", "", 7]),
        "shape": st.none() | st.lists(sizes, max_size=5) | json_like,
        "data": json_like,
        "parameters": json_like,
    },
)


@fuzzed
@given(
    found=st.dictionaries(st.sampled_from(["name", "versions"]), json_like)
    | st.fixed_dictionaries(
        {}, optional={"inputs": json_like, "outputs": json_like, "versions": json_like}
    )
    | st.fixed_dictionaries(
        {
            "inputs": st.lists(tensor_like, max_size=3),
            "outputs": st.lists(tensor_like, max_size=3),
        }
    ),
    layout=st.sampled_from(["auto", "nhwc"]),
    output=st.sampled_from(["logits", "label", "top_k"]),
)
def test_any_metadata(found, layout, output):
    try:
        told = metadata.read(found, spec(output), model="m", layout=layout)
        assert told.layout in ("nhwc", "nchw") and told.batch >= 0
        metadata.latest(told.versions)
    except InputError as error:
        assert str(error).isprintable()


@fuzzed
@given(
    outputs=json_like | st.lists(tensor_like, max_size=3),
    rest=st.binary(max_size=40),
    output=st.sampled_from(["logits", "probabilities", "top_k", "label"]),
)
def test_any_answer(outputs, rest, output):
    try:
        found = tensors.received(outputs, rest)
        for _, values in found:
            got = remote_lib.to_logits(spec(output), values, 1)
            assert got.shape == (1, WAY) and got.dtype == np.float32
    except ValueError:
        pass


@fuzzed
@given(
    status=st.integers(300, 599),
    body=st.binary(max_size=200) | json_like.map(lambda x: json.dumps(x).encode()),
    location=st.text(max_size=30),
)
def test_any_refusal(status, body, location):
    found = failures.failure(status, "http://h/x", {"Location": location}, body)
    assert str(found).isprintable() and len(str(found)) < 800


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("endpoints: [{name: \xe4, x: 's3cret}]".encode("latin-1"), "no YAML"),
        (b"defaults: {headers: {x: 's3cret}}\n", "no YAML .line 2, column 1"),
        (b"defaults: {headers: s3cret}\nendpoints: [{model: m}]", "headers must be of"),
        (b"endpoints: [{model: 2020-99-99}]", "a value that cannot be read"),
        (b"endpoints: [m, n]", "endpoint 0 is no mapping of keys"),
        (b"endpoints: [{model: m}]\nbudget: -1", "budget=-1 must not be negative"),
        (b"endpoints: [{model: 'm\n\n n'}]", "must be one line"),
        (b"endpoints: [{model: m}]\nendpoints", "no YAML"),
        (
            b"endpoints: [{model: m, url: 'http://:80', class_names: [a, b], "
            b"image_size: 32}]",
            "url names no host",
        ),
    ],
)
def test_a_list_that_cannot_be_read_is_one_line(tmp_path, content, message):
    file = tmp_path / "apis.yaml"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        with endpoints.opened(str(file), str(tmp_path), "d"):
            pass
    assert "s3cret" not in str(caught.value) and str(caught.value).isprintable()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_marks_of_editors_are_harmless(tmp_path, encoding):
    file = tmp_path / "apis.yaml"
    file.write_text("endpoints: [{model: m\u00e4}]", encoding=encoding)
    assert endpoints._read(file)["endpoints"] == [{"model": "m\u00e4"}]


@fuzzed
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_as_a_list_of_endpoints(content, tmp_path_factory):
    file = tmp_path_factory.getbasetemp() / "bytes.yaml"
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        endpoints._read(file)
    assert str(caught.value).isprintable()


@fuzzed
@given(
    content=json_like
    | st.fixed_dictionaries(
        {
            "endpoints": st.lists(
                json_like
                | st.fixed_dictionaries(
                    {},
                    optional={
                        key: json_like
                        | st.sampled_from([["a", "b"], 4, "http://h", "m"])
                        for key in endpoints.KEYS
                    },
                ),
                max_size=2,
            )
        },
        optional={"defaults": json_like, "budget": json_like, "patience": json_like},
    )
)
def test_any_list_of_endpoints(content, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "fuzzed"
    folder.mkdir(exist_ok=True)
    file = folder / "apis.yaml"
    file.write_text(json.dumps(content))
    try:
        found = endpoints._read(file)
        for number, entry in enumerate(found["endpoints"]):
            read = endpoints._entry(file, number, found["defaults"], entry)
            endpoints._normalization(read)
            endpoints._client(file, read)
    except InputError as error:
        assert str(error).isprintable()
