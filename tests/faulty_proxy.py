"""A proxy that stands before a real inference server and misbehaves as told."""

import asyncio
import socket
import threading

import aiohttp
from aiohttp import web


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Proxy:
    """Passes requests on to `target`, but for those that `fault` spoils.

    ``fault(number, request)`` sees the number of each inference request; it returns
    None (pass on), an `aiohttp.web.Response`, seconds to wait before passing on, "drop"
    to break the connection, or a function of the server's JSON answer.
    """

    def __init__(self, target: str):
        self.target, self.port = target, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.fault = lambda number, request: None
        self.requests, self.tokens, self.bodies = 0, set(), []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._run(self._start())

    def reset(self):
        self.fault = lambda number, request: None
        self.requests, self.tokens, self.bodies = 0, set(), []

    def close(self):
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _start(self):
        # The server closes idle connections after 5 s.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(keepalive_timeout=2.0)
        )
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def _stop(self):
        await self._session.close()
        await self._runner.cleanup()

    async def _handle(self, request):
        body = await request.read()
        self.tokens.add(request.headers.get("Authorization"))
        fault = None
        if request.path.endswith("/infer"):
            self.requests += 1
            self.bodies.append((request.path, body))
            fault = self.fault(self.requests, request)
        if isinstance(fault, web.Response):
            return fault
        if fault == "drop":
            request.transport.close()
            return web.Response()
        if isinstance(fault, (int, float)):
            await asyncio.sleep(fault)
        async with self._session.request(
            request.method,
            self.target + request.path,
            data=body,
            headers={"Content-Type": request.content_type},
        ) as answer:
            content = await answer.read()
            if callable(fault):
                return web.json_response(fault(await answer.json()))
            return web.Response(
                body=content, status=answer.status, content_type=answer.content_type
            )
