"""A leg joined back to back with Twilio's emulator: both protocol cores run, only the socket is missing."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from fastagent.connectors.leg import (
    CallInfo,
    Capability,
    HangupReason,
    InboundSink,
    LegEnded,
    LegError,
    LegEvent,
    NoHold,
)
from fastagent.connectors.notices import Notice
from fastagent.connectors.twilio.emulator import FRAME, StreamEmulator
from fastagent.connectors.twilio.protocol import AudioReceived, StreamStarted, TwilioProtocol
from fastagent.media.frame import PCMU_8K


class MemoryLeg(NoHold):
    """A `CallLeg`, and the phone at its other end. Everything has a time: `(loop time, what)`."""

    def __init__(self, *, delay_s: float = 0.0) -> None:
        self.info = CallInfo("twilio", "CA1", "MZ1", "+15550100001", "+15550100002", "inbound", PCMU_8K)
        self.emulator = StreamEmulator(call_sid="CA1", stream_sid="MZ1")
        self.protocol = TwilioProtocol()
        for message in self.emulator.opening({"token": "t"}):
            self.protocol.receive(message)
        self.sent: list[tuple[float, str, int]] = []
        """What the gateway sent: time, `media`, `mark` or `clear`, bytes of audio."""
        self.heard = bytearray()
        """What the caller heard, from the start of the call."""
        self.frames_dropped = 0
        self.capabilities: frozenset[Capability] = frozenset({"transfer"})
        self.notices: list[Notice] = []
        self.flushes = 0
        self.transferred: list[str] = []
        self.transfer_error: LegError | None = None
        self.hung_up: HangupReason | None = None
        self.lose_marks = False
        self._delay_s = delay_s
        self._arrival = 0.0
        self._speech: deque[bytes] = deque()
        self._inbound: InboundSink | None = None
        self._events: asyncio.Queue[LegEvent] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self.began = self._loop.time()

    # -- the leg ---------------------------------------------------------------------------------------------------

    def attach(self, inbound: InboundSink) -> None:
        self._inbound = inbound

    async def events(self) -> AsyncIterator[LegEvent]:
        while True:
            event = await self._events.get()
            yield event
            if isinstance(event, LegEnded):
                return

    def send_audio(self, payload: bytes) -> None:
        self._deliver("media", self.protocol.audio(payload), len(payload))

    def send_mark(self, name: str) -> None:
        self._deliver("mark", self.protocol.mark(name), 0)

    def clear(self) -> None:
        self._deliver("clear", self.protocol.clear(), 0)

    def quality(self) -> None:
        pass

    def flush(self) -> None:
        self.flushes += 1

    def notify(self, notice: Notice) -> None:
        self.notices.append(notice)

    async def send_dtmf(self, digits: str) -> None:
        raise LegError("no")

    def _deliver(self, kind: str, message: str, size: int) -> None:
        self.sent.append((self._loop.time() - self.began, kind, size))
        if self._delay_s:
            # A stream keeps its order; timers of one moment do not.
            self._arrival = max(self._loop.time() + self._delay_s, self._arrival + 1e-6)
            self._loop.call_at(self._arrival, self._arrive, message)
        else:
            self._arrive(message)

    def _arrive(self, message: str) -> None:
        _, answers = self.emulator.receive(message)
        for answer in answers:
            self._from_twilio(answer)

    async def transfer(self, destination: str) -> None:
        await asyncio.sleep(0.1)
        if self.transfer_error is not None:
            raise self.transfer_error
        self.transferred.append(destination)

    async def hang_up(self, reason: HangupReason) -> None:
        self.hung_up = reason
        self._events.put_nowait(LegEnded(reason))

    # -- the phone -------------------------------------------------------------------------------------------------

    def _from_twilio(self, message: str) -> None:
        if self.lose_marks and '"mark"' in message:
            return
        event = self.protocol.receive(message)
        if isinstance(event, AudioReceived):
            assert self._inbound is not None
            self._inbound.push(event.payload, event.timestamp_ms, self._loop.time())
        elif event is not None and not isinstance(event, StreamStarted):
            self._events.put_nowait(event)

    async def run(self, seconds: float) -> None:
        """Let time pass: 20 ms of caller audio in, 20 ms of playback out, each 20 ms."""
        for _ in range(round(seconds / 0.02)):
            if self.hung_up is not None:
                return
            frame = self._speech.popleft() if self._speech else PCMU_8K.silence(FRAME)
            self._from_twilio(self.emulator.media(frame))
            heard, marks = self.emulator.play()
            self.heard += heard
            for mark in marks:
                self._from_twilio(mark)
            await asyncio.sleep(0.02)

    def speak(self, payload: bytes) -> None:
        """Say this from now on."""
        payload += PCMU_8K.silence(-len(payload) % FRAME)
        self._speech.extend(payload[at : at + FRAME] for at in range(0, len(payload), FRAME))

    def press(self, digit: str) -> None:
        """Press a key."""
        self._from_twilio(self.emulator.dtmf(digit))

    def happened(self, event: LegEvent) -> None:
        """Bring an event that Twilio has no message for."""
        self._events.put_nowait(event)

    def caller_hangs_up(self) -> None:
        """End the call from the caller's side."""
        self._from_twilio(self.emulator.stop())
