"""RTP packets on the wire (RFC 3550, 5.1)."""

import struct
from dataclasses import dataclass

_HEADER = struct.Struct("!BBHII")
_MAX_SIZE = 1500 * 2


@dataclass(frozen=True, slots=True)
class RtpPacket:
    """One packet; `timestamp` counts in units of the RTP clock, modulo 2^32."""

    payload_type: int
    sequence: int
    timestamp: int
    ssrc: int
    payload: bytes = b""
    marker: bool = False

    def __bytes__(self) -> bytes:
        second = self.payload_type | (0x80 if self.marker else 0)
        return _HEADER.pack(0x80, second, self.sequence, self.timestamp, self.ssrc) + self.payload


def parse(data: bytes) -> RtpPacket | None:
    """Return a packet without its padding, extension and contributing sources; None for what is no RTP, or lies about
    its lengths."""
    if not 12 <= len(data) <= _MAX_SIZE or data[0] >> 6 != 2:
        return None
    first, second, sequence, timestamp, ssrc = _HEADER.unpack_from(data)
    start, end = 12 + 4 * (first & 0x0F), len(data)
    if first & 0x10:  # extension: its length in words follows two bytes of its profile
        if start + 4 > end:
            return None
        start += 4 + 4 * int.from_bytes(data[start + 2 : start + 4], "big")
    if first & 0x20 and end > start:  # padding: the last byte tells how much
        if not 0 < data[-1] <= end - start:
            return None
        end -= data[-1]
    if start > end:
        return None
    return RtpPacket(second & 0x7F, sequence, timestamp, ssrc, data[start:end], bool(second & 0x80))


def is_rtcp(data: bytes) -> bool:
    """Whether a datagram on a shared port is RTCP (RFC 5761, 4)."""
    return len(data) >= 8 and data[0] >> 6 == 2 and 192 <= data[1] <= 223
