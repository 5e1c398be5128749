"""The shell of the chat mode: VoiceAI Connect's requests, and the WebSocket that it may open beside them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import msgspec
from aiohttp import WSMsgType, web

from fastagent.connectors.audiocodes import messages
from fastagent.connectors.audiocodes.chat import ChatLeg
from fastagent.connectors.audiocodes.config import SURFACE, AudiocodesConfig, called, session_id
from fastagent.connectors.audiocodes.protocol import CONVERSATION
from fastagent.connectors.host import LegHost, Recalled, Release
from fastagent.connectors.json_depth import too_deep
from fastagent.connectors.leg import CallInfo, HangupReason
from fastagent.media.frame import PCMU_8K

_log = logging.getLogger(__name__)

_MAX_MESSAGE = 1 << 20

Refusal = Callable[[web.Request], Awaitable[web.Response | None]]
Form = TypeVar("Form")


@dataclass(slots=True)
class _Live:
    """A conversation of ours."""

    leg: ChatLeg
    release: Release
    bot_name: str
    hint: str
    recalled: Recalled | None = None
    agent_id: str | None = None


class ChatShell:
    """All chat conversations of a gateway.

    Args:
        path: of the webhook; the other paths are beside it.
    """

    def __init__(self, config: AudiocodesConfig, host: LegHost, path: str) -> None:
        self._config, self._host = config, host
        self._folder = path.rpartition("/")[0]
        parts = urlsplit(config.webhook_url)
        origin = f"{parts.scheme}://{parts.netloc}" if parts.netloc else (config.public_base_url or "")
        self._origin = origin.rstrip("/").replace("wss://", "https://").replace("ws://", "http://")
        self._live: dict[str, _Live] = {}
        self._sessions: set[asyncio.Task[None]] = set()

    def routes(self, refusal: Refusal) -> list[web.RouteDef]:
        """What to mount."""
        table: dict[str, Callable[[web.Request, str], Awaitable[web.StreamResponse]]] = {
            "activities": self._activities,
            "refresh": self._refresh,
            "disconnect": self._disconnect,
            "websocket": self._channel,
        }

        async def handle(request: web.Request) -> web.StreamResponse:
            refused = await refusal(request)
            if refused is not None:
                return refused
            what = table[request.match_info["what"]]
            if request.method != ("GET" if what == self._channel else "POST"):
                return web.Response(status=405)
            return await what(request, request.match_info["conversation"])

        return [web.route("*", f"{self._folder}/conversation/{{conversation}}/{{what:{'|'.join(table)}}}", handle)]

    async def aclose(self) -> None:
        """Release everything; the sessions are over by now."""
        for task in tuple(self._sessions):
            task.cancel()
        await asyncio.gather(*self._sessions, return_exceptions=True)

    # -- create ----------------------------------------------------------------------------------------------------

    async def create(self, request: web.Request, validation: Mapping[str, Any]) -> web.Response:
        """Begin a conversation, or say again where it is. A check is answered as by GET."""
        asked = await _read(request, messages.decode_create)
        if asked is None or not CONVERSATION.fullmatch(asked.conversation):
            if await _is_check(request):
                return web.json_response(dict(validation))
            self._host.protocol_error(SURFACE, "create")
            return web.json_response({"error": "a conversation is needed"}, status=400)
        if asked.conversation not in self._live:
            release = self._host.reserve(SURFACE)
            if release is None:
                return web.json_response({"error": "no capacity"}, status=503, headers={"Retry-After": "5"})
            leg = self._leg(asked.conversation, {})
            hint = request.query.get("agent_id", "")
            self._keep(_Live(leg, release, asked.bot[:64], hint))
        self._live[asked.conversation].leg.touch()
        return web.json_response(self._places(request, asked))

    def _places(self, request: web.Request, asked: messages.Create) -> dict[str, Any]:
        """Absolute where we know under which name we are called, since a slash at the end changes relative ones."""
        above = ".." if request.path.endswith("/") else "."
        folder = f"{self._origin}{self._folder}" if self._origin else above
        base = f"{folder}/conversation/{quote(asked.conversation, safe='')}".removeprefix("./")
        places: dict[str, Any] = {f"{name}URL": f"{base}/{name}" for name in ("activities", "refresh", "disconnect")}
        if self._config.asynchronous and "websocket" in asked.capabilities:
            places["websocketURL"] = f"ws{base.removeprefix('http')}/websocket" if self._origin else f"{base}/websocket"
        return {**places, "expiresSeconds": self._config.expires_s}

    def _leg(self, conversation: str, known: Mapping[str, str]) -> ChatLeg:
        session = session_id(conversation)
        info = CallInfo(
            provider=SURFACE,
            call_id=conversation,
            stream_id=conversation,
            from_=known.get("from", ""),
            to=known.get("to", ""),
            direction="inbound",
            audio=PCMU_8K,
            session_id=None if self._host.is_live(session) else session,
            voice=False,
            private={"mode": "chat", "conversation": conversation, **known},
        )
        config = self._config
        return ChatLeg(info, config.leg, self._begin, expires_s=config.expires_s, answer_s=config.answer_s)

    def _begin(self, leg: ChatLeg, parameters: Mapping[str, str]) -> None:
        live = self._live.get(leg.info.call_id)
        if live is None or live.leg is not leg:
            return
        if live.recalled is not None:
            live.agent_id = live.recalled.agent_id
            return
        metadata = {**parameters, **({"botName": live.bot_name} if live.bot_name else {})}
        leg.called(parameters.get("caller", ""), parameters.get("callee", ""), metadata)
        leg.tell(leg.write.config(self._config.asked(voice=False)))
        named = live.hint if live.hint and self._host.has_agent(live.hint) else None
        registered = self._config.agent_for(called(parameters, live.bot_name))
        live.agent_id = named or registered or self._host.default_agent

    # -- a conversation --------------------------------------------------------------------------------------------

    async def _activities(self, request: web.Request, conversation: str) -> web.Response:
        asked = await _read(request, messages.decode_talk)
        if asked is None or asked.conversation not in ("", conversation):
            return self._malformed()
        leg = await self._find(conversation)
        if leg is None:
            return _unknown()
        leg.touch()
        try:
            said = await leg.answer(asked.activities)
        finally:
            leg.touch()
            for kind, count in leg.reader.dropped.items():
                self._host.protocol_error(SURFACE, kind, count)
            leg.reader.dropped.clear()
        return web.json_response({"activities": said} if said else {})

    async def _refresh(self, request: web.Request, conversation: str) -> web.Response:
        if await _read(request, messages.decode_disconnect) is None:
            return self._malformed()
        leg = await self._find(conversation)
        if leg is None:
            return _unknown()
        leg.touch()
        return web.json_response({"expiresSeconds": self._config.expires_s})

    async def _disconnect(self, request: web.Request, conversation: str) -> web.Response:
        asked = await _read(request, messages.decode_disconnect)
        if asked is None:
            return self._malformed()
        live = self._live.get(conversation)
        if live is None:
            return _unknown()
        code = asked.reason_code[:64]
        _log.info("AudioCodes ended the call", extra={"call_id": conversation, "reason_code": code})
        live.leg.ended(code)
        return web.json_response({})

    async def _channel(self, request: web.Request, conversation: str) -> web.StreamResponse:
        """The asynchronous channel: we speak, VoiceAI Connect listens."""
        leg = await self._find(conversation) if self._config.asynchronous else None
        if leg is None:
            return _unknown()
        socket = web.WebSocketResponse(compress=False, max_msg_size=_MAX_MESSAGE, heartbeat=self._config.ping_s)
        if not socket.can_prepare(request).ok:
            return web.Response(status=426, headers={"Upgrade": "websocket"})
        await socket.prepare(request)
        channel = leg.connect(socket.send_str)
        closing = asyncio.create_task(self._close_with(leg, socket))
        try:
            while (await socket.receive()).type in (WSMsgType.TEXT, WSMsgType.BINARY):
                pass  # nothing is expected
        finally:
            leg.disconnect(channel)
            closing.cancel()
            await asyncio.gather(closing, return_exceptions=True)
            await channel.aclose()
        return socket

    @staticmethod
    async def _close_with(leg: ChatLeg, socket: web.WebSocketResponse) -> None:
        await leg.gone.wait()
        await socket.close(drain=False)

    def _malformed(self) -> web.Response:
        self._host.protocol_error(SURFACE, "malformed")
        return web.json_response({"error": "the request cannot be read"}, status=400)

    async def _find(self, conversation: str) -> ChatLeg | None:
        """Return a conversation; one that this node does not have may be in the store."""
        live = self._live.get(conversation)
        if live is not None:
            return None if live.leg.over else live.leg
        if not CONVERSATION.fullmatch(conversation):
            return None
        recalled = await self._host.recall(session_id(conversation))
        known = recalled.private if recalled else {}
        if recalled is None or known.get("mode") != "chat" or known.get("conversation") != conversation:
            self._host.protocol_error(SURFACE, "conversation_not_found")
            return None
        if conversation in self._live:  # two requests at once
            return self._live[conversation].leg
        release = self._host.reserve(SURFACE)
        if release is None:
            return None
        leg = self._leg(conversation, known)
        self._keep(_Live(leg, release, "", "", recalled))
        return leg

    def _keep(self, live: _Live) -> None:
        self._live[live.leg.info.call_id] = live
        task = asyncio.create_task(self._live_it(live), name="audiocodes-chat")
        self._sessions.add(task)
        task.add_done_callback(self._sessions.discard)

    async def _live_it(self, live: _Live) -> None:
        """From the first request to the end, if there is ever a session or not."""
        try:
            await live.leg.ready.wait()
            if live.agent_id is not None:
                await self._host.converse(live.leg, live.agent_id, recalled=live.recalled)
        finally:
            await self._drop(live.leg)

    async def _drop(self, leg: ChatLeg) -> None:
        live = self._live.get(leg.info.call_id)
        if live is not None and live.leg is leg:
            del self._live[leg.info.call_id]
            live.release()
        await leg.aclose(HangupReason.INTERNAL_ERROR)


async def _read(request: web.Request, decode: Callable[[str], Form]) -> Form | None:
    """Return a request's body; None where it cannot be read."""
    try:
        text = (await request.read()).decode()
        return None if too_deep(text) else decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


async def _is_check(request: web.Request) -> bool:
    """Whether a POST is what VoiceAI Connect would send over a WebSocket to check the connection."""
    try:
        body = msgspec.json.decode(await request.read())
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    return isinstance(body, dict) and body.get("type") in ("connection.validate", "ac-bot-api")


def _unknown() -> web.Response:
    return web.json_response({"error": "there is no such conversation"}, status=404)
