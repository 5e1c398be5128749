"""The jitter buffer: packets in as the network brings them, out on the playout clock.

    push(packet, now) --> [ slots by timestamp ] --> pop(now), each 20 ms: Play | Lost | Pause | Dry

**Delay.** A packet's transit is its arrival less its timestamp; the least transit of the last seconds is the network at
its best, which also follows the drift between the two clocks. What a packet needs more than that is its delay. The
target depth is the 97th percentile of delays, plus a frame, between 40 and 200 ms: a spike that comes once in a hundred
packets is worth a lost one, not a later conversation.

**Balance.** The depth that is really there drifts away from the target, by the network or by the clocks. It is brought
back a frame at a time where nobody hears it: `too_deep` asks to drop a silent frame, `too_shallow` to repeat one. Only
far beyond the target a frame of speech goes.

**Gaps.** A missing number is loss, as long as the last packet was; that of a key's packet is not missing. The rest of a
gap, or all of it where no number is missing, is a pause that the sender made: silence. An empty buffer is either; the
clock then stands still, so that late packets are still of use.

**Clocks that jump.** A sender that was on hold may go on as if no time had passed. Then transit has changed for good,
by more than any network would, and is measured anew. A packet that is newer than all others, yet has its place among
what was played, says that the clock was set back: with it everything begins anew.
"""

from dataclasses import dataclass

from fastagent.media.rtp.reception import JUMP_S

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


@dataclass(frozen=True, slots=True)
class Play:
    """The next packet's payload."""

    payload: bytes
    payload_type: int
    samples: int
    """Its length in units of the clock."""
    paused: bool = False
    """Whether the sender had made a pause before it, which an empty buffer has filled."""


@dataclass(frozen=True, slots=True)
class Lost:
    """So many units of the clock that will not come: conceal them."""

    samples: int


@dataclass(frozen=True, slots=True)
class Pause:
    """So many units of the clock for which the sender is silent: comfort noise."""

    samples: int


@dataclass(frozen=True, slots=True)
class Dry:
    """Nothing is there: conceal a frame, for a moment, then be silent. The clock stands still."""


Slot = Play | Lost | Pause | Dry


@dataclass(frozen=True, slots=True)
class _Waiting:
    sequence: int
    payload: bytes
    payload_type: int
    samples: int


@dataclass(slots=True)
class JitterStats:
    """Counted in packets, but for `dry`, which are frames."""

    played: int = 0
    late: int = 0
    lost: int = 0
    dropped: int = 0
    """They waited when there were too many, or when the sender's clock was set back."""
    dry: int = 0


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
        self._length = self._frame  # of the packet that was played last
        self._made_up = 0  # of what is lost since then
        self._newest = self._first = -1  # sequence numbers: the highest that came, and that of the beginning
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
        begins = self._next is None or self._is_set_back(sequence, timestamp, samples)
        if begins:
            self._forget()
        self._measure(now - timestamp / self._clock, now)
        if begins:
            self._begin(sequence, timestamp)
            self._starts_at = now + self.target_s
        self._newest = max(self._newest, sequence)
        assert self._next is not None
        past = timestamp + samples <= self._next
        if past and now < self._starts_at:  # before the start, order does not matter yet
            self._begin(sequence, timestamp)
        elif past or sequence < self._first:
            self.stats.late += 1
            return
        self._slots[timestamp] = _Waiting(sequence, payload, payload_type, samples)
        if len(self._slots) > _MAX_PACKETS:
            self._overflow()

    def _is_set_back(self, sequence: int, timestamp: int, samples: int) -> bool:
        """Whether a packet can only be one of a clock that was set back."""
        assert self._next is not None
        behind = self._next - timestamp
        return sequence > self._newest and behind >= samples and behind > self._frame

    def _forget(self) -> None:
        """What waits has no place by the new clock, and the way of its packets looks like another one."""
        self.stats.dropped += len(self._slots)
        self._slots.clear()
        self._least = [float("inf"), float("inf")]

    def _begin(self, sequence: int, timestamp: int) -> None:
        """Play this packet first."""
        self._next, self._made_up = timestamp, 0
        self._first, self._last_sequence = sequence, sequence - 1

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
        self.stats.dropped += len(oldest)
        self._next, self._made_up = min(self._slots), 0

    def _measure(self, transit_s: float, now: float) -> None:
        if abs(transit_s - self._base) > JUMP_S:
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
        """Whether the frame just popped should be dropped: `silent` says that nobody would miss it. Where nothing
        follows, one would have to be made up in its place."""
        surplus = self.depth_s(now) - self.target_s
        return bool(self._slots) and surplus > (1.5 * self._frame_s if silent else _MUCH_S)

    def too_shallow(self, now: float) -> bool:
        """Whether one more silent frame should be played before the next pop."""
        started = self._next is not None and now >= self._starts_at
        return started and self.depth_s(now) < self.target_s - 1.5 * self._frame_s

    def pop(self, now: float) -> Slot:
        """Return what comes next."""
        if self._next is None or now < self._starts_at:
            return Dry()
        if not self._slots:
            self.stats.dry += 1
            return Dry()
        return self._play() if self._next in self._slots else self._missing(now)

    def _play(self, *, paused: bool = False) -> Play:
        assert self._next is not None
        waiting = self._slots.pop(self._next)
        self._next += waiting.samples
        self._last_sequence, self._length, self._made_up = waiting.sequence, waiting.samples, 0
        self.stats.played += 1
        return Play(waiting.payload, waiting.payload_type, waiting.samples, paused)

    def _missing_numbers(self, until: int) -> int:
        """How many packets have not come between what was played last and this one."""
        return until - self._last_sequence - 1 - sum(self._last_sequence < one < until for one in self._soundless)

    def _missing(self, now: float) -> Slot:
        assert self._next is not None
        following = min(self._slots)
        gap, numbers = following - self._next, self._missing_numbers(self._slots[following].sequence)
        surplus, filled = self.depth_s(now) - self.target_s, 0
        if surplus > self._frame_s:
            # The clock stood still while nothing came, and that time was filled: with what is missing here, it turns
            # out. Nor is there a better place to become shallower than where there is nothing to be heard.
            filled = round(surplus * self._clock) // self._frame * self._frame
        if filled >= gap:  # also where it overlaps what was played: sizes have changed
            self._next = following
            return self._play(paused=gap > 0 and numbers <= 0)
        step, lost = min(self._frame, gap - filled), numbers * self._length - self._made_up
        if lost > 0:
            step = min(step, lost)
            self._make_up(step)
        self._next += filled + step
        return Lost(step) if lost > 0 else Pause(step)

    def _make_up(self, units: int) -> None:
        """A number is gone with a whole packet's time."""
        before, self._made_up = self._made_up, self._made_up + units
        self.stats.lost += self._made_up // self._length - before // self._length
