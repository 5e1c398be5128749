"""What is known of a stream that comes in: its order without end, its loss and its jitter (RFC 3550, A.1, A.3, A.8)."""

from dataclasses import dataclass, field

from fastagent.media.rtp.packet import RtpPacket
from fastagent.media.rtp.rtcp import ReportBlock

_MAX_JUMP = 1000  # a sequence further away is a sender that began anew
_REMEMBERED = 2048
JUMP_S = 1.0  # a change of transit that no network makes: the sender's clock has jumped, after a hold for one


def unwrapped(value: int, near: int, bits: int) -> int:
    """Return the number without end that is nearest to `near` and equals `value` modulo 2^bits."""
    half, whole = 1 << bits - 1, 1 << bits
    return near + (value - near + half) % whole - half


@dataclass(slots=True)
class Reception:
    """One source.

    Args:
        clock_hz: of its timestamps.
    """

    ssrc: int
    clock_hz: int
    received: int = 0
    duplicates: int = 0
    reordered: int = 0
    jitter: float = 0.0
    """In units of the clock (RFC 3550, A.8)."""
    _base: int | None = None
    _highest: int = 0
    _timestamp: int = 0
    _transit: float | None = None
    _seen: set[int] = field(default_factory=set)
    _reported: tuple[int, int] = (0, 0)  # expected and received at the last report

    def take(self, packet: RtpPacket, now: float, *, timed: bool = True) -> tuple[int, int] | None:
        """Return a packet's extended sequence and timestamp; None for a duplicate.

        Args:
            packet: the packet.
            now: when it came.
            timed: whether its timestamp is that of its sending; all packets of a key have that of its beginning.
        """
        if self._base is None:
            self._base = self._highest = packet.sequence
            self._timestamp = packet.timestamp
        sequence = unwrapped(packet.sequence, self._highest, 16)
        timestamp = unwrapped(packet.timestamp, self._timestamp, 32)
        if sequence in self._seen:
            self.duplicates += 1
            return None
        self._remember(sequence)
        self.received += 1
        if sequence > self._highest or self.received == 1:
            self._highest, self._timestamp = sequence, timestamp
        else:
            self.reordered += 1
        self._base = min(self._base, sequence)
        if timed:
            self._measure(timestamp, now)
        return sequence, timestamp

    def restarted(self, packet: RtpPacket) -> bool:
        """Whether a packet belongs to a stream that began anew: another source, or a jump of its sequence."""
        if packet.ssrc != self.ssrc:
            return True
        return self._base is not None and abs(unwrapped(packet.sequence, self._highest, 16) - self._highest) > _MAX_JUMP

    def _remember(self, sequence: int) -> None:
        self._seen.add(sequence)
        if len(self._seen) > 2 * _REMEMBERED:
            self._seen = {one for one in self._seen if one > self._highest - _REMEMBERED}

    def _measure(self, timestamp: int, now: float) -> None:
        transit = now * self.clock_hz - timestamp
        if self._transit is not None:
            change = abs(transit - self._transit)
            if change < JUMP_S * self.clock_hz:
                self.jitter += (change - self.jitter) / 16
        self._transit = transit

    @property
    def expected(self) -> int:
        """Packets that were sent, as far as their numbers tell."""
        return 0 if self._base is None else self._highest - self._base + 1

    @property
    def lost(self) -> int:
        """Packets that never came, so far."""
        return max(0, self.expected - self.received)

    @property
    def jitter_ms(self) -> float:
        """The estimate in milliseconds."""
        return 1000 * self.jitter / self.clock_hz

    def report(self, lsr: int = 0, dlsr: int = 0) -> ReportBlock:
        """Return the block for the next report, whose fraction is of the time since the last one."""
        expected, received = self.expected, self.received
        due, came = expected - self._reported[0], received - self._reported[1]
        self._reported = (expected, received)
        fraction = max(0, (due - came) * 256 // due) if due > 0 else 0
        return ReportBlock(
            self.ssrc, min(255, fraction), expected - received, self._highest, int(self.jitter), lsr, dlsr
        )
