"""A classifier behind the Open Inference Protocol v2 (KServe, Triton, MLServer)."""

import email.utils
import json
import math
import os
import time
from typing import Any, Literal

import numpy as np

from free_jax.errors import InputError
from free_jax.remote.answers import EndpointSpec, check
from free_jax.remote.client import EndpointError

Layout = Literal["auto", "nhwc", "nchw"]
_DTYPES = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "UINT8": "u1"}
# Requests that were not processed; other failures may have been billed.
_REFUSED = (429, 503)


class OpenInference:
    """A `Client` for one model of a server.

    aiohttp carries the requests: it keeps connections open, costs a third of httpx's
    time a request, and shows status and headers, which tritonclient hides on errors.
    Images travel as JSON, or as bytes where the server declares the binary extension.
    """

    def __init__(
        self,
        spec: EndpointSpec,
        url: str,
        model: str,
        *,
        version: str = "",
        layout: Layout = "auto",
        token_variable: str = "",
        max_batch: int = 64,
        in_flight: int = 4,
        timeout: float = 30.0,
    ):
        """Opens no connection yet.

        Args:
          spec: what the model is declared to be.
          url: of the server, such as ``https://host:8080``.
          model: its name there.
          version: asked for; "" takes the server's default.
          layout: of the images; "auto" reads it from the server's metadata.
          token_variable: environment variable with a bearer token; "" sends none.
          max_batch: images a request.
          in_flight: requests at once.
          timeout: seconds for one request.
        """
        self.spec = check(spec)
        self.max_batch, self.in_flight = max_batch, in_flight
        self._base = url.rstrip("/")
        self._path = f"{self._base}/v2/models/{model}"
        if version:
            self._path += f"/versions/{version}"
        self._model, self._version, self._layout = model, version, layout
        self._token_variable, self._timeout = token_variable, timeout
        self._input, self._dtype, self._binary = "input", "FP32", False
        self._served = version
        self._session: Any = None

    @property
    def card(self) -> EndpointSpec:
        """The former name of `spec`."""
        return self.spec

    @property
    def identity(self) -> str:
        """Name, model, version and output."""
        spec = self.spec
        return json.dumps(
            [spec.name, self._model, self._version, spec.output, spec.digits]
        )

    async def open(self) -> None:
        """See `Client.open`."""
        import aiohttp

        if self._session is None:
            headers = {}
            if self._token_variable:
                token = os.environ.get(self._token_variable)
                if not token:
                    raise InputError(
                        f"endpoint {self.spec.name}: the environment variable "
                        f"{self._token_variable} with its token is not set; export it"
                    )
                headers["Authorization"] = f"Bearer {token}"
            self._session = aiohttp.ClientSession(
                headers=headers,
                timeout=aiohttp.ClientTimeout(
                    total=self._timeout, sock_connect=min(self._timeout, 10)
                ),
                # Servers close idle connections, often after 5 s; a query sent into
                # one that is closing would have to count as billed.
                connector=aiohttp.TCPConnector(
                    limit=self.in_flight, keepalive_timeout=2.0
                ),
            )
        try:
            found = await self._request("GET", self._path)
            self._read_metadata(found)
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"endpoint {self.spec.name}: sends {error}") from None
        try:
            server = await self._request("GET", f"{self._base}/v2")
            extensions = server.get("extensions") or ()
            self._binary = "binary_tensor_data" in extensions
        except (EndpointError, ValueError):
            self._binary = False  # Some gateways pass on the models' paths only.

    async def close(self) -> None:
        """See `Client.close`."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def ask(self, images: np.ndarray) -> np.ndarray:
        """See `Client.ask`."""
        body, headers = self._encode(images)
        answer = await self._request(
            "POST", f"{self._path}/infer", data=body, headers=headers
        )
        name = answer.get("model_name", self._model)
        version = str(answer.get("model_version") or "")
        # Some servers give the version with answers only: the first one counts.
        self._served = self._served or version
        if name != self._model or version != self._served:
            raise ValueError(
                f"answers of another model ({name} {version}) than {self._model} "
                f"{self._served}".rstrip()
            )
        try:
            tensor = answer["outputs"][0]
            # Servers write NaN as null.
            values = np.array(tensor["data"], np.float64)
            shape = [int(size) for size in tensor["shape"]]
            return values.reshape(shape)
        except (KeyError, IndexError, TypeError, ValueError):
            raise ValueError("an answer without a tensor of numbers") from None

    def _encode(self, images: np.ndarray) -> tuple[bytes, dict[str, str]]:
        import orjson

        if self._layout == "nchw":
            images = images.transpose(0, 3, 1, 2)
        if self._dtype == "UINT8":
            images = np.clip(np.rint(255 * images), 0, 255)
        values = np.ascontiguousarray(images, _DTYPES[self._dtype])
        tensor: dict[str, Any] = {
            "name": self._input,
            "shape": list(values.shape),
            "datatype": self._dtype,
        }
        if not self._binary:
            if self._dtype == "FP16":
                values = values.astype(np.float32)
            tensor["data"] = values.ravel()
            body = orjson.dumps({"inputs": [tensor]}, option=orjson.OPT_SERIALIZE_NUMPY)
            return body, {"Content-Type": "application/json"}
        tensor["parameters"] = {"binary_data_size": values.nbytes}
        # The answer is small and stays JSON.
        head = orjson.dumps(
            {"inputs": [tensor], "parameters": {"binary_data_output": False}}
        )
        return head + values.tobytes(), {
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(len(head)),
        }

    async def _request(self, method: str, url: str, **kwargs: Any) -> dict[str, Any]:
        import aiohttp

        try:
            # A redirect could carry the token to another host.
            async with self._session.request(
                method, url, allow_redirects=False, **kwargs
            ) as response:
                body = await response.read()
                status, kind = response.status, response.content_type
                after = _seconds(response.headers.get("Retry-After"))
        except aiohttp.ClientConnectorError as error:
            why = getattr(error, "os_error", error)
            raise EndpointError(f"cannot be reached ({why})", billed=False) from None
        except TimeoutError:
            why = f"no answer within {self._timeout:g} s"
            raise EndpointError(why, billed=True) from None
        except (aiohttp.ClientError, OSError) as error:
            why = f"the connection broke ({type(error).__name__})"
            raise EndpointError(why, billed=True) from None
        if status == 200:
            return _parse(body, kind)
        passing = status >= 500 or status in (408, 425, 429)
        raise EndpointError(
            f"HTTP status {status}" + _HINTS.get(status, ""),
            billed=passing and status not in _REFUSED,
            retry=passing,
            after=after,
        )

    def _read_metadata(self, found: dict[str, Any]) -> None:
        where = f"endpoint {self.spec.name}"
        if found.get("name", self._model) != self._model:
            raise InputError(
                f"{where}: the server answers as model {found['name']!r}, not "
                f"{self._model!r}; correct url or model"
            )
        versions = [str(version) for version in found.get("versions") or ()]
        if not self._version and versions:
            self._version = self._served = versions[-1]
        inputs, outputs = found.get("inputs") or (), found.get("outputs") or ()
        h, w, c = self.spec.image_shape
        layouts = {"nhwc": [h, w, c], "nchw": [c, h, w]}
        if inputs:
            self._input = inputs[0]["name"]
            self._dtype = inputs[0]["datatype"]
            shape = [int(size) for size in inputs[0]["shape"]][-3:]
            fitting = [
                name
                for name, sizes in layouts.items()
                if len(shape) == 3
                and all(
                    have in (-1, want) for have, want in zip(shape, sizes, strict=True)
                )
            ]
            if self._layout == "auto" and fitting:
                self._layout = fitting[0]
            if self._layout not in fitting or self._dtype not in _DTYPES:
                raise InputError(
                    f"{where}: model {self._model} takes {self._dtype} "
                    f"{inputs[0]['shape']}, not images of {h}x{w}x{c}; correct "
                    "image_size or layout"
                )
        elif self._layout == "auto":
            raise InputError(
                f"{where}: the server does not report the shape of its images; add "
                "layout: nhwc or nchw"
            )
        if outputs and self.spec.output != "label":
            classes = int(outputs[0]["shape"][-1])
            if classes not in (-1, self.spec.num_classes):
                raise InputError(
                    f"{where}: model {self._model} has {classes} outputs but "
                    f"{self.spec.num_classes} class names are given"
                )


_HINTS = {
    400: " (it does not accept the request)",
    401: " (token missing or not accepted)",
    403: " (token not accepted)",
    404: " (no such model or version there)",
    413: " (batch too large; lower max_batch)",
}


def _parse(body: bytes, kind: str) -> dict[str, Any]:
    import orjson

    try:
        found = orjson.loads(body)
    except ValueError:
        try:
            found = json.loads(body)  # Python's own servers write NaN.
        except ValueError:
            found = None
    if not isinstance(found, dict):
        start = body[:40].decode(errors="replace")
        raise ValueError(f"no JSON but a page ({kind}: {start!r} ...)")
    return found


def _seconds(header: str | None) -> float | None:
    """Retry-After in seconds; it may be a date."""
    if not header:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            date = email.utils.parsedate_to_datetime(header)
        except ValueError:
            return None
        seconds = date.timestamp() - time.time()
    return max(seconds, 0.0) if math.isfinite(seconds) else None
