"""What the core tells its shell: send this there, and what has happened."""

from dataclasses import dataclass
from typing import Literal

from fastagent.connectors.sip.headers import Headers
from fastagent.connectors.sip.media import NegotiatedMedia

Transport = Literal["udp", "tcp", "tls"]


@dataclass(frozen=True, slots=True)
class Address:
    """A place on the network. The host may be a name, which the shell resolves; port 0 is the one that the DNS says.

    For `tcp` and `tls` it names the connection: the one whose far end this is, else a new one is opened to it.
    """

    host: str
    port: int
    transport: Transport = "udp"

    @property
    def reliable(self) -> bool:
        """Whether the transport repeats for us."""
        return self.transport != "udp"

    @property
    def default_port(self) -> int:
        """The port of SIP, if none is given."""
        return 5061 if self.transport == "tls" else 5060

    def __str__(self) -> str:
        return f"{self.transport}:{self.host}" + (f":{self.port}" if self.port else "")


@dataclass(frozen=True, slots=True)
class Send:
    """Write these bytes there."""

    data: bytes
    to: Address
    key: str = ""
    """What it is part of: all of that goes to one server of a name."""
    otherwise: Address | None = None
    """Where to, if the connection is gone (RFC 3261 section 18.2.2)."""


@dataclass(frozen=True, slots=True)
class Unavailable:
    """A server said nothing, or that it cannot now (503): if its name has another, that is the next to be asked."""

    to: Address
    key: str = ""
    """Of what was sent there: which of the name's servers it was."""


@dataclass(frozen=True, slots=True)
class CallOffered:
    """Somebody calls, and may: ring, accept or reject. Texts are the caller's own and no more than that."""

    call: str
    source: Address
    from_user: str
    from_name: str
    to_user: str
    """The user part of the Request-URI: which agent."""
    user: str
    """Whom the digest proved; "" for a trusted peer."""
    headers: Headers


@dataclass(frozen=True, slots=True)
class CallProgress:
    """The callee's side answered provisionally: 180, 183."""

    call: str
    status: int


@dataclass(frozen=True, slots=True)
class CallAnswered:
    """Media may flow. On a call with a late offer it comes with the ACK, on others when the 200 is sent or received."""

    call: str
    media: NegotiatedMedia


@dataclass(frozen=True, slots=True)
class CallConfirmed:
    """The ACK is here: the caller hears us from now on at the latest."""

    call: str


@dataclass(frozen=True, slots=True)
class MediaChanged:
    """A re-INVITE or UPDATE, theirs or ours, moved the media or changed the codec."""

    call: str
    media: NegotiatedMedia


@dataclass(frozen=True, slots=True)
class Held:
    """The other side does not listen any more: send nothing."""

    call: str
    media: NegotiatedMedia


@dataclass(frozen=True, slots=True)
class Resumed:
    """It listens again."""

    call: str
    media: NegotiatedMedia


@dataclass(frozen=True, slots=True)
class ChangeDone:
    """The end of a change that was asked for; with a status of 300 and above everything is as it was."""

    call: str
    status: int

    @property
    def ok(self) -> bool:
        """Whether the other side has agreed."""
        return self.status < 300


@dataclass(frozen=True, slots=True)
class DtmfInfo:
    """A key by SIP INFO."""

    call: str
    digit: str
    duration_ms: int


@dataclass(frozen=True, slots=True)
class TransferProgress:
    """How our REFER fares: the status that the new call has, and whether this is the last word."""

    call: str
    status: int
    final: bool


EndReason = Literal[
    "hung_up",  # by the other side
    "local",  # by us
    "cancelled",
    "refused",
    "no_answer",
    "no_ack",
    "timeout",  # the session timer, or a request that nobody answered
    "transport",
    "protocol_error",
]


@dataclass(frozen=True, slots=True)
class CallEnded:
    """The last event of a call."""

    call: str
    reason: EndReason
    status: int = 0
    """The refusal's, where there was one."""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Registered:
    """The registrar knows us until `expires_s` from now; refreshed by itself. Zero: it has forgotten us, as asked."""

    registration: str
    expires_s: float


@dataclass(frozen=True, slots=True)
class RegistrationFailed:
    """The registrar refused or is silent; None: tried again after so many seconds, or never (wrong password)."""

    registration: str
    status: int
    retry_s: float | None


@dataclass(frozen=True, slots=True)
class PeerProbed:
    """A peer was asked how it is (OPTIONS): the status of its answer, or 0 where there is none."""

    probe: str
    status: int

    @property
    def ok(self) -> bool:
        """Whether it is there, and takes calls; a proxy's word that it is not is no answer of its own."""
        return self.status not in (0, 408, 502, 503, 504)


Event = (
    CallOffered
    | CallProgress
    | CallAnswered
    | CallConfirmed
    | MediaChanged
    | Held
    | Resumed
    | ChangeDone
    | DtmfInfo
    | TransferProgress
    | CallEnded
    | Registered
    | RegistrationFailed
    | PeerProbed
)
Action = Send | Unavailable | Event
