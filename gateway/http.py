"""The gateway's own HTTP surface: health, readiness, metrics, sessions."""

from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.typedefs import Handler

from fastagent.connectors import trust
from fastagent.gateway.errors import error_response

if TYPE_CHECKING:
    from fastagent.gateway.app import Gateway


@web.middleware
async def refuse_encodings(request: web.Request, handler: Handler) -> web.StreamResponse:
    """No request may come compressed: a small body must not become a large one."""
    if request.headers.get("Content-Encoding", "identity") != "identity":
        return error_response("invalid_request", "content encodings are not accepted", status=415)
    return await handler(request)


class HttpSurface:
    """The handlers."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway

    def routes(self) -> list[web.RouteDef]:
        """What to mount."""
        return [
            web.get("/health", self._health),
            web.get("/livez", self._livez),
            web.get("/readyz", self._readyz),
            web.get("/metrics", self._metrics),
            web.get("/sessions", self._sessions),
            web.get("/sessions/{session_id}", self._session),
        ]

    async def _health(self, request: web.Request) -> web.Response:
        status = self._gateway.status()
        return web.json_response(self._gateway.health(), status=200 if status == "healthy" else 503)

    async def _livez(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def _readyz(self, request: web.Request) -> web.Response:
        status = self._gateway.status()
        return web.json_response({"status": status}, status=200 if status == "healthy" else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(
            body=self._gateway.metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def _sessions(self, request: web.Request) -> web.Response:
        if not trust.is_loopback(request):
            return self._refused()
        sessions = self._gateway.sessions
        active = sessions.active()
        call_id = request.query.get("call_id")
        if call_id:  # one call, also when it has ended
            found = [record for record in sessions.records() if record.call.call_id == call_id]
            return web.json_response({"sessions": [one.summary() for one in found], "total_count": len(found)})
        body = {"active_sessions": [one.summary() for one in active[:100]], "total_count": len(active)}
        return web.json_response(body)

    async def _session(self, request: web.Request) -> web.Response:
        if not trust.is_loopback(request):
            return self._refused()
        record = self._gateway.sessions.find(request.match_info["session_id"])
        if record is None:
            return error_response("session_not_found", "There is no such session")
        return web.json_response(record.details())

    def _refused(self) -> web.Response:
        """Without keys, which come with a later release, sessions are shown to loopback only."""
        self._gateway.auth_failed("rest")
        response = error_response("authentication_failed", "Sessions are shown to local requests only")
        response.headers["WWW-Authenticate"] = "Bearer"
        return response
