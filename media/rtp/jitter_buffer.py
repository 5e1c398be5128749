"""The jitter buffer: packets in as the network brings them, out on the playout clock.

    push(packet, now) --> [ slots by timestamp ] --> pop(now), each 20 ms: Play | Lost | Pause | Dry

**Delay.** A packet's transit is its arrival less its timestamp; the least transit of the last seconds is the network at
its best, which also follows the drift between the two clocks. What a packet needs more than that is its delay. The
target depth is the 97th percentile of delays, plus a frame, between 40 and 200 ms: a spike that comes once in a hundred
packets is worth a lost one, not a later conversation.

**Balance.** The depth that is really there drifts away from the target, by the network or by the clocks. It is brought
back a frame at a time where nobody hears it: `too_deep` asks to drop a silent frame, `too_shallow` to repeat one. Only
far beyond the target a frame of speech goes.

**Gaps.** A missing number is loss; that of a key's packet is not missing. A jump of time without a missing number is a
pause that the sender made: silence. An empty buffer is either; the clock then stands still, so that late packets are
still of use.

**Clocks that jump.** A sender that was on hold may go on as if no time had passed. Then transit has changed for good,
by more than any network would, and is measured anew.
"""

from dataclasses import dataclass

_MIN_S, _MAX_S, _START_S = 0.04, 0.2, 0.06
_QUANTILE = 0.97
_BIN_S = 0.005
_BINS = 100
_FORGET = 0.998  # a delay counts half after 350 packets, 7 s
_WINDOW_S = 5.0  # the least transit is that of the last one to two of these
_RESCALE = 1e12
_EVERY = 10  # packets between two looks at the quantile
_MUCH_S = 0.12  # so much too deep: speech goes, too
_MAX_PACKETS = 100
_JUMP_S = 1.0  # a change of transit that is no delay


@dataclass(frozen=True, slots=True)
class Play:
    """The next packet's payload."""

    payload: bytes
    payload_type: int
    samples: int
    """Its length in units of the clock."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A frame that will not come: conceal it."""


@dataclass(frozen=True, slots=True)
class Pause:
    """The sender is silent: comfort noise."""


@dataclass(frozen=True, slots=True)
class Dry:
    """Nothing is there: conceal for a moment, then be silent. The clock stands still."""


Slot = Play | Lost | Pause | Dry


@dataclass(frozen=True, slots=True)
class _Waiting:
    sequence: int
    payload: bytes
    payload_type: int
    samples: int


@dataclass(slots=True)
class JitterStats:
    """Counted in packets, but for the adjustments, which are frames."""

    played: int = 0
    late: int = 0
    lost: int = 0
    overflowed: int = 0
    dry: int = 0
    dropped_frames: int = 0
    repeated_frames: int = 0


class JitterBuffer:
    """One stream.

    Args:
        clock_hz: of the timestamps.
        frame_s: what one `pop` stands for.
    """

    def __init__(self, clock_hz: int, *, frame_s: float = 0.02) -> None:
        self._clock, self._frame_s = clock_hz, frame_s
        self._frame = round(frame_s * clock_hz)
        self.stats = JitterStats()
        self._slots: dict[int, _Waiting] = {}
        self._soundless: set[int] = set()
        self._next: int | None = None  # the timestamp to be played now
        self._last_sequence = -1  # of what was played
        self._starts_at = 0.0
        self._weights = [0.0] * (_BINS + 1)
        self._total, self._gain, self._since_target = 0.0, 1.0, 0
        self._least = [float("inf"), float("inf")]  # of the window before, and of this one
        self._window_until = 0.0
        self.target_s = _START_S

    # -- in --------------------------------------------------------------------------------------------------------

    def push(self, sequence: int, timestamp: int, payload: bytes, payload_type: int, samples: int, now: float) -> None:
        """Take a packet by its extended sequence and timestamp; `samples` is its length in units of the clock."""
        self._measure(now - timestamp / self._clock, now)
        if self._next is None:
            self._next, self._starts_at = timestamp, now + self.target_s
            self._last_sequence = sequence - 1
        if timestamp + samples <= self._next:
            if self.stats.played == 0 and now < self._starts_at:  # before the start, order does not matter yet
                self._next, self._last_sequence = timestamp, sequence - 1
            else:
                self.stats.late += 1
                return
        self._slots[timestamp] = _Waiting(sequence, payload, payload_type, samples)
        if len(self._slots) > _MAX_PACKETS:
            self._overflow()

    def skip(self, sequence: int) -> None:
        """This number has come and has no sound in it: a key, comfort noise. It is no loss, then."""
        self._soundless.add(sequence)
        if len(self._soundless) > _MAX_PACKETS:
            self._soundless = set(sorted(self._soundless)[_MAX_PACKETS // 2 :])

    def _overflow(self) -> None:
        """Far more than anybody wants to wait for: go on with what is newest."""
        oldest = sorted(self._slots)[: len(self._slots) // 2]
        for timestamp in oldest:
            self._last_sequence = self._slots.pop(timestamp).sequence
        self.stats.overflowed += len(oldest)
        self._next = min(self._slots)

    def _measure(self, transit_s: float, now: float) -> None:
        if abs(transit_s - self._base) > _JUMP_S:
            self._least = [transit_s, transit_s]
        if now >= self._window_until:
            self._least = [self._least[1], float("inf")]
            self._window_until = now + _WINDOW_S
        self._least[1] = min(self._least[1], transit_s)
        delay = transit_s - self._base
        # Newer delays weigh more, rather than all older ones less: the same, for one addition a packet.
        self._gain /= _FORGET
        self._weights[min(_BINS, int(delay / _BIN_S))] += self._gain
        self._total += self._gain
        if self._gain > _RESCALE:
            self._weights = [weight / self._gain for weight in self._weights]
            self._total, self._gain = self._total / self._gain, 1.0
        self._since_target += 1
        if self._since_target >= _EVERY or self.stats.played < _EVERY:
            self._since_target = 0
            self.target_s = min(_MAX_S, max(_MIN_S, self.quantile_s(_QUANTILE) + self._frame_s))

    @property
    def _base(self) -> float:
        return min(self._least)

    def quantile_s(self, share: float) -> float:
        """Return the delay that this share of recent packets did not exceed, in seconds."""
        wanted, so_far = share * self._total, 0.0
        for at, weight in enumerate(self._weights):
            so_far += weight
            if so_far >= wanted:
                return at * _BIN_S
        return _BINS * _BIN_S

    # -- out -------------------------------------------------------------------------------------------------------

    def depth_s(self, now: float) -> float:
        """Return how long a packet that took the shortest way would have waited before it is played now."""
        if self._next is None:
            return 0.0
        return now - self._base - self._next / self._clock

    def too_deep(self, now: float, *, silent: bool) -> bool:
        """Whether the frame just popped should be dropped: `silent` says that nobody would miss it."""
        surplus = self.depth_s(now) - self.target_s
        return surplus > (1.5 * self._frame_s if silent else _MUCH_S)

    def too_shallow(self, now: float) -> bool:
        """Whether one more silent frame should be played before the next pop."""
        started = self._next is not None and now >= self._starts_at
        return started and self.depth_s(now) < self.target_s - 1.5 * self._frame_s

    def pop(self, now: float) -> Slot:
        """Return what the next 20 ms are made of."""
        if self._next is None or now < self._starts_at:
            return Dry()
        waiting = self._slots.pop(self._next, None)
        if waiting is not None:
            self._next += waiting.samples
            self._last_sequence = waiting.sequence
            self.stats.played += 1
            return Play(waiting.payload, waiting.payload_type, waiting.samples)
        if not self._slots:
            self.stats.dry += 1
            return Dry()
        return self._missing(now)

    def _missing_numbers(self, until: int) -> int:
        """How many packets have not come between what was played last and this one."""
        return until - self._last_sequence - 1 - sum(self._last_sequence < one < until for one in self._soundless)

    def _missing(self, now: float) -> Slot:
        assert self._next is not None
        following = min(self._slots)
        numbers = self._missing_numbers(self._slots[following].sequence)
        surplus = self.depth_s(now) - self.target_s
        if surplus > self._frame_s:
            # The clock stood still while nothing came, and that time was filled: with what is missing here, it turns
            # out. Nor is there a better place to become shallower than where there is nothing to be heard.
            self._next = min(following, self._next + round(surplus * self._clock) // self._frame * self._frame)
            if self._next == following:
                return self.pop(now)
        step = min(self._frame, following - self._next)
        if step <= 0:  # it overlaps what was played: sizes have changed
            self._next = following
            return self.pop(now)
        self._next += step
        if numbers <= 0:
            return Pause()
        if (following - self._next) < numbers * self._frame:
            self._last_sequence += 1
        self.stats.lost += 1
        return Lost()
