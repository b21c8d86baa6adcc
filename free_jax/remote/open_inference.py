"""A classifier behind the Open Inference Protocol v2 (KServe, Triton, MLServer)."""

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from free_jax.errors import InputError
from free_jax.remote import metadata, tensors
from free_jax.remote.access import proxy_for, request_headers
from free_jax.remote.answers import EndpointSpec, check
from free_jax.remote.client import EndpointError
from free_jax.remote.failures import HttpError, failure, one_line, words

Layout = Literal["auto", "nhwc", "nchw"]
_LENGTH = "Inference-Header-Content-Length"


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
        output_name: str = "",
        token_variable: str = "",
        headers: Mapping[str, Any] | None = None,
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
          output_name: of the output that is the answer, where the model has several;
            "" takes the one of the right width, or whose name says what it is.
          token_variable: environment variable with a bearer token; "" sends none.
          headers: sent with every request; ``${NAME}`` in a value stands for an
            environment variable.
          max_batch: images a request; less where the server takes less.
          in_flight: requests at once.
          timeout: seconds for one request.
        """
        self.spec = check(spec)
        self.max_batch, self.in_flight = max_batch, in_flight
        self.exact_batch = 0
        self._base = url.rstrip("/")
        self._path = f"{self._base}/v2/models/{model}"
        if version:
            self._path += f"/versions/{version}"
        self._model, self._version, self._layout = model, version, layout
        self._output_name, self._output = output_name, output_name
        self._token_variable, self._timeout = token_variable, timeout
        self._own_headers = dict(headers or {})
        self._input, self._dtype = "input", "FP32"
        # Whether images are sent, and answers wanted, as bytes.
        self._binary = self._binary_answers = False
        # Whether images have an axis of their own; whether that may still be wrong.
        self._batched, self._may_be_single = True, False
        self._select = bool(output_name)  # Whether the output is asked for by name.
        self._mark = ""  # What an output other than the first adds to the identity.
        self._served = version
        self._others: tuple[str, ...] = ()  # Versions one of which may be the default.
        self._secrets: tuple[str, ...] = ()
        self._session: Any = None
        self._proxy: str | None = None

    @property
    def card(self) -> EndpointSpec:
        """The former name of `spec`."""
        return self.spec

    @property
    def identity(self) -> str:
        """Name, model, version and output."""
        return self._identity(self._version)

    @property
    def identities(self) -> dict[str, str]:
        """Versions by identity, of those that may answer; empty once one has."""
        return {self._identity(version): version for version in self._others}

    def assume(self, version: str) -> None:
        """Takes one of `identities` for the one that answers, until it does."""
        self._version = self._served = version

    def _identity(self, version: str) -> str:
        spec = self.spec
        parts = [spec.name, self._model, version, spec.output, spec.digits]
        return json.dumps(parts + [self._mark] if self._mark else parts)

    async def open(self) -> None:
        """See `Client.open`."""
        if self._session is None:
            self._connect()
        try:
            found, _ = await self._request("GET", self._path)
        except HttpError as error:
            # A model that waits for its turn is not known yet.
            if error.status == 404 and await self._starts():
                raise EndpointError(
                    f"its server is not ready yet, {error}", billed=False, loads=True
                ) from None
            raise
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"endpoint {self.spec.name}: sends {error}") from None
        if found.get("error"):
            raise EndpointError(
                f"its metadata are an error: {one_line(words(found), self._secrets)}",
                billed=False,
                retry=False,
            )
        # Some gateways pass on the models' paths only.
        server, config = await asyncio.gather(
            self._told(f"{self._base}/v2"), self._told(f"{self._path}/config")
        )
        self._learn(found, server, config)

    async def close(self) -> None:
        """See `Client.close`."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def ask(self, images: np.ndarray) -> np.ndarray:
        """See `Client.ask`."""
        count = len(images)
        if count < self.exact_batch:
            missing = self.exact_batch - count
            images = np.concatenate([images, np.repeat(images[-1:], missing, 0)])
        refused = None
        while True:
            try:
                answer, rest = await self._infer(images)
                break
            except HttpError as error:
                batched = self._batched
                if not self._adapt(error, count):
                    raise refused or error from None
                if batched and not self._batched:
                    refused = error  # It tells more than what a mere attempt brings.
        values = self._read_answer(answer, rest)
        self._may_be_single = False
        cut = count < len(images) and values.ndim and len(values) == len(images)
        return values[:count] if cut else values

    def _connect(self) -> None:
        import aiohttp

        where = f"endpoint {self.spec.name}"
        headers = request_headers(where, self._own_headers, self._token_variable)
        has_user = "@" in self._base.partition("://")[2].partition("/")[0]
        if has_user and any(key.lower() == "authorization" for key in headers):
            raise InputError(
                f"{where}: its url holds a user beside a token; leave one out"
            )
        told = {value for key, value in headers.items() if key.lower() != "host"}
        told |= {value.partition(" ")[2] for value in told}
        self._secrets = tuple(sorted((x for x in told if len(x) > 3), key=len))[::-1]
        self._proxy = proxy_for(self._base)
        self._session = aiohttp.ClientSession(
            headers=headers,
            timeout=aiohttp.ClientTimeout(
                total=self._timeout, sock_connect=min(self._timeout, 10)
            ),
            # Servers close idle connections, often after 5 s; a query sent into
            # one that is closing would have to count as billed.
            connector=aiohttp.TCPConnector(limit=self.in_flight, keepalive_timeout=2.0),
        )

    def _learn(
        self, found: dict[str, Any], server: dict[str, Any], config: dict[str, Any]
    ) -> None:
        """Takes over what the server tells about itself and the model."""
        told = metadata.read(
            found,
            self.spec,
            model=self._model,
            layout=self._layout,
            output_name=self._output_name,
        )
        self._layout: Layout = told.layout  # type: ignore[assignment]
        self._input, self._dtype = told.input, told.datatype
        if not self._version and told.versions:
            self._version = self._served = metadata.latest(told.versions)
            self._others = told.versions
        outputs = told.outputs
        if told.output is not None and outputs[told.output].name:
            self._output = outputs[told.output].name
            self._select = bool(self._output_name) or len(outputs) > 1
            # The first one is what earlier versions took, without a mark.
            self._mark = self._output if told.output else ""
        half = told.output is not None and outputs[told.output].datatype in tensors.HALF
        extensions = server.get("extensions")
        self._binary = "binary_tensor_data" in (
            extensions if isinstance(extensions, list) else ()
        )
        self._binary_answers = self._binary and half
        most = metadata.limit(config)
        if most is None:
            most = told.most
        if most:
            self.max_batch = min(self.max_batch, most)
        if not told.batched:
            # Either its metadata leave the axis out, or it takes one image as such.
            self._batched = metadata.limit(config) != 0
            self._may_be_single = self._batched
        if not self._batched:
            self.max_batch = 1
        if told.batch == 1:
            self.max_batch = 1
        elif told.batch:
            self.exact_batch = self.max_batch = told.batch

    async def _starts(self) -> bool:
        """Whether the server itself says that it is not ready."""
        try:
            await self._request("GET", f"{self._base}/v2/health/ready")
        except HttpError as error:
            return error.status in (400, 503)
        except (EndpointError, ValueError):
            pass
        return False

    async def _told(self, url: str) -> dict[str, Any]:
        """What a server that may not know this path says; {} if nothing."""
        import aiohttp

        brief = aiohttp.ClientTimeout(total=min(self._timeout, 5))
        try:
            return (await self._request("GET", url, timeout=brief))[0]
        except (EndpointError, ValueError):
            return {}

    async def _infer(self, images: np.ndarray) -> tuple[dict[str, Any], bytes]:
        body, headers = self._encode(images)
        return await self._request(
            "POST", f"{self._path}/infer", data=body, headers=headers
        )

    def _adapt(self, error: HttpError, count: int) -> bool:
        """Changes how images are sent after a refusal that this may be about."""
        if error.status not in (400, 415, 422) or error.loads:
            return False
        about_bytes = re.search(r"(?i)binary|\bfp16|\bbf16|json", error.text)
        if about_bytes and not self._binary_answers:
            self._binary_answers = True
            self._binary = self._binary or self._dtype in tensors.HALF
            return True
        if self._may_be_single and count == 1:
            self._batched, self._may_be_single = False, False
            self.max_batch = 1
            return True
        return False

    def _encode(self, images: np.ndarray) -> tuple[bytes, dict[str, str]]:
        import orjson

        if self._layout == "nchw":
            images = images.transpose(0, 3, 1, 2)
        if not self._batched:
            images = images[0]
        request: dict[str, Any] = {
            "inputs": [
                {
                    "name": self._input,
                    "shape": list(images.shape),
                    "datatype": self._dtype,
                }
            ]
        }
        if self._select or (self._binary_answers and self._output):
            output: dict[str, Any] = {"name": self._output}
            if self._binary_answers:
                output["parameters"] = {"binary_data": True}
            request["outputs"] = [output]
        if self._binary or self._binary_answers:
            # An answer is small and stays JSON where it can be.
            request["parameters"] = {"binary_data_output": self._binary_answers}
        tensor = request["inputs"][0]
        if not self._binary:
            tensor["data"] = tensors.as_listed(images, self._dtype).ravel()
            body = orjson.dumps(request, option=orjson.OPT_SERIALIZE_NUMPY)
            return body, {"Content-Type": "application/json"}
        values = tensors.as_sent(images, self._dtype)
        tensor["parameters"] = {"binary_data_size": values.nbytes}
        head = orjson.dumps(request)
        return head + values.tobytes(), {
            "Content-Type": "application/octet-stream",
            _LENGTH: str(len(head)),
        }

    def _read_answer(self, answer: dict[str, Any], rest: bytes) -> np.ndarray:
        name = answer.get("model_name") or self._model
        version = answer.get("model_version")
        version = "" if version is None else str(version)
        # It is optional.  Where only answers tell it, the first one counts; where
        # several are served, it tells which of them is the default.
        served = version if version in self._others else self._served or version
        if name != self._model or version not in ("", served):
            said = f"answers of another model ({name} {version}) than {self._model} "
            raise ValueError(one_line(said + served, self._secrets))
        if not answer.get("outputs") and (text := words(answer)):
            text = one_line(text, self._secrets)
            raise ValueError(f"an answer without outputs: {text}")
        found = tensors.received(answer.get("outputs") or (), rest)
        values = found[self._which(found)][1]
        if version in self._others:
            self._version = version
        self._served, self._others = served, ()
        return values

    def _which(self, found: list[tuple[str, np.ndarray]]) -> int:
        names = [name for name, _ in found]
        if self._output in names:
            return names.index(self._output)
        if len(found) == 1 and not self._output_name:
            return 0
        told = [
            metadata.TensorInfo(
                name,
                "BYTES" if values.dtype.kind == "U" else "",
                values.shape if values.ndim > 1 or not self._batched else (1,),
            )
            for name, values in found
        ]
        try:
            return metadata.chosen(told, self.spec, self._output_name)
        except ValueError as error:
            raise ValueError(f"an answer that {error}") from None

    async def _request(
        self, method: str, url: str, **kwargs: Any
    ) -> tuple[dict[str, Any], bytes]:
        """JSON of an answer, and the bytes behind it."""
        import aiohttp

        try:
            # A redirect could carry the token to another host.
            async with self._session.request(
                method, url, allow_redirects=False, proxy=self._proxy, **kwargs
            ) as response:
                body = await response.read()
                status, kind = response.status, response.content_type
                headers = response.headers
        except aiohttp.ClientProxyConnectionError as error:
            raise EndpointError(
                f"the proxy {error.host}:{error.port} of its environment variable "
                f"cannot be reached ({error.os_error})",
                billed=False,
            ) from None
        except aiohttp.ClientHttpProxyError as error:
            said = one_line(f"{error.status} {error.message}", self._secrets)
            raise EndpointError(
                f"the proxy of its environment variable refuses it (status {said})",
                billed=False,
                retry=error.status >= 500,
            ) from None
        except aiohttp.ClientConnectorError as error:
            why = getattr(error, "os_error", error)
            raise EndpointError(f"cannot be reached ({why})", billed=False) from None
        except TimeoutError:
            why = f"no answer within {self._timeout:g} s"
            raise EndpointError(why, billed=True) from None
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):
            raise InputError(
                f"endpoint {self.spec.name}: its url, or the one of its proxy, is "
                "none; correct it"
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            why = f"the connection broke ({type(error).__name__})"
            raise EndpointError(why, billed=True) from None
        if status != 200:
            raise failure(status, url, headers, body, self._secrets)
        return _parse(body, kind, headers.get(_LENGTH))


def _parse(body: bytes, kind: str, length: str | None) -> tuple[dict[str, Any], bytes]:
    import orjson

    try:
        head = len(body) if length is None else int(length)
    except ValueError:
        head = len(body)
    body, rest = body[:head], body[head:]
    try:
        found = orjson.loads(body)
    except ValueError:
        try:
            found = json.loads(body)  # Python's own servers write NaN.
        except (ValueError, RecursionError):
            found = None
    if not isinstance(found, dict):
        start = one_line(body[:40].decode(errors="replace"))
        raise ValueError(f"no JSON but a page ({kind}: {start!r} ...)")
    return found, rest
