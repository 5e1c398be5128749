"""Keys in RTP: telephone events (RFC 4733), in and out."""

from collections.abc import Iterator
from dataclasses import dataclass

KEYS = "0123456789*#ABCD"
_VOLUME = 10  # dB below 0 dBm0
_ENDS = 3  # how often the end of a key is sent
_MAX_DURATION = 0xFFFF
_LOST_END = 3  # events without an end that are missing: the key is over


@dataclass(frozen=True, slots=True)
class TelephoneEvent:
    """The payload: which key, whether it is over, and how long it has lasted in units of the clock."""

    event: int
    end: bool
    duration: int

    def __bytes__(self) -> bytes:
        return bytes((self.event, _VOLUME | (0x80 if self.end else 0))) + self.duration.to_bytes(2, "big")


def parse(payload: bytes) -> TelephoneEvent | None:
    """Return a telephone event; None for what is none."""
    if len(payload) < 4:
        return None
    return TelephoneEvent(payload[0], bool(payload[1] & 0x80), int.from_bytes(payload[2:4], "big"))


class DigitReceiver:
    """Reports each key once, at its first packet: barge-in wants speed."""

    def __init__(self) -> None:
        self._key: tuple[int, int, int] | None = None  # ssrc, timestamp, event
        self._until = 0  # timestamp + duration of what was seen of it
        self._done: tuple[int, int, int] | None = None

    def take(self, ssrc: int, timestamp: int, payload: bytes) -> str | None:
        """Take an event's packet; return the key if it is a new one.

        Args:
            timestamp: extended, of the key's beginning.
        """
        event = parse(payload)
        if event is None or event.event >= len(KEYS):
            return None
        key = (ssrc, timestamp, event.event)
        if key in (self._key, self._done) or (self._key is not None and timestamp < self._key[1]):
            self._until = max(self._until, timestamp + event.duration)
            return None
        # A key that lasts longer than 16 bits of duration goes on under a new timestamp, just where it had come to.
        goes_on = self._key is not None and self._key[2] == event.event and timestamp == self._until
        self._done, self._key = self._key, key
        self._until = timestamp + event.duration
        return None if goes_on else KEYS[event.event]


def packets(key: str, *, frame: int, duration: int) -> Iterator[tuple[bytes, bool]]:
    """Yield the payloads of a key, one a frame, and whether each is the first: they all have one timestamp.

    Args:
        frame: units of the clock between packets.
        duration: of the key, in the same units.
    """
    number, first, lasted = KEYS.index(key), True, 0
    while lasted + frame < min(duration, _MAX_DURATION):
        lasted += frame
        yield bytes(TelephoneEvent(number, False, lasted)), first
        first = False
    for _ in range(_ENDS):
        yield bytes(TelephoneEvent(number, True, min(duration, _MAX_DURATION))), first
        first = False
