"""A browser's call as a leg: a track each way, and a data channel for everything that is not audio."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any

import numpy as np
from aiortc import RTCDataChannel, RTCPeerConnection
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from fastagent.connectors.api_events import described
from fastagent.connectors.events import LegEvents
from fastagent.connectors.leg import (
    CallInfo,
    Capability,
    DtmfReceived,
    HangupReason,
    InboundSink,
    InterruptRequested,
    LegEnded,
    LegError,
    LegEvent,
    MarkReached,
    NoHold,
    TextReceived,
)
from fastagent.connectors.notices import Notice
from fastagent.connectors.webrtc.reception import received_by
from fastagent.connectors.webrtc.track import AgentTrack
from fastagent.media.rtp.digits import KEYS
from fastagent.media.rtp.inbound import RtpInbound
from fastagent.media.rtp.quality import quality_of
from fastagent.media.ticker import Ticker

_log = logging.getLogger(__name__)

_MAX_TEXT = 4000
_MAX_MESSAGE = 16 * 1024
_MAX_BUFFERED = 1 << 20  # bytes on the data channel that nobody reads
_MEDIA_TIMEOUT_S = 30.0
_STATS_S = 2.0
_CLOSE_S = 10.0


class WebRtcLeg(NoHold):
    """One peer connection."""

    def __init__(self, peer: RTCPeerConnection, info: CallInfo, ticker: Ticker) -> None:
        self.info = info
        self.frames_dropped = 0
        self.capabilities: frozenset[Capability] = frozenset()
        self.dropped_messages = 0
        self._peer, self._ticker, self._track = peer, ticker, AgentTrack()
        self._voice = self._track.queue
        self._events = LegEvents()
        self._inbound: InboundSink | None = None
        self._received: RtpInbound | None = None
        self._channel: RTCDataChannel | None = None
        self._early: list[str] = []
        self._loop = asyncio.get_running_loop()
        self._opened_at = self._loop.time()
        self._round_trip_s: float | None = None
        self._far_loss: float | None = None
        self._watching: list[asyncio.Task[None]] = []
        self._closing: asyncio.Task[None] | None = None
        self._sender = peer.addTrack(self._track)
        (self.line,) = peer.getTransceivers()
        """Becomes the offer's first line of audio."""

    # -- in --------------------------------------------------------------------------------------------------------

    def attach(self, inbound: InboundSink) -> None:
        """Push the caller's audio there."""
        self._inbound = inbound

    def track_received(self, track: MediaStreamTrack) -> None:
        """The browser's microphone."""
        if track is not self.line.receiver.track:
            return
        self._received = received_by(self.line.receiver, self._loop.time)
        self._watching.append(asyncio.create_task(self._watch(track), name="webrtc-track"))

    def connected(self) -> None:
        """Begin to send and to listen."""
        self._opened_at = self._loop.time()
        self._ticker.add(self._send_due, early=True, failed=self._failed)
        self._ticker.add(self._tick, failed=self._failed)
        self._watching.append(asyncio.create_task(self._measure(), name="webrtc-stats"))

    def _failed(self, error: Exception) -> None:
        """The ticker has dropped us: a call without it would never end by itself."""
        _log.error("a call's media failed", extra={"session_id": self.info.session_id}, exc_info=error)
        self._stop()
        self.happened(LegEnded(HangupReason.INTERNAL_ERROR))

    def _stop(self) -> None:
        for listener in (self._send_due, self._tick):
            self._ticker.remove(listener)

    def _send_due(self, now: float) -> None:
        self._track.tick()

    def _tick(self, now: float) -> None:
        for name in self._voice.reached():
            self.happened(MarkReached(name))
        heard_at = self._opened_at
        if self._received is not None:
            samples = self._received.tick(now)
            heard_at = max(heard_at, self._received.last_packet_at or 0.0)
            if self._inbound is not None:
                self._inbound.push(samples.astype("<i2", copy=False).tobytes(), None, now)
        if now - heard_at > _MEDIA_TIMEOUT_S:
            self.happened(LegEnded(HangupReason.MEDIA_TIMEOUT))

    async def _watch(self, track: MediaStreamTrack) -> None:
        """The track has no frames for us any more, but tells its end."""
        try:
            while True:
                await track.recv()
        except MediaStreamError:
            self.happened(LegEnded(HangupReason.CONNECTION_LOST))

    async def _measure(self) -> None:
        """Ask aiortc what the browser reports of our packets."""
        while True:
            await asyncio.sleep(_STATS_S)
            for one in (await self._sender.getStats()).values():
                if one.type == "remote-inbound-rtp":
                    self._round_trip_s, self._far_loss = one.roundTripTime, one.fractionLost / 256

    def channel_opened(self, channel: RTCDataChannel) -> None:
        """The browser has opened a data channel."""
        if self._channel is not None:
            return
        self._channel = channel
        channel.on("message", self._message)
        for text in self._early:
            self._send(text)
        self._early.clear()

    def _message(self, text: object) -> None:
        """Take a message of the page; what cannot be understood is counted and dropped."""
        event = _event(text)
        if event is None:
            self.dropped_messages += 1
            return
        for one in event:
            self.happened(one)

    def happened(self, event: LegEvent) -> None:
        """The connection, or the page, brought an event."""
        self._events.put(event)

    def events(self) -> AsyncIterator[LegEvent]:
        """Yield what happens, up to and including `LegEnded`."""
        return aiter(self._events)

    # -- out -------------------------------------------------------------------------------------------------------

    def send_audio(self, payload: bytes) -> None:
        """Queue audio; the shared clock sends it."""
        self._voice.write(np.frombuffer(payload, "<i2").astype(np.int16, copy=False))

    def send_mark(self, name: str) -> None:
        """Queue a mark behind the audio so far."""
        self._voice.mark(name)

    def quality(self) -> Mapping[str, Any] | None:
        """Return the record of the media so far; None before there was any."""
        if self._received is None:
            return None
        return quality_of(
            self._received,
            codec="opus",
            packets_sent=self._track.packets_sent,
            round_trip_s=self._round_trip_s,
            far_loss=self._far_loss,
        ).details()

    def flush(self) -> None:
        """Nothing to say: a stream has no answers in it."""

    def clear(self) -> None:
        """Drop what is queued; nothing is buffered beyond."""
        self._voice.clear()

    def notify(self, notice: Notice) -> None:
        """Tell the page."""
        found = described(notice)
        if found is not None:
            type_, payload = found
            self._send(json.dumps({"type": type_, "payload": payload}))

    def _send(self, text: str) -> None:
        channel = self._channel
        if channel is None:
            if len(self._early) < 50:
                self._early.append(text)
        elif channel.readyState == "open" and channel.bufferedAmount < _MAX_BUFFERED:
            channel.send(text)

    async def send_dtmf(self, digits: str) -> None:
        """A browser has no keys to be pressed."""
        raise LegError("a browser's call takes no keys")

    async def transfer(self, destination: str) -> None:
        """There is nowhere to transfer a browser to."""
        raise LegError("a browser's call cannot be transferred")

    # -- the end ---------------------------------------------------------------------------------------------------

    async def hang_up(self, reason: HangupReason) -> None:
        """Tell the page, then close."""
        self._send(json.dumps({"type": "session_ended", "payload": {"reason": reason.value}}))
        if self._channel is not None and self._channel.readyState == "open":
            await asyncio.sleep(0.1)  # the channel has no drain
        self.happened(LegEnded(reason))
        await self.aclose()

    async def aclose(self) -> None:
        """Release everything; may be called twice, and cancelled: then it goes on by itself.

        A peer connection that is not closed to its end keeps its sockets, and whoever closes it again waits for ever.
        """
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="webrtc-close")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._events.put(LegEnded(HangupReason.INTERNAL_ERROR))
        self._stop()
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        self._track.stop()
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._peer.close()
        except Exception:  # too late, or a defect: it is gone for us, and keeps nobody waiting
            _log.exception("a peer connection did not close", extra={"session_id": self.info.session_id})


def _event(text: object) -> list[LegEvent] | None:
    if not isinstance(text, str) or len(text) > _MAX_MESSAGE:
        return None
    try:
        message = json.loads(text)
        type_, payload = message["type"], message.get("payload") or {}
        if type_ == "dtmf" and 0 < len(payload["digits"]) <= 64 and set(payload["digits"]) <= set(KEYS):
            return [DtmfReceived(digit) for digit in payload["digits"]]
        if type_ == "text_input" and payload["text"].strip():
            return [TextReceived(payload["text"][:_MAX_TEXT].strip())]
        if type_ == "interrupt":
            return [InterruptRequested()]
        if type_ == "end_session":
            return [LegEnded(HangupReason.CALLER_HUNG_UP)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return None
