"""Keys in RTP: telephone events (RFC 4733), in and out."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

KEYS = "0123456789*#ABCD"
_VOLUME = 10  # dB below 0 dBm0
_ENDS = 3  # how often the end of a key is sent
_MAX_DURATION = 0xFFFF
_REMEMBERED = 16  # keys of which a packet may still come


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
        self._keys: deque[tuple[int, int, int]] = deque(maxlen=_REMEMBERED)  # ssrc, timestamp, event
        self._lasted, self._over = 0, False  # what is known of the last one

    def take(self, ssrc: int, timestamp: int, payload: bytes) -> str | None:
        """Take an event's packet; return the key if it is a new one.

        Args:
            timestamp: of the key's beginning, as it is on the wire.
        """
        event = parse(payload)
        if event is None or event.event >= len(KEYS):
            return None
        key = (ssrc, timestamp, event.event)
        known = key in self._keys
        new = not known and not self._goes_on(key)
        if not known:
            self._keys.append(key)
            self._lasted, self._over = 0, False
        if key == self._keys[-1]:
            self._lasted, self._over = max(self._lasted, event.duration), self._over or event.end
        return KEYS[event.event] if new else None

    def _goes_on(self, key: tuple[int, int, int]) -> bool:
        """Whether it is the last one still: what lasts longer than 16 bits goes on under a new timestamp, just where it
        had come to, and has had no end (RFC 4733, 2.5.1.3)."""
        if not self._keys or self._over:
            return False
        ssrc, timestamp, event = self._keys[-1]
        return key == (ssrc, (timestamp + self._lasted) & 0xFFFFFFFF, event)


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
