"""The shell of the WebSocket API: the handshake with its key, the reader, pings, and sessions that outlive a socket."""

import asyncio
import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import WebSocketError, WSCloseCode, WSMsgType, web

from fastagent.connectors.host import LegHost, Recalled
from fastagent.connectors.leg import CallInfo, HangupReason, LegEnded
from fastagent.connectors.line import Line
from fastagent.connectors.websocket.leg import HOLD_S, SocketLeg
from fastagent.connectors.websocket.protocol import (
    AudioReceived,
    EndRequested,
    Event,
    Played,
    Refused,
    SocketProtocol,
    StartRequested,
)
from fastagent.media.frame import AudioFormat

_log = logging.getLogger(__name__)

_SURFACE = "websocket"
_MAX_MESSAGE = 1 << 20
_BEFORE_START_S = 30.0
_AFTER_END_S = 2.0
_MISSED_PONGS = 2
_BURST_S = 10.0
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_HANGS_UP = frozenset({WSCloseCode.OK, 0, 1005})  # 0 and 1005: a close without a code
_ANSWER_S = 0.8  # for a client to confirm our close
_BUSY = 16  # messages of one client, in a row, before the others have their turn

ErrorResponse = Callable[[str, str, object], web.Response]


@dataclass(slots=True)
class SocketConfig:
    """What the connector is told.

    Attributes:
        ping_interval_s: a client that answers neither of two pings is gone.
        hold_s: how long a lost client may take to come back.
        refuse_after_accept: accept a handshake with a wrong key, say so, and close with 4401: for browsers, which are
            not told of a refused handshake.
        error_response: how HTTP errors look.
    """

    error_response: ErrorResponse
    ping_interval_s: float = 5.0
    hold_s: float = HOLD_S
    refuse_after_accept: bool = False


@dataclass(slots=True)
class _Live:
    """A session whose client may come back."""

    leg: SocketLeg
    owner: str
    secret: str


class SocketConnection:
    """All API sockets of a gateway."""

    name = _SURFACE

    def __init__(self, config: SocketConfig, host: LegHost) -> None:
        self._config, self._host = config, host
        self._live: dict[str, _Live] = {}
        self._sessions: set[asyncio.Task[None]] = set()
        self._lines: set[Line] = set()

    def routes(self) -> list[web.RouteDef]:
        """What to mount."""
        return [web.get("/agent/ws", self._connect)]

    async def aclose(self) -> None:
        """Release what the connector holds; its sessions are over by now."""
        for line in tuple(self._lines):
            line.close(WSCloseCode.GOING_AWAY)
        for task in tuple(self._sessions):
            task.cancel()
        await asyncio.gather(*self._sessions, return_exceptions=True)

    # -- the handshake ---------------------------------------------------------------------------------------------

    async def _connect(self, request: web.Request) -> web.StreamResponse:
        owner = self._host.authorize(request, _SURFACE)
        if owner is None and not self._config.refuse_after_accept:
            response = self._config.error_response("authentication_failed", "A valid API key is needed", None)
            response.headers["WWW-Authenticate"] = "Bearer"
            return response
        asked = request.headers.get("X-Session-ID") or None
        if asked is not None and not _ID.fullmatch(asked):
            self._host.protocol_error(_SURFACE, "session_id")
            rule = "letters, digits, `_ . -`, 64 at most"
            return self._config.error_response("invalid_request", "X-Session-ID is no session id", rule)
        if owner is not None and not self._host.accepts_calls() and asked not in self._live:
            response = self._config.error_response("capacity_exceeded", "No sessions are taken right now", None)
            response.headers["Retry-After"] = "5"
            return response
        offered = [one.strip() for one in request.headers.get("Sec-WebSocket-Protocol", "").split(",") if one.strip()]
        socket = web.WebSocketResponse(
            compress=False,
            max_msg_size=_MAX_MESSAGE + 1,  # aiohttp wants less than this
            autoping=False,
            protocols=_chosen(offered),
            timeout=_ANSWER_S,
        )
        if not socket.can_prepare(request).ok:
            response = self._config.error_response("invalid_request", "this is a WebSocket: upgrade", None)
            response.headers["Upgrade"] = "websocket"
            response.set_status(426)
            return response
        await socket.prepare(request)
        line, protocol = Line(socket, request.transport), SocketProtocol(asked)
        if owner is None:
            await _send(
                socket, protocol.error(Refused("authentication_failed", "A valid API key is needed"), time.time())
            )
            line.close(4401)
            await line.leave()
            return socket
        await self._serve(line, protocol, owner)
        return socket

    # -- one socket ------------------------------------------------------------------------------------------------

    async def _serve(self, line: Line, protocol: SocketProtocol, owner: str) -> None:
        reader = _Reader(line, self._config.ping_interval_s)
        leg: SocketLeg | None = None
        self._lines.add(line)
        try:
            async with asyncio.timeout(_BEFORE_START_S) as line.reading:
                leg = await self._opening(line, protocol, reader, owner)
                if leg is not None:
                    line.read_on()
                    await self._read(reader, leg, line, protocol)
        except TimeoutError:
            if line.farewell is None:
                self._host.protocol_error(_SURFACE, "no_start")
                line.close(WSCloseCode.POLICY_VIOLATION, b"no start_session")
        finally:
            self._lines.discard(line)
            reader.close()
            if leg is not None:
                await self._lost(leg, line)
            await line.leave()
            for code, count in protocol.refused.items():
                self._host.protocol_error(_SURFACE, code, count)
            if protocol.dropped_chunks:
                self._host.protocol_error(_SURFACE, "late_chunk", protocol.dropped_chunks)
            if protocol.missing_chunks:
                self._host.protocol_error(_SURFACE, "missing_chunk", protocol.missing_chunks)

    async def _opening(self, line: Line, protocol: SocketProtocol, reader: "_Reader", owner: str) -> SocketLeg | None:
        """Read until a session begins; None when none does."""
        while (events := await reader.next(protocol)) is not None:
            for event in events:
                if isinstance(event, StartRequested):
                    leg = await self._begin(line, protocol, event, owner)
                    if leg is not None:
                        return leg
                elif isinstance(event, Refused):
                    await _send(line.socket, protocol.error(event, time.time()))
        return None

    async def _begin(
        self, line: Line, protocol: SocketProtocol, request: StartRequested, owner: str
    ) -> SocketLeg | None:
        try:
            if request.resume_secret is not None:
                return await self._resume(line, protocol, request, owner)
            if request.session_id is not None and (
                request.session_id in self._live or self._host.is_live(request.session_id)
            ):
                raise Refused("authentication_failed", "this session exists; its resume_secret is needed")
            return self._start(line, protocol, request, owner)
        except Refused as refused:
            protocol.refused[refused.code] += 1
            await _send(line.socket, protocol.error(refused, time.time()))
            if refused.code == "capacity_exceeded":
                line.close(WSCloseCode.TRY_AGAIN_LATER)
            return None

    def _start(
        self,
        line: Line,
        protocol: SocketProtocol,
        request: StartRequested,
        owner: str,
        recalled: Recalled | None = None,
    ) -> SocketLeg:
        agent_id = recalled.agent_id if recalled else request.agent_id or self._host.default_agent
        if not self._host.has_agent(agent_id):
            raise Refused("agent_not_found", f"There is no agent {agent_id!r}")
        release = self._host.reserve(self.name)
        if release is None:
            raise Refused("capacity_exceeded", "No sessions are taken right now")
        session_id = request.session_id or f"sess_{secrets.token_hex(16)}"
        secret = (request.resume_secret if recalled else None) or secrets.token_urlsafe(24)
        info = CallInfo(
            provider=self.name,
            call_id=session_id,
            stream_id=session_id,
            from_=request.metadata.get("caller_id", ""),
            to=request.metadata.get("called_id", ""),
            direction="inbound",
            audio=AudioFormat("L16", request.audio_in.rate_hz),
            playback=request.output.internal,
            metadata=request.metadata,
            burst_s=_BURST_S,
            session_id=session_id,
            private={"owner": _digest(owner), "secret": _digest(secret)},
        )
        try:
            leg = SocketLeg(line, protocol, request, info, resume_secret=secret, hold_s=self._config.hold_s)
        except BaseException:
            release()
            raise
        protocol.started(session_id, request)
        self._live[session_id] = _Live(leg, owner, secret)
        task = asyncio.create_task(self._converse(leg, agent_id, release, recalled), name="websocket-session")
        self._sessions.add(task)
        task.add_done_callback(self._sessions.discard)
        return leg

    async def _resume(self, line: Line, protocol: SocketProtocol, request: StartRequested, owner: str) -> SocketLeg:
        session_id, secret = request.session_id, request.resume_secret or ""
        if session_id is None:
            raise Refused("invalid_request", "resume_secret without a session id", "X-Session-ID or payload.session_id")
        live = self._live.get(session_id)
        if live is None:
            return await self._recall(line, protocol, request, owner, session_id, secret)
        if live.owner != owner or not hmac.compare_digest(live.secret.encode(), secret.encode()):
            self._host.auth_failed("websocket_resume")
            raise Refused("authentication_failed", "the resume_secret is wrong")
        if live.leg.over:
            raise Refused("session_not_found", "the session has ended")
        if request.output.internal != live.leg.info.output:
            raise Refused("invalid_request", "a session goes on with the audio output that it began with")
        request.audio_in.rate_hz = live.leg.info.audio.rate_hz
        protocol.started(session_id, request)
        line.read_on()
        await live.leg.take_up(line, protocol, request)
        self._host.resumed("connection")
        return live.leg

    async def _recall(
        self,
        line: Line,
        protocol: SocketProtocol,
        request: StartRequested,
        owner: str,
        session_id: str,
        secret: str,
    ) -> SocketLeg:
        """The session is not here: perhaps the store knows it, from before a restart or from another node."""
        recalled = await self._host.recall(session_id)
        if session_id in self._live:  # another connection was quicker
            return await self._resume(line, protocol, request, owner)
        if recalled is None or self._host.is_live(session_id):
            raise Refused("session_not_found", "there is no such session to resume")
        known = recalled.private
        if not (
            hmac.compare_digest(known.get("owner", ""), _digest(owner))
            and hmac.compare_digest(known.get("secret", ""), _digest(secret))
        ):
            self._host.auth_failed("websocket_resume")
            raise Refused("authentication_failed", "the resume_secret is wrong")
        return self._start(line, protocol, request, owner, recalled)

    async def _converse(
        self, leg: SocketLeg, agent_id: str, release: Callable[[], None], recalled: Recalled | None
    ) -> None:
        session_id = leg.info.call_id
        try:
            await self._host.converse(leg, agent_id, recalled=recalled)
        finally:
            release()
            live = self._live.get(session_id)
            if live is not None and live.leg is leg:
                del self._live[session_id]
            reason = leg.ended_reason or HangupReason.INTERNAL_ERROR
            try:
                if leg.connected and reason is HangupReason.CALLER_HUNG_UP:
                    async with asyncio.timeout(_AFTER_END_S):  # the client closes, or asks after the dead
                        await leg.gone.wait()
            except TimeoutError:
                pass
            finally:
                await leg.aclose(reason)

    async def _read(self, reader: "_Reader", leg: SocketLeg, line: Line, protocol: SocketProtocol) -> None:
        while (events := await reader.next(protocol)) is not None and leg.on(line):
            for event in events:
                self._happened(leg, event)

    @staticmethod
    def _happened(leg: SocketLeg, event: Event) -> None:
        match event:
            case AudioReceived(payload):
                leg.audio_received(payload)
            case Refused():
                leg.refuse(event)
            case Played(utterance_id, played_ms):
                leg.played(utterance_id, played_ms)
            case EndRequested(reason):
                leg.caller_ends(reason)
            case StartRequested():
                pass  # the core admits one
            case _:
                leg.happened(event)

    async def _lost(self, leg: SocketLeg, line: Line) -> None:
        """The socket is over; without a goodbye the session waits for the client to come back."""
        code = line.socket.close_code
        if not leg.on(line):
            return
        if code in _HANGS_UP:
            leg.happened(LegEnded(HangupReason.CALLER_HUNG_UP))
        elif line.broken:
            leg.happened(LegEnded(HangupReason.PROTOCOL_ERROR))
        else:
            await leg.lose(line)
        if leg.over:
            leg.gone.set()


class _Reader:
    """The one reader of a socket, and its pings."""

    def __init__(self, line: Line, ping_interval_s: float) -> None:
        self._line, self._interval_s = line, ping_interval_s
        self._unanswered = self._messages = 0
        self._pinging = asyncio.create_task(self._ping(), name="websocket-ping")

    async def next(self, protocol: SocketProtocol) -> list[Event] | None:
        """Return the events of the next message; None when the socket is closed."""
        socket = self._line.socket
        while True:
            message = await socket.receive()
            self._unanswered = 0
            self._messages += 1
            if self._messages % _BUSY == 0:  # a message that is here already is not waited for
                await asyncio.sleep(0)
            if message.type is WSMsgType.TEXT:
                return protocol.receive(message.data)
            if message.type is WSMsgType.BINARY:
                return protocol.receive_binary(message.data)
            if message.type is WSMsgType.PING:
                await socket.pong(message.data)
            elif message.type is WSMsgType.ERROR:
                self._line.broken = isinstance(message.data, WebSocketError)
                return None
            elif message.type is not WSMsgType.PONG:
                return None

    async def _ping(self) -> None:
        """Whatever a client sends shows that it lives; one that is silent and answers no ping is cut off."""
        try:
            while self._unanswered < _MISSED_PONGS:
                self._unanswered += 1
                async with asyncio.timeout(self._interval_s):
                    await self._line.socket.ping()
                await asyncio.sleep(self._interval_s)
        except (ConnectionError, RuntimeError, TimeoutError):
            pass
        self._line.abort()

    def close(self) -> None:
        """No more pings."""
        self._pinging.cancel()


def _chosen(offered: list[str]) -> list[str]:
    """The subprotocols that we speak: our own, else the one that carries the key, since browsers want an answer."""
    return ["fastagent.v1"] if "fastagent.v1" in offered else offered[:1]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


async def _send(socket: web.WebSocketResponse, text: str) -> None:
    """Send outside a session; a client that does not read is given up by the caller's deadline."""
    try:
        async with asyncio.timeout(5.0):
            await socket.send_str(text)
    except (TimeoutError, ConnectionError, RuntimeError):
        pass
