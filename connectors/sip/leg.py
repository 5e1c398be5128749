"""A SIP call as a leg: signalling by the user agent, media by an RTP stream, both driven by their shells."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol

import numpy as np

from fastagent.connectors.events import LegEvents
from fastagent.connectors.leg import (
    CallInfo,
    Capability,
    DtmfReceived,
    HangupReason,
    HoldBegan,
    HoldEnded,
    InboundSink,
    LegEnded,
    LegError,
    LegEvent,
    MarkReached,
)
from fastagent.connectors.notices import Notice
from fastagent.connectors.rtp.stream import MediaPlan, RtpStream
from fastagent.connectors.sip.attended import Consultation, attended_transfer
from fastagent.connectors.sip.grammar import Malformed
from fastagent.connectors.sip.hold_music import HoldMusic
from fastagent.media.dtmf import ToneDetector, tones
from fastagent.media.g711 import Int16Array

_MEDIA_TIMEOUT_S = 30.0
_HELD_S = 3600.0
_CONFIRM_S = 5.0
_CHANGE_S = 120.0  # beyond the core's own patience
_SAME_KEY_S = 0.3  # a key may come by INFO and by RTP
_TRANSFER_S = 95.0  # beyond the core's own patience
_INFO_GAP_S = 0.25
_MUSIC_AHEAD_S = 0.04


class Signalling(Protocol):
    """What a leg asks of the user agent; the connector gives it."""

    consult: Callable[[str], Consultation] | None
    """Calls the target of a transfer, where transfers are attended."""

    def hang_up(self, reason: HangupReason) -> None:
        """Say BYE."""
        ...

    def transfer(self, target: str) -> None:
        """Say REFER; may raise `Malformed`."""
        ...

    def send_info(self, digit: str) -> None:
        """Send a key by INFO."""
        ...

    def hold(self, on: bool) -> None:
        """Ask the other side for a hold, or for its end."""
        ...


class SipLeg:
    """One call.

    Args:
        info: what is known of it.
        stream: its media.
        signalling: its user agent.
        music: what a caller hears whom we have put on hold.
        inband: whether keys are heard and sent as tones, where there are no telephone events.
    """

    def __init__(
        self, info: CallInfo, stream: RtpStream, signalling: Signalling, *, music: HoldMusic, inband: bool = False
    ) -> None:
        self.info = info
        self.frames_dropped = 0
        self.capabilities: frozenset[Capability] = frozenset({"transfer", "dtmf", "hold"})
        self.stream = stream
        self._signalling = signalling
        self._events = LegEvents()
        self._loop = asyncio.get_running_loop()
        self._inbound: InboundSink | None = None
        self._voice = stream.outbound.queue
        self._key, self._key_at = "", 0.0
        self._presses: Counter[str] = Counter()  # of this key in a row, by what way they came
        self._transferring: asyncio.Future[int] | None = None
        self._changing: asyncio.Future[bool] | None = None
        self._wanted = False
        self._music, self._music_at = music, 0
        self._holding = False
        """Whether it is us who hold the caller."""
        self._inband = inband
        self._detector: ToneDetector | None = None
        self._listen_for_tones()
        self._on_hold = not _both_ways(stream.plan)
        if self._on_hold:
            self.happened(HoldBegan())

    # -- in --------------------------------------------------------------------------------------------------------

    def attach(self, inbound: InboundSink) -> None:
        """Push the caller's audio there."""
        self._inbound = inbound

    def audio_received(self, samples: Int16Array, now: float) -> None:
        """The stream brings 20 ms on each tick; on hold it is music, or nothing, and counts as silence."""
        for name in self._voice.reached():
            self.happened(MarkReached(name))
        if self._inbound is not None:
            heard = np.zeros_like(samples) if self._on_hold else samples
            self._inbound.push(heard.astype("<i2", copy=False).tobytes(), None, now)
        for digit in self._detector.push(samples) if self._detector is not None else "":
            self.key_received(digit, "tone")
        if self._holding:
            self._play_music()
        if self.stream.quiet_s(now) > (_HELD_S if self._on_hold else _MEDIA_TIMEOUT_S):
            self.happened(LegEnded(HangupReason.MEDIA_TIMEOUT))

    def _listen_for_tones(self) -> None:
        wanted = self._inband and self.stream.plan.receives_events is None
        self._detector = (self._detector or ToneDetector(self.stream.rate_hz)) if wanted else None

    def _play_music(self) -> None:
        if self._voice.queued_s < _MUSIC_AHEAD_S:
            samples, self._music_at = self._music.take(self.stream.rate_hz, self._music_at)
            self._voice.write(samples)

    def key_received(self, digit: str, way: str) -> None:
        """A key, by RTP, INFO or tone; the same one by another way within a moment is the same."""
        now = self._loop.time()
        if digit != self._key or now - self._key_at > _SAME_KEY_S:
            self._key, self._presses = digit, Counter()
        self._key_at = now
        seen = max(self._presses.values(), default=0)
        self._presses[way] += 1
        if self._presses[way] > seen:  # else another way has brought this press already
            self.happened(DtmfReceived(digit))

    def media_changed(self, plan: MediaPlan) -> None:
        """The call was renegotiated."""
        self.stream.renegotiate(plan)
        self._listen_for_tones()
        on_hold = not _both_ways(plan)
        if on_hold is not self._on_hold:
            self._on_hold = on_hold
            self.happened(HoldBegan() if on_hold else HoldEnded())

    def change_done(self, done: bool) -> None:
        """What became of our own change of the call, whether anybody still waits for it or not."""
        changing, self._changing = self._changing, None
        if changing is None:
            return
        if done:
            self._holding = self._wanted
            if not self._holding:
                self.clear()
        changing.set_result(done)

    @property
    def over(self) -> HangupReason | None:
        """Why the call is over; None as long as it is not."""
        return self._events.reason

    def happened(self, event: LegEvent) -> None:
        """The signalling brought an event."""
        if self._events.put(event):
            self.change_done(False)
            self.transfer_progressed(487, True)

    def events(self) -> AsyncIterator[LegEvent]:
        """Yield what happens, up to and including `LegEnded`."""
        return aiter(self._events)

    # -- out -------------------------------------------------------------------------------------------------------

    def send_audio(self, payload: bytes) -> None:
        """Queue audio; the stream's clock sends it."""
        if not self._events.ended.is_set():
            self._voice.write(np.frombuffer(payload, "<i2").astype(np.int16, copy=False))

    def send_mark(self, name: str) -> None:
        """Queue a mark behind the audio so far."""
        self._voice.mark(name)

    def quality(self) -> Mapping[str, Any] | None:
        """Return the record of the stream so far."""
        return self.stream.quality().details()

    def flush(self) -> None:
        """A stream has no answers in it."""

    def clear(self) -> None:
        """Drop what is queued; nothing is buffered beyond but the phone's own few frames."""
        self._voice.clear()

    def notify(self, notice: Notice) -> None:
        """A phone is told nothing."""

    async def send_dtmf(self, digits: str) -> None:
        """Press keys: as telephone events; where there are none as tones, if those are wanted, else by INFO."""
        if self.stream.plan.event_type is not None:
            self.stream.outbound.press(digits)
            return
        if self._inband:
            self._voice.write(tones(digits, self.stream.rate_hz))
            return
        for digit in digits:
            self._signalling.send_info(digit)
            await asyncio.sleep(_INFO_GAP_S)

    # -- changes ---------------------------------------------------------------------------------------------------

    async def hold(self, on: bool) -> None:
        """Put the caller on hold, or take them back; returns when their phone has agreed. A change that is under way is
        waited for: whoever asked for it may have left.

        Raises:
            LegError: it has refused, or does not say.
        """
        try:
            async with asyncio.timeout(_CHANGE_S):
                while self._changing is not None:
                    await asyncio.wait((self._changing,))
                if on is self._holding:
                    return
                self._changing, self._wanted = self._loop.create_future(), on
                waited = self._changing
                self._signalling.hold(on)
                done = await asyncio.shield(waited)
        except TimeoutError:
            done = False
        if not done:
            raise LegError("the phone does not agree")

    async def transfer(self, destination: str) -> None:
        """Ask the other side, by REFER, to call somebody else; done when it says so. Where transfers are attended,
        they are called by us first.

        Raises:
            LegError: it refuses, or cannot reach them.
        """
        consult = self._signalling.consult
        if consult is None:
            await self.refer(lambda: self._signalling.transfer(destination))
        else:
            await attended_transfer(self, lambda: consult(destination))

    async def refer(self, ask: Callable[[], None]) -> None:
        """Have a REFER sent, and wait for how it ends; errors as for `transfer`."""
        if self._transferring is not None:
            raise LegError("the call is being transferred already")
        self._transferring = self._loop.create_future()
        try:
            ask()
            async with asyncio.timeout(_TRANSFER_S):
                status = await self._transferring
        except Malformed:
            raise LegError("the destination is no address") from None
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
        """Say BYE; returns when the call is over for the user agent, or its time is up."""
        if not self._events.ended.is_set():
            self._signalling.hang_up(reason)
            try:
                async with asyncio.timeout(_CONFIRM_S):
                    await self._events.ended.wait()
            except TimeoutError:
                pass
        self.happened(LegEnded(reason))


def _both_ways(plan: MediaPlan) -> bool:
    return plan.sends and plan.listens
