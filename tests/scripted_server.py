"""A small inference server whose model, metadata and refusals a test writes down."""

import asyncio
import json
import threading

import numpy as np
from aiohttp import web
from faulty_proxy import free_port

WAY = 5


def logits_of(images):
    """What its model says about images [n, 4, 4, 3]: their first values."""
    return np.asarray(images, np.float64).reshape(len(images), -1)[:, :WAY]


class Server:
    """Serves one model "m" of images [4, 4, 3].

    Attributes:
      metadata: of the model.
      config: of the model in Triton's way; None: that path does not exist.
      extensions: of the protocol.
      refuse: of an inference request; None or the answer, an `aiohttp.web.Response`.
      outputs: from images and the request to the list of outputs.
      answer: what else the answer holds.
      refuse_metadata: the same as `refuse` for the metadata.
      ready: whether the server itself is.
      sizes, requests, headers: images of each inference request that was answered, all
        requests, and the headers of all.
    """

    def __init__(self):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.reset()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._run(self._start())

    def reset(self):
        self.metadata = {
            "name": "m",
            "versions": ["1"],
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4, 4, 3]}],
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, WAY]}],
        }
        self.config, self.extensions, self.ready = None, [], True
        self.answer = {"model_name": "m", "model_version": "1"}
        self.refuse = self.refuse_metadata = lambda *_: None
        self.outputs = lambda images, request: [tensor("y", logits_of(images))]
        self.sizes, self.requests, self.headers = [], [], []

    def close(self):
        self._run(self._runner.cleanup())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _start(self):
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def _handle(self, request):
        self.headers.append(request.headers)
        if request.path == "/v2":
            return web.json_response({"extensions": self.extensions})
        if request.path == "/v2/health/ready":
            return web.Response(status=200 if self.ready else 400)
        if request.path.endswith("/config"):
            return web.json_response(self.config, status=200 if self.config else 404)
        if not request.path.endswith("/infer"):
            return self.refuse_metadata(request) or web.json_response(self.metadata)
        asked, images = await read(request)
        self.requests.append(asked)
        refusal = self.refuse(images, asked)
        if refusal is not None:
            return refusal
        self.sizes.append(len(images) if images.ndim == 4 else 1)
        return written({**self.answer, "outputs": self.outputs(images, asked)})


def error(status, text):
    return web.json_response({"error": text}, status=status)


def tensor(name, values, datatype="FP32", raw=None):
    """An output as JSON, or, with bytes, behind it."""
    head = {"name": name, "datatype": datatype, "shape": list(np.shape(values))}
    if raw is not None:
        head["parameters"] = {"binary_data_size": len(raw)}
        return head | {"raw": raw}
    flat = np.ravel(values).tolist()
    # As servers write what JSON has no word for.
    return head | {"data": [None if x != x else x for x in flat]}


async def read(request):
    body = await request.read()
    length = request.headers.get("Inference-Header-Content-Length")
    head, rest = (
        (body, b"") if length is None else (body[: int(length)], body[int(length) :])
    )
    asked = json.loads(head)
    told = asked["inputs"][0]
    if "data" in told:
        values = np.asarray(told["data"], np.float64)
    else:
        kinds = {"FP32": "<f4", "FP16": "<f2"}
        if told["datatype"] == "BF16":
            wide = np.frombuffer(rest, "<u2").astype("<u4") << 16
            values = wide.view("<f4")
        else:
            values = np.frombuffer(rest, kinds[told["datatype"]])
    return asked, values.reshape(told["shape"])


def written(answer):
    raw = b"".join(output.pop("raw", b"") for output in answer["outputs"])
    head = json.dumps(answer).encode()
    if not raw:
        return web.Response(body=head, content_type="application/json")
    return web.Response(
        body=head + raw, headers={"Inference-Header-Content-Length": str(len(head))}
    )
