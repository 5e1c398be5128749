"""A browser's packets, out of aiortc and into our own jitter buffer.

aiortc hands what it has decrypted to a jitter buffer of its own, which releases a frame only when the next one is
there, counts packets instead of time, and never conceals. Ours is put in its place, by the one name that aiortc gives
it; nothing is left for aiortc's decoder to do.
"""

from collections.abc import Callable
from typing import Any

from aiortc import RTCRtpReceiver

from fastagent.media.rtp.codecs import Opus
from fastagent.media.rtp.inbound import RtpInbound
from fastagent.media.rtp.packet import RtpPacket

_OPUS = 111
_NAME = "_RTCRtpReceiver__jitter_buffer"


class _Tap:
    """Looks to aiortc like a jitter buffer that never has a frame."""

    def __init__(self, inbound: RtpInbound, clock: Callable[[], float]) -> None:
        self._inbound, self._clock = inbound, clock

    def add(self, packet: Any) -> tuple[bool, None]:
        """Take a packet whose payload type aiortc has checked already: only Opus was negotiated."""
        one = RtpPacket(_OPUS, packet.sequence_number, packet.timestamp, packet.ssrc, packet._data, bool(packet.marker))
        self._inbound.push(one, self._clock())
        return False, None


def received_by(receiver: RTCRtpReceiver, clock: Callable[[], float]) -> RtpInbound:
    """Return what takes the packets of a receiver from now on.

    Raises:
        RuntimeError: this aiortc is built otherwise.
    """
    if not hasattr(receiver, _NAME):
        raise RuntimeError("aiortc's receiver has no jitter buffer to replace")
    inbound = RtpInbound({_OPUS: Opus()})
    setattr(receiver, _NAME, _Tap(inbound, clock))
    return inbound
