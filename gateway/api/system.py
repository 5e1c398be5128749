"""The gateway itself over HTTP: health, readiness, metrics, and the description of its own API."""

import json
from functools import cached_property
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from aiohttp import web
from jinja2 import Environment, select_autoescape

from fastagent.gateway.api import models
from fastagent.gateway.api.openapi import SERVER_MESSAGES, asyncapi, openapi
from fastagent.gateway.api.operations import Answer, Call, Operation
from fastagent.gateway.auth import ApiKeys
from fastagent.gateway.errors import error_response
from fastagent.gateway.settings import secret

if TYPE_CHECKING:
    from fastagent.gateway.app import Gateway

_CSP = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"


class SystemApi:
    """The handlers."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        token = secret(gateway.settings.metrics_token)
        self._metrics_keys = None if token is None else ApiKeys([token], "auto")
        self.table: list[Operation] = []
        """All operations of the gateway, to be described."""

    def operations(self) -> list[Operation]:
        """The table."""
        m = models
        alive: dict[int, Any] = {200: m.Health, 503: m.Health}
        lives: dict[int, Any] = {200: m.Status}
        ready: dict[int, Any] = {200: m.Status, 503: m.Status}
        return [
            Operation("GET", "/health", "health", "How the gateway does", self._health, "system", alive, secured=False),
            Operation("GET", "/livez", "livez", "The process lives", self._livez, "system", lives, secured=False),
            Operation("GET", "/readyz", "readyz", "Calls are taken", self._readyz, "system", ready, secured=False),
            Operation(
                "GET", "/metrics", "metrics", "Prometheus metrics; with FASTAGENT_METRICS_TOKEN they need it",
                self._metrics, "system", {200: ("text/plain",)}, secured=False, errors=("authentication_failed",),
            ),
            Operation(
                "GET", "/openapi.json", "openapi", "This description", self._openapi, "system",
                {200: ("application/json",)}, secured=False,
            ),
            Operation(
                "GET", "/asyncapi.json", "asyncapi", "The description of the WebSocket", self._asyncapi, "system",
                {200: ("application/json",)}, secured=False,
            ),
            Operation(
                "GET", "/docs", "docs", "Both, to read", self._docs, "system", {200: ("text/html",)}, secured=False
            ),
        ]  # fmt: skip

    async def _health(self, call: Call) -> Answer:
        health = self._gateway.health()
        return Answer(health, 200 if health.status in ("healthy", "degraded") else 503)

    async def _livez(self, call: Call) -> Answer:
        return Answer(models.Status(status="alive"))

    async def _readyz(self, call: Call) -> Answer:
        status = self._gateway.status()
        return Answer(models.Status(status=status), 200 if status in ("healthy", "degraded") else 503)

    async def _metrics(self, call: Call) -> web.StreamResponse:
        if self._metrics_keys is not None and self._metrics_keys.principal(call.request) is None:
            self._gateway.auth_failed("metrics")
            response = error_response("authentication_failed", "The metrics need their token")
            response.headers["WWW-Authenticate"] = "Bearer"
            return response
        return web.Response(
            body=self._gateway.metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    @cached_property
    def _described(self) -> dict[str, Any]:
        return openapi(self.table, self._gateway.version)

    # Made once: whoever may read them without a key shall not make us work.

    @cached_property
    def _openapi_text(self) -> str:
        return json.dumps(self._described)

    @cached_property
    def _asyncapi_text(self) -> str:
        return json.dumps(asyncapi(self._gateway.version))

    async def _openapi(self, call: Call) -> web.StreamResponse:
        return web.json_response(text=self._openapi_text)

    async def _asyncapi(self, call: Call) -> web.StreamResponse:
        return web.json_response(text=self._asyncapi_text)

    async def _docs(self, call: Call) -> web.StreamResponse:
        return web.Response(text=self._page, content_type="text/html", headers={"Content-Security-Policy": _CSP})

    @cached_property
    def _page(self) -> str:
        text = (files("fastagent.gateway.api") / "docs.html").read_text()
        page = Environment(autoescape=select_autoescape(default=True)).from_string(text)
        described = self._described
        return page.render(
            version=self._gateway.version,
            paths=described["paths"],
            schemas=described["components"]["schemas"],
            messages=SERVER_MESSAGES,
            client=asyncapi(self._gateway.version)["components"]["messages"],
            pretty=lambda value: json.dumps(value, indent=2),
        )
