"""The gateway's own HTTP surface: every operation behind its key, its rate limit, and one shape of errors."""

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.typedefs import Handler

from fastagent.connectors.transports import abort
from fastagent.gateway.api.agents import AgentsApi
from fastagent.gateway.api.calls import CallsApi
from fastagent.gateway.api.operations import Operation, perform
from fastagent.gateway.api.sessions import SessionsApi
from fastagent.gateway.api.system import SystemApi
from fastagent.gateway.errors import error_response
from fastagent.gateway.rate_limit import RateLimit

if TYPE_CHECKING:
    from fastagent.gateway.app import Gateway

_log = logging.getLogger(__name__)

_MAX_HEAD = 16 * 1024
_HEAD_S = 10.0  # for a request's head to arrive


class _Connection(web.RequestHandler):
    """aiohttp's connection, which answers what is no HTTP in our shape, and does not wait for heads for ever."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._head_timer is None and self._current_request is None and not self._messages:
            self._expect_head()
        before = self._request_count
        super().data_received(data)
        if self._request_count > before:
            self._stop_timer()

    def _expect_head(self) -> None:
        assert self.transport is not None  # uvloop's are no asyncio.Transport
        self._head_timer = asyncio.get_running_loop().call_later(_HEAD_S, abort, self.transport)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        if status >= 500:
            super().handle_error(request, status, exc, message)  # logs, and raises if an answer is on its way
            response = error_response("internal_error", "The gateway has failed")
        else:  # neither its bytes nor a stack: whoever sends them would fill the log
            _log.info("a malformed request", extra={"error": type(exc).__name__})
            large = isinstance(exc, LineTooLong) or "oo many headers" in str(exc)
            reason = "the request's head is too large" if large else "this is no HTTP/1.1 request"
            response = error_response("invalid_request", reason, status=431 if large else 400)
        response.force_close()
        return response


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Serves an application over such connections."""

    def __init__(self, app: web.Application) -> None:
        super().__init__(app, access_log=None, handle_signals=False, shutdown_timeout=5.0, auto_decompress=False)

    async def _make_server(self) -> Any:
        server = await super()._make_server()
        server.__class__ = _Server  # the one place where aiohttp lets nobody choose
        return server


@web.middleware
async def one_shape(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Whatever goes wrong has the documented shape. No request may come compressed: a small body must not become a
    large one."""
    if sum(len(name) + len(value) + 4 for name, value in request.raw_headers) + len(request.path_qs) > _MAX_HEAD:
        return error_response("invalid_request", "the request's head is too large", status=431)
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        return error_response("invalid_request", "content encodings are not accepted", status=415)
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        code = "invalid_request" if error.status < 500 else "internal_error"
        response = error_response(code, error.reason, status=error.status)
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response
    except (web.RequestPayloadError, ConnectionError):  # the client broke off, or framed its body wrongly
        return error_response("invalid_request", "the body is broken")
    except TimeoutError:
        return error_response("timeout", "It took too long")
    except Exception:
        _log.exception(
            "a request failed", extra={"path": request.match_info.route.name or "", "method": request.method}
        )
        return error_response("internal_error", "The gateway has failed")


class HttpSurface:
    """All operations."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self._limit = RateLimit(gateway.settings.rest_rate)
        system = SystemApi(gateway)
        apis = (AgentsApi(gateway), SessionsApi(gateway), CallsApi(gateway), system)
        self.table = [operation for api in apis for operation in api.operations()]
        system.table = self.table

    def routes(self) -> list[web.RouteDef]:
        """What to mount."""
        return [
            web.route(one.method, one.path, self._guarded(one), expect_handler=self._expected) for one in self.table
        ]

    async def _expected(self, request: web.Request) -> web.StreamResponse | None:
        """Ask for a body that waits to be asked for, but only from those who may send one."""
        if request.headers.get("Expect", "").lower() != "100-continue":
            return error_response("invalid_request", "only 100-continue can be expected", status=417)
        if self._gateway.keys.principal(request) is not None:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # it was no answer yet
        return None

    def _guarded(self, operation: Operation) -> Handler:
        """Authenticate first, parse after."""

        async def handle(request: web.Request) -> web.StreamResponse:
            principal = ""
            if operation.secured:
                known = self._gateway.authorize(request, "rest")
                if known is None:
                    response = error_response("authentication_failed", "A valid API key is needed")
                    response.headers["WWW-Authenticate"] = "Bearer"
                    return response
                principal = known
                if not self._limit.admits(principal):
                    response = error_response("rate_limited", "Too many requests")
                    response.headers["Retry-After"] = str(self._limit.wait_s(principal))
                    return response
            async with asyncio.timeout(self._gateway.settings.default_timeout_seconds):
                return await perform(operation, request, principal)

        return handle
