"""The AudioCodes connector: one URL for the validation, the chat mode and the streaming mode of the Bot API.

Nothing is read before the request was let in: a token that is missing or wrong gets 401, on an upgrade before it.
"""

from urllib.parse import urlsplit

from aiohttp import web

from fastagent.connectors.audiocodes.auth import AccessTokens, Door, Verdict
from fastagent.connectors.audiocodes.chat_http import ChatShell
from fastagent.connectors.audiocodes.config import PATH, SURFACE, AudiocodesConfig
from fastagent.connectors.audiocodes.streams import StreamShell
from fastagent.connectors.host import LegHost

VALIDATION = {"type": "ac-bot-api", "success": True}
"""What the portal's check of a bot's connection wants to see, to the letter."""


class AudiocodesConnection:
    """All AudioCodes conversations of a gateway."""

    name = SURFACE

    def __init__(self, config: AudiocodesConfig, host: LegHost) -> None:
        self._config, self._host = config, host
        self._path = (urlsplit(config.webhook_url).path or PATH).rstrip("/") or PATH
        tokens = AccessTokens(config.oauth) if config.oauth else None
        self._door = Door(config.api_key, tokens, lambda request: host.authorize(request, SURFACE) is not None)
        self._streams = StreamShell(config, host)
        self._chats = ChatShell(config, host, self._path)

    def routes(self) -> list[web.RouteDef]:
        """What to mount; the URL with a slash at its end, too, as people configure it."""
        webhooks = [web.route("*", path, self._webhook) for path in (self._path, f"{self._path}/")]
        return [*webhooks, *self._chats.routes(self.refusal)]

    async def aclose(self) -> None:
        """Release what the connector holds; its sessions are over by now."""
        await self._streams.aclose()
        await self._chats.aclose()
        await self._door.aclose()

    async def refusal(self, request: web.Request) -> web.Response | None:
        """Return what a request that is not let in is told; None for one that is."""
        verdict = await self._door.admits(request)
        if verdict is Verdict.ADMITTED:
            return None
        if verdict is Verdict.UNAVAILABLE:
            self._host.protocol_error(SURFACE, "authorization_server")
            return web.json_response({"error": "tokens cannot be checked"}, status=503, headers={"Retry-After": "5"})
        if self._config.api_key or self._config.oauth:  # else whoever was asked has counted it
            self._host.auth_failed(SURFACE)
        return web.json_response({"error": "unauthorized"}, status=401, headers={"WWW-Authenticate": "Bearer"})

    async def _webhook(self, request: web.Request) -> web.StreamResponse:
        refusal = await self.refusal(request)
        if refusal is not None:
            return refusal
        if request.method == "GET":
            if request.headers.get("Upgrade", "").lower() == "websocket":
                return await self._streams.serve(request)
            return web.json_response(VALIDATION)
        if request.method == "POST":
            return await self._chats.create(request, VALIDATION)
        return web.Response(status=405, headers={"Allow": "GET, POST"})
