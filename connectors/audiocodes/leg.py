"""A streaming conversation as a call leg. It outlives its socket: VoiceAI Connect dials again and resumes it.

Where playback is, VoiceAI Connect tells only at the end of a stream (`playFinished`), and only if it is asked to; so
the clock says it, since audio goes out in real time. Where `playFinished` is known to come, the end of a stream waits
for it a moment, and counts at once when it is there.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Literal, NamedTuple

from aiohttp import WSCloseCode

from fastagent.connectors import notices
from fastagent.connectors.audiocodes.activities import Json, TransferStatus
from fastagent.connectors.audiocodes.departure import Departure, LegOptions
from fastagent.connectors.audiocodes.protocol import StreamProtocol
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
    SilenceReported,
)
from fastagent.connectors.line import Line
from fastagent.connectors.outbox import Outbox

_MAX_BACKLOG_S = 2.0
_MAX_EARLY_S = 2.0
_ANSWER = 10  # frames of silence that answer a call
_FINISH_S = 0.25  # so long the end of a stream may be late by the clock, where `playFinished` is known to come
_CLOSE_S = 1.0
_QUIET_S = 2.0  # longer than any endpointing delay

Kind = Literal["control", "start", "audio", "stop", "started", "words"]


class _Item(NamedTuple):
    """A message that waits to be sent."""

    text: str
    kind: Kind


class _Mark(NamedTuple):
    """A place in what is played, and when the clock says that it is reached."""

    name: str
    stream: str
    due: float


class StreamLeg(NoHold):
    """One conversation's connection."""

    def __init__(self, line: Line, protocol: StreamProtocol, info: CallInfo, options: LegOptions) -> None:
        self._private = dict(info.private)  # lives: the session stores it with every turn
        self.info = replace(info, private=self._private)
        self.frames_dropped = 0
        self.capabilities: frozenset[Capability] = frozenset({"transfer", "dtmf"})
        self.protocol = protocol
        self._line: Line | None = line
        self._options = options
        self._departure = Departure(options)
        self._loop = asyncio.get_running_loop()
        self._inbound: InboundSink | None = None
        self._early = bytearray()
        self._marks: deque[_Mark] = deque()
        self._mark_timer: asyncio.TimerHandle | None = None
        self._plays_until = 0.0
        self._reports = self._waited = False  # `playFinished` comes at all; it was waited for
        self._finished = 0  # the number of the last stream that was played to its end
        self._caller_speaks = self._heard = False  # now; since the last recognition
        self._hold: asyncio.TimerHandle | None = None
        self._answer: asyncio.TimerHandle | None = None
        self._outbox = self._open_outbox(line)

    def _open_outbox(self, line: Line) -> "Outbox[_Item]":
        audio = self.info.output
        return Outbox(
            lambda item: line.socket.send_str(item.text),
            max_audio=int(_MAX_BACKLOG_S * audio.rate_hz) * audio.sample_bytes,
            dropped=self._dropped,
            failed=self._failed,
        )

    def _dropped(self, audio_bytes: int) -> None:
        self.frames_dropped += audio_bytes // self.info.output.frame_bytes

    def _failed(self, reason: HangupReason) -> None:
        if reason is not HangupReason.CONNECTION_LOST:  # which the reader of the socket notices, and may hold
            self.happened(LegEnded(reason))

    # -- in --------------------------------------------------------------------------------------------------------

    def attach(self, inbound: InboundSink) -> None:
        """Push the caller's audio there, from the first."""
        self._inbound = inbound
        if self._early:
            inbound.push(bytes(self._early), None, self._loop.time())
            self._early.clear()

    def audio_received(self, payload: bytes) -> None:
        """The socket brought caller audio."""
        if self._inbound is not None:
            self._inbound.push(payload, None, self._loop.time())
        elif len(self._early) < _MAX_EARLY_S * self.info.audio.rate_hz * self.info.audio.sample_bytes:
            self._early += payload

    def audio_stopped(self) -> None:
        """The user stream was stopped: what the caller was saying is over. Mere absence of audio means nothing."""
        if self._inbound is not None:
            self._inbound.quiet(_QUIET_S, self._loop.time())

    def happened(self, event: LegEvent) -> None:
        """The socket brought an event."""
        if not (isinstance(event, SilenceReported) and self.info.voice):  # where we listen ourselves
            self._departure.happened(event)

    def events(self) -> AsyncIterator[LegEvent]:
        """Yield what happens, up to and including `LegEnded`."""
        return aiter(self._departure.events)

    def ended(self, reason_code: str) -> None:
        """`session.end` has come: nothing is sent any more."""
        self._forget_playback()
        self._departure.told_end(reason_code)

    def called(self, from_: str, to: str, metadata: Mapping[str, str]) -> None:
        """It is known who calls whom, and the session begins: within some time something must be heard."""
        if self.info.voice and self._answer is None:
            self._answer = self._loop.call_later(self._options.answer_s, self._break_silence)
        self._private |= {"from": from_, "to": to}
        self.info = replace(self.info, from_=from_, to=to, metadata=metadata)

    # -- the connection --------------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether the conversation has ended."""
        return self._departure.over

    def on(self, line: Line) -> bool:
        """Whether this is the connection that counts: after a resume, the older one does not."""
        return self._line is line

    async def lose(self, line: Line) -> None:
        """This connection is gone: hold the conversation for a while."""
        if self._line is not line or self.over:
            return
        self._line = None
        self._forget_playback()
        self.protocol.stop_playing()
        if self._hold_s:
            self._hold = self._loop.call_later(self._hold_s, self.happened, LegEnded(HangupReason.CONNECTION_LOST))
            self.happened(ConnectionLost())
        else:
            self.happened(LegEnded(self._departure.leaving or HangupReason.CONNECTION_LOST))
        await self._outbox.aclose()

    @property
    def _hold_s(self) -> float:
        return 0.0 if self._departure.leaving is not None else self._options.hold_s

    async def take_up(self, line: Line, protocol: StreamProtocol, accepted: str) -> None:
        """The conversation is resumed on another socket; an older one that is still open is closed, without a word."""
        old, outbox = self._line, self._outbox
        if old is not None:
            self._forget_playback()
            self.happened(ConnectionLost())
            old.close(WSCloseCode.OK)
        if self._hold is not None:
            self._hold.cancel()
        protocol.take_over(self.protocol)
        self._line, self.protocol = line, protocol
        self._outbox = self._open_outbox(line)
        self._put(accepted)
        self.happened(ConnectionBack())
        await outbox.aclose()

    # -- out: audio ------------------------------------------------------------------------------------------------

    def _put(self, text: str, kind: Kind = "control", audio_bytes: int = 0) -> None:
        if self._line is not None and not self.over:
            self._outbox.put(_Item(text, kind), audio_bytes)

    def reply(self, text: str) -> None:
        """Send what the core has answered."""
        self._put(text)

    def send_audio(self, payload: bytes) -> None:
        """Queue wire audio, in a play stream that the first of an answer opens."""
        if self._line is None or self.over or self._departure.leaving is not None or not self.info.voice:
            return
        if self._answer is not None:
            self._answer.cancel()
            self._answer = None
        audio, protocol = self.info.output, self.protocol
        seconds = len(payload) / audio.sample_bytes / audio.rate_hz
        self._plays_until = max(self._plays_until, self._loop.time()) + seconds
        if protocol.playing is None:
            self._put(protocol.start_playing(), "start")
            self._private["played"] = protocol.playing or ""
            assert protocol.form is not None
            payload = protocol.form.header + payload
        self._put(protocol.audio(payload), "audio", len(payload))

    def _break_silence(self) -> None:
        """VoiceAI Connect may answer the call only when it has something to play."""
        self._answer = None
        audio = self.info.output
        self.send_audio(audio.silence(_ANSWER * audio.frame_samples))
        self.flush()

    def send_mark(self, name: str) -> None:
        """Note a place in the audio so far."""
        if self._line is None:
            return
        if not self.info.voice:  # nothing is played
            self.happened(MarkReached(name))
            return
        self._marks.append(_Mark(name, self.protocol.playing or "", self._plays_until))
        self._time_marks()

    def _time_marks(self, late_s: float = 0.0) -> None:
        if self._mark_timer is None and self._marks:
            self._mark_timer = self._loop.call_at(self._marks[0].due + late_s, self._mark_by_clock)

    def _mark_by_clock(self) -> None:
        self._mark_timer = None
        last = len(self._marks) == 1 and self._marks[0].stream != self.protocol.playing
        if last and self._reports and not self._waited:
            self._waited = True
            self._time_marks(_FINISH_S)
            return
        self._reach_mark()
        self._time_marks()

    def _reach_mark(self) -> None:
        self._waited = False
        self.happened(MarkReached(self._marks.popleft().name))

    def play_finished(self, stream: str | None) -> None:
        """VoiceAI Connect has played a stream to its end; without a name, the oldest of which it has not said so."""
        self._reports = True
        if stream is None:
            self._finished += 1
        elif stream.isascii() and stream.isdecimal() and len(stream) < 10:
            self._finished = int(stream)
        while self._marks and self._marks[0].stream != self.protocol.playing:
            if int(self._marks[0].stream or 0) > self._finished:
                break
            self._reach_mark()
        if self._mark_timer is not None:
            self._mark_timer.cancel()
            self._mark_timer = None
        self._time_marks()

    def quality(self) -> None:
        """TCP loses nothing that could be told of."""

    def flush(self) -> None:
        """The answer is complete: close its play stream, for an open one may keep the caller from being heard."""
        stop = self.protocol.stop_playing()
        if stop is not None:
            self._put(stop, "stop")

    def clear(self) -> None:
        """Silence what is queued here, then VoiceAI Connect, which has no message for that: it falls silent for a
        caller who speaks, so the stream is closed, and speech reported behind it."""
        self._forget_playback()
        unsent: list[Kind] = []

        def unwanted(item: _Item) -> bool:
            unsent.append(item.kind)
            return item.kind in ("start", "audio", "started", "words")

        self._outbox.drop(unwanted)
        stop = self.protocol.stop_playing()
        if stop is not None and "start" not in unsent:
            self._put(stop, "stop")
        if self.info.voice or self._caller_speaks:
            self._put(self.protocol.speech("started"), "started")
            if not self._caller_speaks:  # a key, or a client's wish
                self._put(self.protocol.speech("stopped"))
        self.tell(self.protocol.write.abort_prompts())

    def _forget_playback(self) -> None:
        self._marks.clear()
        self._finished = self.protocol.played
        self._plays_until, self._waited = 0.0, False
        if self._mark_timer is not None:
            self._mark_timer.cancel()
            self._mark_timer = None

    # -- out: words ------------------------------------------------------------------------------------------------

    def tell(self, *activities: Json, kind: Kind = "control") -> None:
        """Send activities: those of `protocol.write`, for instance to record, or to play a URL."""
        self._put(self.protocol.activities(*activities), kind)

    def notify(self, notice: notices.Notice) -> None:
        """Report what we hear; on a session without audio, say the words."""
        match notice:
            case notices.CallerSpeech(speaking):
                self._caller_speaks = speaking
                self._heard |= speaking
                if speaking:
                    self._put(self.protocol.speech("started"), "started")
                else:
                    self._put(self.protocol.speech("stopped"))
            case notices.Transcribed(role="user") if self._heard:
                self._recognised(notice)
            case notices.Transcribed(role="agent", final=False) if not self.info.voice and notice.text.strip():
                self.tell(self.protocol.write.message(notice.text), kind="words")

    def _recognised(self, notice: notices.Transcribed) -> None:
        if not notice.final:
            self._put(self.protocol.speech("hypothesis", notice.text))
            return
        self._heard = False
        self._put(self.protocol.speech("recognition", notice.text, notice.confidence))
        self._put(self.protocol.speech("committed"))

    # -- the end ---------------------------------------------------------------------------------------------------

    async def send_dtmf(self, digits: str) -> None:
        """Let the other side send keys."""
        try:
            self.tell(*self.protocol.write.send_dtmf(digits))
        except ValueError as error:
            raise LegError(str(error)) from error

    async def transfer(self, destination: str) -> None:
        """Have somebody else dialled."""
        if self._line is None:
            raise LegError("the connection is lost")
        self._departure.transferring()
        self.tell(self.protocol.write.transfer(destination, notifications=self._options.notified))
        await self._departure.transferred()

    def transfer_status(self, status: TransferStatus) -> None:
        """Word of a transfer."""
        self._departure.told_status(status)

    async def hang_up(self, reason: HangupReason) -> None:
        """Ask VoiceAI Connect to end the call, and wait for its word: closing the socket would bring it back."""
        if self._departure.leaving is None:
            self.flush()
            self._departure.leaving = reason
            if reason is not HangupReason.CONNECTION_LOST:  # then the call is somebody else's by now
                self.tell(self.protocol.write.hangup(reason.value))
                if self._line is not None:
                    await self._departure.confirmed()
        self.happened(LegEnded(reason))

    async def aclose(self, reason: HangupReason) -> None:
        """Release everything and have the socket closed; may be called twice."""
        self.happened(LegEnded(reason))
        for timer in (self._hold, self._answer):
            if timer is not None:
                timer.cancel()
        self._forget_playback()
        line, self._line = self._line, None
        await self._outbox.drained(_CLOSE_S)
        await self._outbox.aclose()
        if line is not None:
            line.close(WSCloseCode.OK)
