"""The shell of the streaming mode: one WebSocket per conversation, and conversations that outlive their sockets.

A conversation is accepted at once; its session begins when `start` has told who was called, or shortly after.
"""

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from fastagent.connectors.audiocodes.activities import ActivityWriter, CallStarted, PlayFinished, TransferStatus
from fastagent.connectors.audiocodes.config import SURFACE, AudiocodesConfig, called, session_id
from fastagent.connectors.audiocodes.formats import MediaFormat, choose
from fastagent.connectors.audiocodes.leg import StreamLeg
from fastagent.connectors.audiocodes.protocol import (
    AudioReceived,
    AudioStopped,
    Ended,
    Event,
    Initiated,
    Resumed,
    StreamProtocol,
    Validated,
)
from fastagent.connectors.host import LegHost, Recalled, Release
from fastagent.connectors.leg import CallInfo, HangupReason
from fastagent.connectors.line import Line
from fastagent.media.frame import PCMU_8K

_log = logging.getLogger(__name__)

_MAX_MESSAGE = 1 << 20
_BEFORE_START_S = 30.0
_ANSWER_S = 0.8  # for the peer to confirm our close
_BUSY = 16  # messages of one peer, in a row, before the others have their turn
_MISSED = 1000  # play streams that the node before us may have opened after it last wrote down how many


@dataclass(slots=True)
class _Live:
    """A conversation of ours."""

    leg: StreamLeg
    release: Release
    bot_name: str
    hint: str
    """The agent that the URL names."""
    begins: asyncio.TimerHandle | None = None


class StreamShell:
    """All streaming conversations of a gateway."""

    def __init__(self, config: AudiocodesConfig, host: LegHost, writer: ActivityWriter | None = None) -> None:
        self._config, self._host, self._writer = config, host, writer
        self._live: dict[str, _Live] = {}
        self._sessions: set[asyncio.Task[None]] = set()
        self._lines: set[Line] = set()

    async def aclose(self) -> None:
        """Release everything; the sessions are over by now."""
        for line in tuple(self._lines):
            line.close(WSCloseCode.GOING_AWAY)
        for live in tuple(self._live.values()):
            if live.begins is not None:  # accepted, and no session yet
                live.begins.cancel()
                await self._drop(live.leg)
        for task in tuple(self._sessions):
            task.cancel()
        await asyncio.gather(*self._sessions, return_exceptions=True)

    # -- one socket ------------------------------------------------------------------------------------------------

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Serve an upgrade that was let in."""
        socket = web.WebSocketResponse(
            compress=False, max_msg_size=_MAX_MESSAGE, heartbeat=self._config.ping_s, timeout=_ANSWER_S
        )
        if not socket.can_prepare(request).ok:
            return web.Response(status=426, headers={"Upgrade": "websocket"})
        await socket.prepare(request)
        await self.follow(Line(socket, request.transport), request.query.get("agent_id", ""))
        return socket

    async def follow(self, line: Line, hint: str = "") -> None:
        """Live with a socket until it is closed; `hint` is the agent that the URL names."""
        protocol = StreamProtocol(self._writer)
        self._lines.add(line)
        leg: StreamLeg | None = None
        try:
            async with asyncio.timeout(_BEFORE_START_S) as line.reading:
                leg = await self._opening(line, protocol, hint)
                if leg is not None:
                    line.read_on()
                    await self._read(line, protocol, leg)
        except TimeoutError:
            if line.farewell is None:
                self._host.protocol_error(SURFACE, "no_start")
                line.close(WSCloseCode.POLICY_VIOLATION)
        finally:
            self._lines.discard(line)
            if leg is not None:
                await leg.lose(line)
            await line.leave()
            for kind, count in protocol.dropped.items():
                self._host.protocol_error(SURFACE, kind, count)

    async def _next(self, line: Line, protocol: StreamProtocol) -> list[Event] | None:
        """Return the events of the next message; None when the socket is closed."""
        message = await line.socket.receive()
        if message.type is WSMsgType.TEXT:
            return protocol.receive(message.data)
        if message.type is WSMsgType.BINARY:
            protocol.dropped["binary"] += 1
            return []
        return None

    async def _opening(self, line: Line, protocol: StreamProtocol, hint: str) -> StreamLeg | None:
        """Read until a conversation begins, or goes on; None when none does."""
        while (events := await self._next(line, protocol)) is not None:
            for event in events:
                if isinstance(event, Validated):
                    await self._say(line, *protocol.replies)
                    return None
                if isinstance(event, Initiated | Resumed):
                    if isinstance(event, Initiated):
                        leg = self._initiate(line, protocol, event, hint)
                    else:
                        leg = await self._resume(line, protocol, event, hint)
                    if isinstance(leg, str):
                        self._host.protocol_error(SURFACE, leg.replace(" ", "_"))
                        await self._say(line, protocol.refuse(leg))
                        return None
                    return leg
        return None

    async def _read(self, line: Line, protocol: StreamProtocol, leg: StreamLeg) -> None:
        messages = 0
        while (events := await self._next(line, protocol)) is not None and leg.on(line):
            for reply in protocol.replies:
                leg.reply(reply)
            protocol.replies.clear()
            for event in events:
                self._happened(leg, event)
            messages += 1
            if messages % _BUSY == 0:  # a message that is here already is not waited for
                await asyncio.sleep(0)

    def _happened(self, leg: StreamLeg, event: Event) -> None:
        match event:
            case AudioReceived(payload):
                leg.audio_received(payload)
            case AudioStopped():
                leg.audio_stopped()
            case CallStarted(parameters):
                self._begin(leg, parameters)
            case PlayFinished(stream):
                leg.play_finished(stream)
            case TransferStatus():
                leg.transfer_status(event)
            case Ended(reason_code, _):
                _log.info("AudioCodes ended the call", extra={"call_id": leg.info.call_id, "reason_code": reason_code})
                leg.ended(reason_code)
                self._begin(leg, {})
            case Initiated() | Resumed() | Validated():
                pass  # the core admits one
            case _:
                leg.happened(event)

    @staticmethod
    async def _say(line: Line, *texts: str) -> None:
        """Send outside a conversation."""
        try:
            async with asyncio.timeout(_ANSWER_S):
                for text in texts:
                    await line.socket.send_str(text)
        except (TimeoutError, ConnectionError, RuntimeError):
            pass

    # -- conversations ---------------------------------------------------------------------------------------------

    def _initiate(self, line: Line, protocol: StreamProtocol, asked: Initiated, hint: str) -> StreamLeg | str:
        """Accept a conversation; the reason, where not."""
        if asked.conversation_id in self._live:
            return "conversation exists"
        form = choose(asked.formats)
        if form is None and asked.voice:
            return "no common media format"
        release = self._host.reserve(SURFACE)
        if release is None:
            return "no capacity"
        leg = self._leg(line, protocol, asked.conversation_id, form, {"from": asked.caller}, voice=asked.voice)
        leg.reply(protocol.accept(form))
        live = self._live[asked.conversation_id] = _Live(leg, release, asked.bot_name, hint)
        loop = asyncio.get_running_loop()
        live.begins = loop.call_later(self._config.start_s, self._begin, leg, {})
        return leg

    def _leg(
        self,
        line: Line,
        protocol: StreamProtocol,
        conversation_id: str,
        form: MediaFormat | None,
        known: Mapping[str, str],
        *,
        voice: bool,
    ) -> StreamLeg:
        session = session_id(conversation_id)
        info = CallInfo(
            provider=SURFACE,
            call_id=conversation_id,
            stream_id=conversation_id,
            from_=known.get("from", ""),
            to=known.get("to", ""),
            direction="inbound",
            audio=form.audio if form else PCMU_8K,
            session_id=None if self._host.is_live(session) else session,
            voice=voice,
            private={
                "mode": "stream",
                "conversation": conversation_id,
                "format": form.name if form else "",
                "voice": "1" if voice else "",
                **known,
            },
        )
        return StreamLeg(line, protocol, info, self._config.leg)

    def _begin(self, leg: StreamLeg, parameters: Mapping[str, str]) -> None:
        """It is known who was called, or will not be: let the session begin."""
        live = self._live.get(leg.info.call_id)
        if live is None or live.leg is not leg or live.begins is None:
            return
        live.begins.cancel()
        live.begins = None
        if leg.over:  # before it began
            self._spawn(self._drop(leg))
            return
        metadata = {**parameters, **({"botName": live.bot_name} if live.bot_name else {})}
        leg.called(parameters.get("caller") or leg.info.from_, parameters.get("callee", ""), metadata)
        leg.tell(leg.protocol.write.config(self._config.asked(voice=leg.info.voice)))
        named = live.hint if live.hint and self._host.has_agent(live.hint) else None
        agent_id = named or self._config.agent_for(called(parameters, live.bot_name)) or self._host.default_agent
        self._run(leg, agent_id)

    async def _resume(self, line: Line, protocol: StreamProtocol, asked: Resumed, hint: str) -> StreamLeg | str:
        """Go on with a conversation; the reason, where that cannot be."""
        live = self._live.get(asked.conversation_id)
        if live is not None and not live.leg.over:
            await live.leg.take_up(line, protocol, protocol.accept(live.leg.protocol.form))
            self._host.resumed("connection")
            return live.leg
        recalled = await self._host.recall(session_id(asked.conversation_id))
        known = recalled.private if recalled else {}
        if recalled is None or known.get("mode") != "stream" or known.get("conversation") != asked.conversation_id:
            return "conversation not found"
        form = choose([known.get("format", "")])
        if form is None and known.get("voice"):
            return "conversation not found"
        if asked.conversation_id in self._live:  # two at once
            return "conversation exists"
        release = self._host.reserve(SURFACE)
        if release is None:
            return "no capacity"
        played = known.get("played", "")
        protocol.go_on(int(played) + _MISSED if played.isdecimal() and len(played) < 10 else _MISSED)
        leg = self._leg(line, protocol, asked.conversation_id, form, known, voice=bool(known.get("voice")))
        leg.reply(protocol.accept(form))
        self._live[asked.conversation_id] = _Live(leg, release, "", hint)
        self._run(leg, recalled.agent_id, recalled)
        return leg

    def _run(self, leg: StreamLeg, agent_id: str, recalled: Recalled | None = None) -> None:
        self._spawn(self._converse(leg, agent_id, recalled))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="audiocodes-session")
        self._sessions.add(task)
        task.add_done_callback(self._sessions.discard)

    async def _converse(self, leg: StreamLeg, agent_id: str, recalled: Recalled | None) -> None:
        """However a session ends, its caller is not left in a call without one."""
        try:
            await self._host.converse(leg, agent_id, recalled=recalled)
        finally:
            await self._drop(leg)

    async def _drop(self, leg: StreamLeg) -> None:
        live = self._live.get(leg.info.call_id)
        if live is not None and live.leg is leg:
            del self._live[leg.info.call_id]
            live.release()
        await leg.aclose(HangupReason.INTERNAL_ERROR)
