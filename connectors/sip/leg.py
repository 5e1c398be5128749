"""A SIP call as a leg: signalling by the user agent, media by an RTP stream, both driven by their shells."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import numpy as np

from fastagent.connectors.events import LegEvents
from fastagent.connectors.leg import (
    CallInfo,
    Capability,
    DtmfReceived,
    HangupReason,
    InboundSink,
    LegEnded,
    LegError,
    LegEvent,
    MarkReached,
)
from fastagent.connectors.notices import Notice
from fastagent.connectors.rtp.stream import RtpStream
from fastagent.media.g711 import Int16Array

_log = logging.getLogger(__name__)

_MEDIA_TIMEOUT_S = 30.0
_HELD_S = 3600.0
_CONFIRM_S = 5.0
_SAME_KEY_S = 0.3  # a key may come by INFO and by RTP
_TRANSFER_S = 32.0


class Signalling:
    """What a leg asks of the user agent; the connector gives it."""

    def __init__(
        self,
        *,
        hang_up: Callable[[HangupReason], None],
        transfer: Callable[[str], None],
        send_info: Callable[[str], None],
    ) -> None:
        self.hang_up, self.transfer, self.send_info = hang_up, transfer, send_info


class SipLeg:
    """One call."""

    def __init__(self, info: CallInfo, stream: RtpStream, signalling: Signalling) -> None:
        self.info = info
        self.frames_dropped = 0
        self.capabilities: frozenset[Capability] = frozenset({"transfer", "dtmf"})
        self.stream = stream
        self._signalling = signalling
        self._events = LegEvents()
        self._loop = asyncio.get_running_loop()
        self._inbound: InboundSink | None = None
        self._marks: deque[tuple[int, str]] = deque()
        self._written = 0
        self._key: tuple[str, str, float] = ("", "", 0.0)  # digit, by what way, when
        self._transferring: asyncio.Future[int] | None = None

    # -- in --------------------------------------------------------------------------------------------------------

    def attach(self, inbound: InboundSink) -> None:
        """Push the caller's audio there."""
        self._inbound = inbound

    def audio_received(self, samples: Int16Array, now: float) -> None:
        """The stream brings 20 ms on each tick."""
        if self._inbound is not None:
            self._inbound.push(samples.astype("<i2", copy=False).tobytes(), None, now)
        quiet, limit = self.stream.quiet_s(now), _HELD_S if self.stream.outbound.held else _MEDIA_TIMEOUT_S
        if quiet > limit:
            self.happened(LegEnded(HangupReason.MEDIA_TIMEOUT))

    def key_received(self, digit: str, way: str) -> None:
        """A key, by RTP or by INFO; the same one by the other way within a moment is the same."""
        before, by, at = self._key
        now = self._loop.time()
        self._key = (digit, way, now)
        if digit == before and way != by and now - at < _SAME_KEY_S:
            return
        self.happened(DtmfReceived(digit))

    def happened(self, event: LegEvent) -> None:
        """The signalling brought an event."""
        self._events.put(event)

    def events(self) -> AsyncIterator[LegEvent]:
        """Yield what happens, up to and including `LegEnded`."""
        return aiter(self._events)

    # -- out -------------------------------------------------------------------------------------------------------

    def send_audio(self, payload: bytes) -> None:
        """Queue audio; the stream's clock sends it."""
        if not self._events.ended.is_set():
            self._written = self.stream.write(np.frombuffer(payload, "<i2").astype(np.int16, copy=False))

    def send_mark(self, name: str) -> None:
        """Queue a mark behind the audio so far."""
        self._marks.append((self._written, name))

    def played(self, position: int) -> None:
        """The stream has sent so many of our samples."""
        while self._marks and self._marks[0][0] <= position:
            self.happened(MarkReached(self._marks.popleft()[1]))

    def quality(self) -> Mapping[str, Any] | None:
        """Return the record of the stream so far."""
        return self.stream.quality().details()

    def flush(self) -> None:
        """A stream has no answers in it."""

    def clear(self) -> None:
        """Drop what is queued; nothing is buffered beyond but the phone's own few frames."""
        self._marks.clear()
        self.stream.clear()

    def notify(self, notice: Notice) -> None:
        """A phone is told nothing."""

    async def send_dtmf(self, digits: str) -> None:
        """Press keys: as telephone events, or by INFO where there are none."""
        if self.stream.plan.event_type is not None:
            self.stream.outbound.press(digits)
            return
        for digit in digits:
            self._signalling.send_info(digit)
            await asyncio.sleep(0.25)

    async def transfer(self, destination: str) -> None:
        """Ask the other side, by REFER, to call somebody else; done when it says so.

        Raises:
            LegError: it refuses, or cannot reach them.
        """
        target = destination if ":" in destination else f"sip:{destination}@{self.info.metadata.get('sip_host', '')}"
        self._transferring = self._loop.create_future()
        self._signalling.transfer(target)
        try:
            async with asyncio.timeout(_TRANSFER_S):
                status = await self._transferring
        except TimeoutError:
            raise LegError("the transfer had no answer") from None
        finally:
            self._transferring = None
        if status >= 300:
            raise LegError(f"the transfer was refused with {status}")

    def transfer_progressed(self, status: int, final: bool) -> None:
        """How our REFER fares."""
        if final and self._transferring is not None and not self._transferring.done():
            self._transferring.set_result(status)

    # -- the end ---------------------------------------------------------------------------------------------------

    async def hang_up(self, reason: HangupReason) -> None:
        """Say BYE; returns when the other side has confirmed it, or its time is over."""
        if not self._events.ended.is_set():
            self._signalling.hang_up(reason)
            try:
                async with asyncio.timeout(_CONFIRM_S):
                    await self._events.ended.wait()
            except TimeoutError:
                pass
        self.happened(LegEnded(reason))
