"""The four transactions of RFC 3261 section 17, with the changes of RFC 6026, as tables.

    INVITE client   CALLING --1xx--> PROCEEDING --300..699--> COMPLETED --D--> TERMINATED
                    CALLING, PROCEEDING --2xx--> ACCEPTED --M--> TERMINATED
    other client    TRYING --1xx--> PROCEEDING --200..699--> COMPLETED --K--> TERMINATED
    INVITE server   PROCEEDING --300..699--> COMPLETED --ACK--> CONFIRMED --I--> TERMINATED
                    PROCEEDING --2xx--> ACCEPTED --L--> TERMINATED
    other server    TRYING --1xx--> PROCEEDING --200..699--> COMPLETED --J--> TERMINATED

A pair that is not in its table changes nothing. A timer belongs to the states that list it: it is started where it
does not run yet, and stopped by a move to a state that does not list it. Over TCP and TLS the timers that repeat are
not started, and those that only wait for late repeats are zero; B, F, H, L and M stay 32 s.

In ACCEPTED a repeated INVITE repeats the 2xx: RFC 6026 leaves that to the core above, which repeats it by its own
clock too; a second copy does no harm, and a phone that has lost the first waits less.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

T1 = 0.5
T2 = 4.0
T4 = 5.0
LIMIT = 64 * T1


class State(Enum):
    """Where a transaction is."""

    CALLING = "calling"
    TRYING = "trying"
    PROCEEDING = "proceeding"
    ACCEPTED = "accepted"
    COMPLETED = "completed"
    CONFIRMED = "confirmed"
    TERMINATED = "terminated"


class On(Enum):
    """What happens to it: a message from the network or from above, or one of its timers."""

    REQUEST = "request"
    ACK = "ack"
    PROVISIONAL = "1xx"
    SUCCESS = "2xx"
    FAILURE = "300-699"
    BROKEN = "transport error"
    A = "A"
    B = "B"
    D = "D"
    E = "E"
    F = "F"
    G = "G"
    H = "H"
    I = "I"  # noqa: E741 - RFC 3261's name
    J = "J"
    K = "K"
    L = "L"
    M = "M"


class Do(Enum):
    """What is to be done about it."""

    SEND = "send the request, or the last response"
    ACK = "acknowledge a refusal"
    TELL = "tell the user of the transaction"
    FAIL = "tell it that no answer came"


@dataclass(frozen=True, slots=True)
class Timer:
    """How a timer runs: its first interval on UDP and on a stream (None: not started), and up to where it doubles."""

    first_s: float
    reliable_s: float | None
    doubles_to_s: float | None = None


TIMERS: Mapping[On, Timer] = {
    On.A: Timer(T1, None, LIMIT),
    On.B: Timer(LIMIT, LIMIT),
    On.D: Timer(LIMIT, 0.0),
    On.E: Timer(T1, None, T2),
    On.F: Timer(LIMIT, LIMIT),
    On.G: Timer(T1, None, T2),
    On.H: Timer(LIMIT, LIMIT),
    On.I: Timer(T4, 0.0),
    On.J: Timer(LIMIT, 0.0),
    On.K: Timer(T4, 0.0),
    On.L: Timer(LIMIT, LIMIT),
    On.M: Timer(LIMIT, LIMIT),
}

Move = tuple[State, tuple[Do, ...]]


@dataclass(frozen=True, slots=True)
class Machine:
    """One kind of transaction."""

    start: State
    timers: Mapping[State, tuple[On, ...]]
    moves: Mapping[tuple[State, On], Move]


_CALLING, _TRYING, _PROCEEDING = State.CALLING, State.TRYING, State.PROCEEDING
_ACCEPTED, _COMPLETED, _CONFIRMED, _TERMINATED = State.ACCEPTED, State.COMPLETED, State.CONFIRMED, State.TERMINATED

INVITE_CLIENT = Machine(
    _CALLING,
    {_CALLING: (On.A, On.B), _ACCEPTED: (On.M,), _COMPLETED: (On.D,)},
    {
        (_CALLING, On.A): (_CALLING, (Do.SEND,)),
        (_CALLING, On.B): (_TERMINATED, (Do.FAIL,)),
        (_CALLING, On.BROKEN): (_TERMINATED, (Do.FAIL,)),
        (_CALLING, On.PROVISIONAL): (_PROCEEDING, (Do.TELL,)),
        (_CALLING, On.SUCCESS): (_ACCEPTED, (Do.TELL,)),
        (_CALLING, On.FAILURE): (_COMPLETED, (Do.ACK, Do.TELL)),
        (_PROCEEDING, On.BROKEN): (_TERMINATED, (Do.FAIL,)),
        (_PROCEEDING, On.PROVISIONAL): (_PROCEEDING, (Do.TELL,)),
        (_PROCEEDING, On.SUCCESS): (_ACCEPTED, (Do.TELL,)),
        (_PROCEEDING, On.FAILURE): (_COMPLETED, (Do.ACK, Do.TELL)),
        (_ACCEPTED, On.SUCCESS): (_ACCEPTED, (Do.TELL,)),
        (_ACCEPTED, On.M): (_TERMINATED, ()),
        (_COMPLETED, On.FAILURE): (_COMPLETED, (Do.ACK,)),
        (_COMPLETED, On.D): (_TERMINATED, ()),
    },
)

CLIENT = Machine(
    _TRYING,
    {_TRYING: (On.E, On.F), _PROCEEDING: (On.E, On.F), _COMPLETED: (On.K,)},
    {
        (_TRYING, On.E): (_TRYING, (Do.SEND,)),
        (_TRYING, On.F): (_TERMINATED, (Do.FAIL,)),
        (_TRYING, On.BROKEN): (_TERMINATED, (Do.FAIL,)),
        (_TRYING, On.PROVISIONAL): (_PROCEEDING, (Do.TELL,)),
        (_TRYING, On.SUCCESS): (_COMPLETED, (Do.TELL,)),
        (_TRYING, On.FAILURE): (_COMPLETED, (Do.TELL,)),
        (_PROCEEDING, On.E): (_PROCEEDING, (Do.SEND,)),
        (_PROCEEDING, On.F): (_TERMINATED, (Do.FAIL,)),
        (_PROCEEDING, On.BROKEN): (_TERMINATED, (Do.FAIL,)),
        (_PROCEEDING, On.PROVISIONAL): (_PROCEEDING, (Do.TELL,)),
        (_PROCEEDING, On.SUCCESS): (_COMPLETED, (Do.TELL,)),
        (_PROCEEDING, On.FAILURE): (_COMPLETED, (Do.TELL,)),
        (_COMPLETED, On.K): (_TERMINATED, ()),
    },
)

INVITE_SERVER = Machine(
    _PROCEEDING,
    {_ACCEPTED: (On.L,), _COMPLETED: (On.G, On.H), _CONFIRMED: (On.I,)},
    {
        (_PROCEEDING, On.REQUEST): (_PROCEEDING, (Do.SEND,)),
        (_PROCEEDING, On.PROVISIONAL): (_PROCEEDING, (Do.SEND,)),
        (_PROCEEDING, On.SUCCESS): (_ACCEPTED, (Do.SEND,)),
        (_PROCEEDING, On.FAILURE): (_COMPLETED, (Do.SEND,)),
        (_ACCEPTED, On.REQUEST): (_ACCEPTED, (Do.SEND,)),
        (_ACCEPTED, On.SUCCESS): (_ACCEPTED, (Do.SEND,)),
        (_ACCEPTED, On.ACK): (_ACCEPTED, (Do.TELL,)),
        (_ACCEPTED, On.L): (_TERMINATED, ()),
        (_COMPLETED, On.REQUEST): (_COMPLETED, (Do.SEND,)),
        (_COMPLETED, On.G): (_COMPLETED, (Do.SEND,)),
        (_COMPLETED, On.H): (_TERMINATED, ()),
        (_COMPLETED, On.ACK): (_CONFIRMED, ()),
        (_CONFIRMED, On.I): (_TERMINATED, ()),
    },
)

SERVER = Machine(
    _TRYING,
    {_COMPLETED: (On.J,)},
    {
        (_TRYING, On.PROVISIONAL): (_PROCEEDING, (Do.SEND,)),
        (_TRYING, On.SUCCESS): (_COMPLETED, (Do.SEND,)),
        (_TRYING, On.FAILURE): (_COMPLETED, (Do.SEND,)),
        (_PROCEEDING, On.REQUEST): (_PROCEEDING, (Do.SEND,)),
        (_PROCEEDING, On.PROVISIONAL): (_PROCEEDING, (Do.SEND,)),
        (_PROCEEDING, On.SUCCESS): (_COMPLETED, (Do.SEND,)),
        (_PROCEEDING, On.FAILURE): (_COMPLETED, (Do.SEND,)),
        (_COMPLETED, On.REQUEST): (_COMPLETED, (Do.SEND,)),
        (_COMPLETED, On.J): (_TERMINATED, ()),
    },
)


def on_status(status: int) -> On:
    """Return what a response is to a transaction."""
    if status < 200:
        return On.PROVISIONAL
    return On.SUCCESS if status < 300 else On.FAILURE


def interval_after(timer: On, last_s: float, state: State) -> float | None:
    """Return the next interval of a timer that has run out, or None. E is flat after a 1xx (section 17.1.2.2)."""
    top = TIMERS[timer].doubles_to_s
    if top is None:
        return None
    return T2 if timer is On.E and state is State.PROCEEDING else min(2 * last_s, top)


class Transaction:
    """A machine in motion: it knows its state and its intervals; the layer above owns the clock and the bytes."""

    __slots__ = ("intervals", "machine", "reliable", "state")

    def __init__(self, machine: Machine, *, reliable: bool) -> None:
        self.machine, self.reliable = machine, reliable
        self.state = machine.start
        self.intervals: dict[On, float] = {}
        """The timers that run, with the interval that each is in."""
        self._enter()

    def step(self, on: On) -> tuple[Do, ...]:
        """Move; the caller then brings its clock in line with `intervals`."""
        move = self.machine.moves.get((self.state, on))
        if on in TIMERS:
            self._rerun(on)
        if move is None:
            return ()
        self.state = move[0]
        self._enter()
        return move[1]

    def _rerun(self, timer: On) -> None:
        following = interval_after(timer, self.intervals.pop(timer), self.state)
        if following is not None:
            self.intervals[timer] = following

    def _enter(self) -> None:
        listed = self.machine.timers.get(self.state, ())
        for timer in [one for one in self.intervals if one not in listed]:
            del self.intervals[timer]
        for timer in listed:
            first = TIMERS[timer].reliable_s if self.reliable else TIMERS[timer].first_s
            if first is not None and timer not in self.intervals:
                self.intervals[timer] = first
