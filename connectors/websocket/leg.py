"""An API socket as a call leg. It outlives its socket: a lost one may come back, and the session with it.

What was heard is known by the client's `playback_status` as soon as it has sent one; until then by the clock, since
audio is paced in real time.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from aiohttp import WSCloseCode, web

from fastagent.connectors import notices
from fastagent.connectors.api_events import described
from fastagent.connectors.events import LegEvents
from fastagent.connectors.leg import (
    CallInfo,
    Capability,
    ConnectionBack,
    ConnectionLost,
    HangupReason,
    InboundSink,
    LegEnded,
    LegError,
    LegEvent,
    MarkReached,
    NoHold,
)
from fastagent.connectors.line import Line
from fastagent.connectors.outbox import Outbox
from fastagent.connectors.websocket.audio import AudioOut
from fastagent.connectors.websocket.messages import OPTIONAL_EVENTS
from fastagent.connectors.websocket.protocol import Refused, SocketProtocol, StartRequested

HOLD_S = 30.0
_QUIET_S = 0.5  # so long without a chunk is silence (resolution 54)
_QUIET_STEP_S = 0.1
_LONG_CHUNK_S = 0.2  # shorter ones are well within the half second
_MAX_QUIET_S = 3.0  # longer than any endpointing delay: more silence says nothing new
_LATE_S = 0.05
_MAX_BACKLOG_S = 2.0
_MAX_BACKLOG = 2000  # messages; with what they hold about 1 MiB
_CLOSE_S = 1.0
_CLOSE_CODES = {
    HangupReason.SHUTDOWN: WSCloseCode.GOING_AWAY,
    HangupReason.SLOW_PEER: WSCloseCode.POLICY_VIOLATION,
    HangupReason.INTERNAL_ERROR: WSCloseCode.INTERNAL_ERROR,
}


@dataclass(slots=True)
class _Chunk:
    """Audio of an utterance, encoded when it is sent: until then it may become the last one."""

    payload: bytes
    utterance: str
    final: bool = False


class SocketLeg(NoHold):
    """One session's connection with its client."""

    def __init__(
        self,
        line: Line,
        protocol: SocketProtocol,
        request: StartRequested,
        info: CallInfo,
        *,
        resume_secret: str,
        hold_s: float = HOLD_S,
    ) -> None:
        self.info = info
        self.frames_dropped = 0
        self.capabilities: frozenset[Capability] = frozenset({"dtmf"})
        self.ended_reason: HangupReason | None = None
        self._resume_secret, self._hold_s = resume_secret, hold_s
        self._line: Line | None = line
        self.protocol = protocol
        self._wanted = OPTIONAL_EVENTS if request.events is None else request.events & OPTIONAL_EVENTS
        self._out, self._binary = AudioOut(request.output), request.binary
        self._events = LegEvents()
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._inbound: InboundSink | None = None
        self._session = notices.SessionStarted(info.call_id, "", "")
        self._hold: asyncio.TimerHandle | None = None
        # Playback, as far as we know it.
        self._utterance, self._sent_ms, self._seq = 0, 0.0, 0
        self._speaking = False
        self._plays_until = 0.0
        self._marks: deque[tuple[str, str, float, float]] = deque()  # name, utterance, its end there in ms, and in time
        self._mark_timer: asyncio.TimerHandle | None = None
        self._reports = False
        # The caller's silences.
        self._quiet_timer: asyncio.TimerHandle | None = None
        self._heard_until = 0.0  # up to when audio, or silence in its place, is accounted for
        self._quiet_s = 0.0
        self._chunk_at = self._chunk_s = 0.0
        self._patience_s = _QUIET_S
        self.gone = asyncio.Event()
        """The client has left after the end."""
        self._detail = ""
        self._outbox = self._open_outbox(line)

    def _open_outbox(self, line: Line) -> "Outbox[_Chunk | str]":
        output = self.info.output
        return Outbox(
            partial(self._send, line.socket),
            max_audio=int(_MAX_BACKLOG_S * output.rate_hz) * output.sample_bytes,
            dropped=self._dropped,
            failed=self._failed,
            max_items=_MAX_BACKLOG,
        )

    # -- in --------------------------------------------------------------------------------------------------------

    def attach(self, inbound: InboundSink) -> None:
        """Push the caller's audio there."""
        self._inbound = inbound

    def audio_received(self, payload: bytes) -> None:
        """The socket brought caller audio."""
        if self._inbound is None:
            return
        now = self._loop.time()
        taken = self._inbound.push(payload, None, now)
        if not taken:
            late = "audio is more than ten seconds ahead of real time"
            self.refuse(Refused("audio_processing_failed", "The audio was dropped", late))
        self._follow_rhythm(len(payload) / self.info.audio.sample_bytes / self.info.audio.rate_hz, now)
        self._listen_for_quiet()

    def _follow_rhythm(self, chunk_s: float, now: float) -> None:
        """A client that sends a second of audio each second is not silent in between: wait for its next chunk."""
        since, before = now - self._chunk_at, self._chunk_s
        in_time = before >= _LONG_CHUNK_S and 0.5 * before <= since <= 1.5 * before
        self._patience_s = _QUIET_S + (chunk_s if in_time else 0.0)
        self._chunk_at, self._chunk_s = now, chunk_s

    def _listen_for_quiet(self) -> None:
        """Silence begins now, unless audio comes."""
        self._heard_until, self._quiet_s = self._loop.time(), 0.0
        if self._quiet_timer is None:  # with audio every 20 ms it is not set anew each time
            self._quiet_in(_QUIET_S)

    def _quiet_in(self, seconds: float, *, was_late: bool = False) -> None:
        due = self._loop.time() + seconds
        self._quiet_timer = self._loop.call_at(due, self._quiet, due, was_late)

    def _quiet(self, due: float, was_late: bool) -> None:
        """Nothing came: silence, for as long as it can mean anything."""
        self._quiet_timer = None
        if self._inbound is None or self._events.ended.is_set() or not self._heard_until:
            return
        now = self._loop.time()
        seconds = now - self._heard_until
        patience = _QUIET_STEP_S if self._quiet_s else self._patience_s
        if seconds < patience - 0.001:
            self._quiet_in(patience - seconds)
        elif now - due > _LATE_S and not was_late:
            self._quiet_in(_LATE_S, was_late=True)  # it was we who stood still: what came meanwhile is not read yet
        else:
            self._heard_until = now
            self._quiet_s += seconds
            self._inbound.quiet(seconds, now)
            if self._quiet_s < _MAX_QUIET_S:
                self._quiet_in(_QUIET_STEP_S)

    def _forget_quiet(self) -> None:
        if self._quiet_timer is not None:
            self._quiet_timer.cancel()
            self._quiet_timer = None

    def happened(self, event: LegEvent) -> None:
        """The socket brought an event."""
        self._events.put(event)

    def caller_ends(self, detail: str) -> None:
        """The client hangs up, in its own words."""
        self._detail = detail
        self.happened(LegEnded(HangupReason.CALLER_HUNG_UP))

    def events(self) -> AsyncIterator[LegEvent]:
        """Yield what happens, up to and including `LegEnded`."""
        return aiter(self._events)

    def played(self, utterance: str, milliseconds: float) -> None:
        """The client tells how much it has played; from now on that counts, and not the clock."""
        self._reports = True
        if self._mark_timer is not None:
            self._mark_timer.cancel()
            self._mark_timer = None
        while self._marks and (self._marks[0][1] != utterance or self._marks[0][2] <= milliseconds + 1):
            if self._marks[0][1] != utterance and all(mark[1] != utterance for mark in self._marks):
                return  # of an utterance that is over
            self.happened(MarkReached(self._marks.popleft()[0]))

    # -- the connection --------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether a client is there."""
        return self._line is not None and not self._line.socket.closed

    def on(self, line: Line) -> bool:
        """Whether this is the connection that counts: after a resume, the older one does not."""
        return self._line is line

    @property
    def over(self) -> bool:
        """Whether the session has ended, or is about to."""
        return self._events.ended.is_set()

    async def lose(self, line: Line) -> None:
        """This connection is gone: hold the session for a while."""
        if self._line is not line or self._events.ended.is_set():
            return
        self._line = None
        self._forget_playback()
        self._forget_quiet()
        if self._hold_s:
            self._hold = self._loop.call_later(self._hold_s, self.happened, LegEnded(HangupReason.CONNECTION_LOST))
            self.happened(ConnectionLost())
        else:
            self.happened(LegEnded(HangupReason.CONNECTION_LOST))
        await self._outbox.aclose()

    async def take_up(self, line: Line, protocol: SocketProtocol, request: StartRequested) -> None:
        """The client is back, on another socket; an older one that is still open is closed."""
        old, outbox = self._line, self._outbox
        if old is not None:
            self._forget_playback()
            self.happened(ConnectionLost())
            old.close(WSCloseCode.POLICY_VIOLATION, b"resumed elsewhere")
        if self._hold is not None:
            self._hold.cancel()
        self._line, self.protocol = line, protocol
        self._out, self._binary = AudioOut(request.output), request.binary
        self._wanted = OPTIONAL_EVENTS if request.events is None else request.events & OPTIONAL_EVENTS
        self._outbox = self._open_outbox(line)
        self._reports = False
        self.notify(replace(self._session, resumed=True))
        self.happened(ConnectionBack())
        if self._heard_until:
            self._listen_for_quiet()  # an utterance that the loss has cut off is over, too
        await outbox.aclose()

    def _failed(self, reason: HangupReason) -> None:
        if reason is HangupReason.CONNECTION_LOST:
            return  # the reader of the socket notices, and may hold the session
        self.happened(LegEnded(reason))

    # -- out: audio ------------------------------------------------------------------------------------------------

    def send_audio(self, payload: bytes) -> None:
        """Queue wire audio; beyond two seconds of backlog the oldest is dropped."""
        if self._line is None or self._events.ended.is_set() or self.ended_reason is not None:
            return
        if not self._speaking:
            self._speaking = True
            self._utterance += 1
            self._sent_ms = 0.0
        audio = self.info.output
        seconds = len(payload) / audio.sample_bytes / audio.rate_hz
        self._sent_ms += seconds * 1000
        self._plays_until = max(self._plays_until, self._loop.time()) + seconds
        self._outbox.put(_Chunk(payload, f"utt_{self._utterance}"), len(payload))

    def send_mark(self, name: str) -> None:
        """Note a place in the audio so far."""
        if self._line is None:
            return
        self._marks.append((name, f"utt_{self._utterance}", self._sent_ms, self._plays_until))
        self._time_marks()

    def _time_marks(self) -> None:
        if self._mark_timer is None and self._marks and not self._reports:
            self._mark_timer = self._loop.call_at(self._marks[0][3], self._mark_by_clock)

    def _mark_by_clock(self) -> None:
        self._mark_timer = None
        if self._marks:
            self.happened(MarkReached(self._marks.popleft()[0]))
        self._time_marks()

    def quality(self) -> None:
        """TCP loses nothing that could be told of."""

    def flush(self) -> None:
        """The utterance is complete: its last chunk says so, or an empty one where that has gone already."""
        if not self._speaking:
            return
        self._speaking = False
        last = self._outbox.last()
        if isinstance(last, _Chunk):
            last.final = True
        elif self._line is not None:
            self._outbox.put(_Chunk(b"", f"utt_{self._utterance}", final=True))

    def clear(self) -> None:
        """Drop what is queued here, then at the client."""
        self._outbox.drop(lambda item: isinstance(item, _Chunk))
        self._forget_playback()
        self._tell("clear_audio", {"utterance_id": f"utt_{self._utterance}", "reason": "interruption"})

    def _forget_playback(self) -> None:
        self._marks.clear()
        self._speaking = False
        self._plays_until = 0.0
        if self._mark_timer is not None:
            self._mark_timer.cancel()
            self._mark_timer = None

    def _dropped(self, audio_bytes: int) -> None:
        self.frames_dropped += audio_bytes // self.info.output.frame_bytes

    async def _send(self, socket: web.WebSocketResponse, item: "_Chunk | str") -> None:
        if isinstance(item, str):
            await socket.send_str(item)
            return
        parts = self._out.chunks(item.payload)
        for at, part in enumerate(parts):
            await self._send_part(socket, part, item.utterance, final=item.final and at == len(parts) - 1)

    async def _send_part(self, socket: web.WebSocketResponse, part: bytes, utterance: str, *, final: bool) -> None:
        if self._binary and part:
            self._seq += 1
            milliseconds = int((self._loop.time() - self._began) * 1000) & 0xFFFFFFFF
            head = (self._seq & 0xFFFFFFFF).to_bytes(4, "big") + milliseconds.to_bytes(4, "big")
            await socket.send_bytes(head + part)
            if not final:
                return
            part = b""  # what a binary frame cannot say: this was the last one
        self._seq += 1
        payload = {
            "format": self._out.wire.name,
            "encoding": "base64",
            "data": part,
            "final": final,
            "utterance_id": utterance,
            "seq": self._seq,
        }
        await socket.send_str(self.protocol.message("audio_response", payload, time.time()))

    # -- out: words ------------------------------------------------------------------------------------------------

    def _tell(self, type_: str, payload: Mapping[str, Any]) -> None:
        if (
            self.ended_reason is None
            and self._line is not None
            and (type_ not in OPTIONAL_EVENTS or type_ in self._wanted)
        ):
            self._outbox.put(self.protocol.message(type_, payload, time.time()))

    def refuse(self, refused: Refused) -> None:
        """Send an error."""
        if self._line is not None:
            self._outbox.put(self.protocol.error(refused, time.time()))

    def notify(self, notice: notices.Notice) -> None:
        """Send what the client has a message for."""
        if isinstance(notice, notices.SessionStarted):
            self._session = notice
        elif isinstance(notice, notices.StateChanged):
            self._session = replace(self._session, state=notice.to_state)
        found = described(notice)
        if found is None:
            return
        type_, payload = found
        if isinstance(notice, notices.SessionStarted):
            payload |= {"resume_secret": self._resume_secret, "audio": self._audio()}
        self._tell(type_, payload)

    def _audio(self) -> dict[str, Any]:
        rate_hz = self.info.output.rate_hz
        return {"format": self._out.wire.name, "sample_rate": rate_hz, "channels": 1, "binary": self._binary}

    # -- the end ---------------------------------------------------------------------------------------------------

    async def transfer(self, destination: str) -> None:
        """There is nowhere to transfer a socket to."""
        raise LegError("a WebSocket cannot be transferred")

    async def send_dtmf(self, digits: str) -> None:
        """Tell the client of keys from our side."""
        self._tell("call_event", {"event": "dtmf_out", "digits": digits})

    async def hang_up(self, reason: HangupReason) -> None:
        """Say `session_ended`; the shell closes the socket."""
        if self.ended_reason is None:
            seconds = round(self._loop.time() - self._began)
            payload = {"reason": reason.value, "duration_seconds": seconds, "detail": self._detail or None}
            self._tell("session_ended", payload)
            self.ended_reason = reason  # the last message but for errors
            self._forget_playback()
            self._forget_quiet()
            self.protocol.ended()
        await self._outbox.drained(_CLOSE_S)
        self.happened(LegEnded(reason))

    async def aclose(self, reason: HangupReason) -> None:
        """Release everything and close the socket; may be called twice."""
        self._events.put(LegEnded(reason))
        if self._hold is not None:
            self._hold.cancel()
        self._forget_playback()
        self._forget_quiet()
        line, self._line = self._line, None
        await self._outbox.aclose()
        if line is not None:
            line.close(_CLOSE_CODES.get(self.ended_reason or reason, WSCloseCode.OK))
