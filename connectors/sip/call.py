"""One call's state, and the table of its moves (RFC 3261 sections 12 to 15).

    they call    OFFERED --ring--> RINGING --accept--> ANSWERED --ack--> CONFIRMED --end--> ENDED
    we call      CALLING --progress--> EARLY --answered--> CONFIRMED --end--> ENDED
                 CALLING, EARLY --cancel--> CANCELLING --end--> ENDED

A CANCEL of ours waits for the first provisional answer (section 9.1): CANCELLING begins when we want it. From ANSWERED
a hang-up of ours waits for the ACK, or for its 32 s (section 15).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from fastagent.connectors.sip.actions import Address, EndReason, Send
from fastagent.connectors.sip.dialog import Dialog, SessionTimer
from fastagent.connectors.sip.digest import DigestClient
from fastagent.connectors.sip.media import NegotiatedMedia
from fastagent.connectors.sip.offer_answer import MediaSession
from fastagent.connectors.sip.requests import Items
from fastagent.connectors.sip.transactions import ClientTransaction, ServerTransaction

MAX_FORKS = 8
"""So many phones may answer one call of ours; more are not heard."""


class Phase(Enum):
    """Where a call is."""

    OFFERED = "offered"
    RINGING = "ringing"
    ANSWERED = "answered"
    CALLING = "calling"
    EARLY = "early"
    CANCELLING = "cancelling"
    CONFIRMED = "confirmed"
    ENDED = "ended"


class Did(Enum):
    """What moves it."""

    RING = "ring"
    ACCEPT = "accept"
    ACK = "ack"
    PROGRESS = "progress"
    ANSWERED = "answered"
    CANCEL = "cancel"
    END = "end"


MOVES: Mapping[tuple[Phase, Did], Phase] = {
    (Phase.OFFERED, Did.RING): Phase.RINGING,
    (Phase.OFFERED, Did.ACCEPT): Phase.ANSWERED,
    (Phase.OFFERED, Did.END): Phase.ENDED,
    (Phase.RINGING, Did.RING): Phase.RINGING,
    (Phase.RINGING, Did.ACCEPT): Phase.ANSWERED,
    (Phase.RINGING, Did.END): Phase.ENDED,
    (Phase.ANSWERED, Did.ACK): Phase.CONFIRMED,
    (Phase.ANSWERED, Did.END): Phase.ENDED,
    (Phase.CALLING, Did.PROGRESS): Phase.EARLY,
    (Phase.CALLING, Did.ANSWERED): Phase.CONFIRMED,
    (Phase.CALLING, Did.CANCEL): Phase.CANCELLING,
    (Phase.CALLING, Did.END): Phase.ENDED,
    (Phase.EARLY, Did.PROGRESS): Phase.EARLY,
    (Phase.EARLY, Did.ANSWERED): Phase.CONFIRMED,
    (Phase.EARLY, Did.CANCEL): Phase.CANCELLING,
    (Phase.EARLY, Did.END): Phase.ENDED,
    (Phase.CANCELLING, Did.END): Phase.ENDED,
    (Phase.CONFIRMED, Did.END): Phase.ENDED,
}


@dataclass(slots=True)
class Answered:
    """A 2xx of ours that waits for its ACK."""

    transaction: ServerTransaction
    number: int
    interval_s: float
    late: bool
    """Whether the ACK must bring the answer to our offer."""


@dataclass(slots=True)
class Unacknowledged:
    """A provisional answer of ours that waits for its PRACK."""

    interval_s: float
    then: Callable[[float], None] | None = None
    """What waits for it: our 200."""


@dataclass(slots=True)
class Early:
    """A dialog that is not confirmed yet, in which we acknowledge provisional answers."""

    dialog: Dialog
    number: int
    """Of the last one."""
    answer: bytes = b""
    """The description that came with one: the call's answer."""
    before: object = None
    """The media before that was changed."""
    changed: bool = False
    """It has been taken, and changed by an UPDATE since: what the final answer repeats is an old one."""


@dataclass(slots=True)
class Change:
    """A change of the media that somebody waits for: what is not None."""

    local: tuple[str, int] | None = None
    hold: bool | None = None
    tries: int = 0
    waits: int = 0


@dataclass(slots=True, eq=False)
class Call:
    """One call. Its id is our tag: 128 random bits that the peer must know to speak of it."""

    id: str
    media: MediaSession
    source: Address
    phase: Phase
    user: str = ""
    dialog: Dialog | None = None
    invite: ServerTransaction | None = None
    offer: bytes | None = None
    """The caller's description; None: it is left to us."""
    answer: bytes | None = None
    waiting: Answered | None = None
    hang_up: tuple[EndReason, Items] | None = None
    """We want to hang up, and wait for what must come first."""
    timer: SessionTimer | None = None
    peer_allows: frozenset[str] = frozenset()
    changing: bool = False
    """An INVITE of ours is on its way in the dialog."""
    refreshing: bool = False
    """An UPDATE of ours is."""
    change: Change | None = None
    lengthened: int = 0
    """How often the peer found the session's interval too short."""
    digest: DigestClient | None = None
    outgoing: ClientTransaction | None = None
    provisional: bool = False
    """Our INVITE has had an answer of some kind, so that a CANCEL may follow."""
    acks: dict[str, Send] = field(default_factory=dict)
    """Our ACKs by the callee's tag: each copy of a 2xx gets its own again."""
    transferring: bool = False
    rseq: int = 0
    """The number of our last provisional answer that must arrive."""
    unacknowledged: Unacknowledged | None = None
    early: dict[str, Early] = field(default_factory=dict)
    """By the callee's tag: where our PRACKs went."""

    def move(self, did: Did) -> bool:
        """Move; False where that is no move of this phase."""
        following = MOVES.get((self.phase, did))
        if following is not None:
            self.phase = following
        return following is not None

    @property
    def agreed(self) -> NegotiatedMedia | None:
        """The media as agreed."""
        return self.media.agreed
