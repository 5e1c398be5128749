"""What a call's media may be, and what was agreed: plain descriptions for a media layer."""

from dataclasses import dataclass, field
from typing import Literal

Direction = Literal["sendrecv", "sendonly", "recvonly", "inactive"]
Srtp = Literal["off", "optional", "required"]


@dataclass(frozen=True, slots=True)
class Codec:
    """An encoding as SDP names it. The RTP clock of G.722 is 8000 although it samples at 16000 (RFC 3551)."""

    name: str
    clock_hz: int
    rate_hz: int
    payload_type: int
    """The number that our own offers use."""
    channels: int = 1
    """As written in the rtpmap: Opus says 2 even for mono (RFC 7587)."""
    fmtp: str = ""
    ptimes_ms: tuple[int, ...] = (10, 20, 30, 40, 60)
    """The lengths of packets that we make."""

    @property
    def rtpmap(self) -> str:
        """The value behind the number."""
        return f"{self.name}/{self.clock_hz}" + (f"/{self.channels}" if self.channels > 1 else "")


PCMU = Codec("PCMU", 8000, 8000, 0)
PCMA = Codec("PCMA", 8000, 8000, 8)
G722 = Codec("G722", 8000, 16000, 9)
OPUS = Codec("opus", 48000, 48000, 111, 2, "minptime=10;useinbandfec=1", (10, 20, 40, 60))
L16_8K = Codec("L16", 8000, 8000, 117)
L16_16K = Codec("L16", 16000, 16000, 118)
ALL_CODECS = (PCMU, PCMA, G722, OPUS, L16_16K, L16_8K)
"""In the order of our offers: what every phone has comes first."""


@dataclass(frozen=True, slots=True)
class Crypto:
    """One direction's SRTP key (RFC 4568): `key` is master key and salt. The tag only tells which line of an offer an
    answer is for; a key under another tag is the same key."""

    tag: int = field(compare=False)
    suite: str
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the media layer can do."""

    codecs: tuple[Codec, ...] = (PCMU, PCMA)
    """In the order of our offers."""
    prefer_ours: bool = False
    """Choose by our order instead of the offer's."""
    srtp: Srtp = "off"
    ptime_ms: int = 20
    ipv6: bool = False
    """Which family our sockets are of: they send to no other."""


@dataclass(frozen=True, slots=True)
class NegotiatedMedia:
    """One audio stream as agreed, seen from here."""

    local: tuple[str, int]
    remote: tuple[str, int]
    """Where the peer says that it listens; it may be private, or nobody's: 0.0.0.0 while held the old way."""
    remote_rtcp: tuple[str, int]
    codec: Codec
    payload_type: int
    """The number to send with: the peer's."""
    receivable: tuple[tuple[int, Codec], ...]
    """Every number that our own SDP lists: any of them may come at any time."""
    dtmf_payload_type: int | None
    """For sending telephone-events; None: the peer does not take them."""
    dtmf_receivable: int | None
    dtmf_clock: int | None
    """Of that number, as it was told."""
    ptime_ms: int
    direction: Direction
    fmtp: str = ""
    """The peer's parameters for the codec."""
    crypto_send: Crypto | None = None
    crypto_receive: Crypto | None = None

    @property
    def held(self) -> bool:
        """Whether nothing may be sent."""
        return self.direction in ("recvonly", "inactive")

    @property
    def listens(self) -> bool:
        """Whether the peer sends."""
        return self.direction in ("sendrecv", "recvonly")
