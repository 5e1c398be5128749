"""RTCP (RFC 3550, 6): sender and receiver reports with SDES CNAME, and BYE; built and read."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_SR, _RR, _SDES, _BYE = 200, 201, 202, 203
_NTP_EPOCH = 2_208_988_800


@dataclass(frozen=True, slots=True)
class ReportBlock:
    """What one side received of a source; `jitter` in units of the RTP clock, `lsr` and `dlsr` in 1/65536 s."""

    ssrc: int
    fraction_lost: int
    """0 to 255."""
    lost: int
    """Since the beginning; may be negative through duplicates."""
    highest: int
    """Extended sequence number."""
    jitter: int
    lsr: int
    dlsr: int

    def __bytes__(self) -> bytes:
        lost = max(-0x800000, min(0x7FFFFF, self.lost)) & 0xFFFFFF
        return struct.pack(
            "!IIIIII",
            self.ssrc,
            self.fraction_lost << 24 | lost,
            self.highest & 0xFFFFFFFF,
            self.jitter & 0xFFFFFFFF,
            self.lsr,
            self.dlsr,
        )


@dataclass(frozen=True, slots=True)
class SenderInfo:
    """What a source says of its sending: wall clock as 64-bit NTP time, RTP time, packets, bytes."""

    ntp: int
    rtp: int
    packets: int
    octets: int


@dataclass(frozen=True, slots=True)
class Report:
    """A sender report, or a receiver report where `sender` is None."""

    ssrc: int
    sender: SenderInfo | None
    blocks: tuple[ReportBlock, ...] = ()

    def __bytes__(self) -> bytes:
        body = struct.pack("!I", self.ssrc)
        if self.sender is not None:
            one = self.sender
            body += struct.pack("!QIII", one.ntp, one.rtp & 0xFFFFFFFF, one.packets, one.octets & 0xFFFFFFFF)
        body += b"".join(map(bytes, self.blocks))
        return _packet(_SR if self.sender is not None else _RR, len(self.blocks), body)


@dataclass(frozen=True, slots=True)
class Bye:
    """A source leaves."""

    ssrc: int

    def __bytes__(self) -> bytes:
        return _packet(_BYE, 1, struct.pack("!I", self.ssrc))


@dataclass(frozen=True, slots=True)
class Cname:
    """Who a source is."""

    ssrc: int
    name: str

    def __bytes__(self) -> bytes:
        text = self.name.encode()[:255]
        item = bytes((1, len(text))) + text
        return _packet(_SDES, 1, struct.pack("!I", self.ssrc) + item + bytes(4 - len(item) % 4))


RtcpPacket = Report | Bye | Cname


def _packet(kind: int, count: int, body: bytes) -> bytes:
    return struct.pack("!BBH", 0x80 | count, kind, len(body) // 4) + body


def ntp_time(wall_s: float) -> int:
    """Return seconds since 1970 as 64-bit NTP time."""
    return int((wall_s + _NTP_EPOCH) * (1 << 32)) & 0xFFFFFFFFFFFFFFFF


def middle(ntp: int) -> int:
    """Return the middle 32 bits, in which reports tell when they were heard."""
    return ntp >> 16 & 0xFFFFFFFF


def round_trip_s(block: ReportBlock, wall_s: float) -> float | None:
    """Return the round trip that a report on us tells; None where it does not, or its clock is impossible."""
    if not block.lsr:
        return None
    trip = ((middle(ntp_time(wall_s)) - block.lsr - block.dlsr) & 0xFFFFFFFF) / 65536
    return trip if trip < 60 else None


def parse(data: bytes) -> list[RtcpPacket]:
    """Return what is understood of a compound packet; lies about lengths end it."""
    return list(_parse(data))


def _parse(data: bytes) -> Iterator[RtcpPacket]:
    at = 0
    while at + 8 <= len(data):
        first, kind, words = struct.unpack_from("!BBH", data, at)
        end = at + 4 + 4 * words
        if first >> 6 != 2 or end > len(data):
            return
        body, count = data[at + 4 : end], first & 0x1F
        if kind in (_SR, _RR):
            report = _report(kind, count, body)
            if report is not None:
                yield report
        elif kind == _BYE and len(body) >= 4:
            yield Bye(int.from_bytes(body[:4], "big"))
        elif kind == _SDES and len(body) >= 6 and body[4] == 1:
            yield Cname(int.from_bytes(body[:4], "big"), body[6 : 6 + body[5]].decode("utf-8", "replace"))
        at = end


def _report(kind: int, count: int, body: bytes) -> Report | None:
    head = 24 if kind == _SR else 4
    if len(body) < head + 24 * count:
        return None
    sender = SenderInfo(*struct.unpack_from("!QIII", body, 4)) if kind == _SR else None
    blocks = tuple(_block(body, head + 24 * at) for at in range(count))
    return Report(int.from_bytes(body[:4], "big"), sender, blocks)


def _block(body: bytes, at: int) -> ReportBlock:
    ssrc, loss, highest, jitter, lsr, dlsr = struct.unpack_from("!IIIIII", body, at)
    lost = loss & 0xFFFFFF
    return ReportBlock(ssrc, loss >> 24, lost - (1 << 24) if lost & 0x800000 else lost, highest, jitter, lsr, dlsr)
