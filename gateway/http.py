"""The gateway's own HTTP surface: every operation behind its key, its rate limit, and one shape of errors."""

import asyncio
import logging
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.typedefs import Handler

from fastagent.gateway.api.agents import AgentsApi
from fastagent.gateway.api.operations import Operation, perform
from fastagent.gateway.api.sessions import SessionsApi
from fastagent.gateway.api.system import SystemApi
from fastagent.gateway.errors import error_response
from fastagent.gateway.rate_limit import RateLimit

if TYPE_CHECKING:
    from fastagent.gateway.app import Gateway

_log = logging.getLogger(__name__)

_CODES = {400: "invalid_request", 404: "session_not_found", 405: "invalid_request", 413: "invalid_request"}


@web.middleware
async def one_shape(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Whatever goes wrong has the documented shape. No request may come compressed: a small body must not become a
    large one."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        return error_response("invalid_request", "content encodings are not accepted", status=415)
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        code = "invalid_request" if error.status == 404 else _CODES.get(error.status, "invalid_request")
        response = error_response(code, error.reason, status=error.status)
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response
    except asyncio.CancelledError:
        raise
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
        self.table = [*system.operations(), *AgentsApi(gateway).operations(), *SessionsApi(gateway).operations()]
        system.table = self.table

    def routes(self) -> list[web.RouteDef]:
        """What to mount."""
        return [web.route(one.method, one.path, self._guarded(one)) for one in self.table]

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
                    response.headers["Retry-After"] = "1"
                    return response
            async with asyncio.timeout(self._gateway.settings.default_timeout_seconds):
                return await perform(operation, request, principal)

        return handle
