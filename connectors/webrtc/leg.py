"""A browser's call as a leg: a track each way, and a data channel for everything that is not audio."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
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
from fastagent.connectors.webrtc.track import RATE_HZ, AgentTrack
from fastagent.media.resample import StreamResampler

_log = logging.getLogger(__name__)

_KEYS = frozenset("0123456789*#ABCD")
_MAX_TEXT = 4000
_MAX_MESSAGE = 16 * 1024
_MAX_BUFFERED = 1 << 20  # bytes on the data channel that nobody reads
_MEDIA_TIMEOUT_S = 30.0


class WebRtcLeg(NoHold):
    """One peer connection."""

    def __init__(self, peer: RTCPeerConnection, info: CallInfo) -> None:
        self.info = info
        self.frames_dropped = 0
        self.capabilities: frozenset[Capability] = frozenset()
        self.dropped_messages = 0
        self._peer, self._track = peer, AgentTrack()
        self._events = LegEvents()
        self._inbound: InboundSink | None = None
        self._channel: RTCDataChannel | None = None
        self._early: list[str] = []
        self._loop = asyncio.get_running_loop()
        self._reading: asyncio.Task[None] | None = None
        self._marking = asyncio.create_task(self._follow_marks(), name="webrtc-marks")
        peer.addTrack(self._track)

    # -- in --------------------------------------------------------------------------------------------------------

    def attach(self, inbound: InboundSink) -> None:
        """Push the caller's audio there."""
        self._inbound = inbound

    def track_received(self, track: MediaStreamTrack) -> None:
        """The browser's microphone."""
        if track.kind == "audio" and self._reading is None:
            self._reading = asyncio.create_task(self._read(track), name="webrtc-audio")

    async def _read(self, track: MediaStreamTrack) -> None:
        resampler: StreamResampler | None = None
        try:
            while True:
                async with asyncio.timeout(_MEDIA_TIMEOUT_S):
                    frame: Any = await track.recv()
                samples = frame.to_ndarray().reshape(-1, len(frame.layout.channels)).mean(axis=1)
                resampler = resampler or StreamResampler(frame.sample_rate, RATE_HZ)
                payload = resampler.push(np.asarray(samples, np.int16)).astype("<i2").tobytes()
                if self._inbound is not None and payload:
                    self._inbound.push(payload, None, self._loop.time())
        except MediaStreamError:
            self.happened(LegEnded(HangupReason.CONNECTION_LOST))
        except TimeoutError:
            self.happened(LegEnded(HangupReason.MEDIA_TIMEOUT))

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
        """Queue audio; the track's clock sends it."""
        self._track.write(np.frombuffer(payload, "<i2").astype(np.int16, copy=False))

    def send_mark(self, name: str) -> None:
        """Queue a mark behind the audio so far."""
        self._track.mark(name)

    async def _follow_marks(self) -> None:
        while True:
            await self._track.moved.wait()
            self._track.moved.clear()
            while self._track.reached:
                self.happened(MarkReached(self._track.reached.popleft()))

    def quality(self) -> None:
        """aiortc's own jitter buffer does not tell."""

    def flush(self) -> None:
        """Nothing to say: a stream has no answers in it."""

    def clear(self) -> None:
        """Drop what is queued; nothing is buffered beyond."""
        self._track.clear()
        self._track.reached.clear()

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
        """Release everything; may be called twice."""
        self._events.put(LegEnded(HangupReason.INTERNAL_ERROR))
        tasks = [task for task in (self._reading, self._marking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._track.stop()
        await self._peer.close()


def _event(text: object) -> list[LegEvent] | None:
    if not isinstance(text, str) or len(text) > _MAX_MESSAGE:
        return None
    try:
        message = json.loads(text)
        type_, payload = message["type"], message.get("payload") or {}
        if type_ == "dtmf" and 0 < len(payload["digits"]) <= 64 and set(payload["digits"]) <= _KEYS:
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
