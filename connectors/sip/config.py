"""What the SIP connector is told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fastagent.connectors.sip.actions import Address
from fastagent.connectors.sip.admission import Network
from fastagent.connectors.sip.digest import Credentials
from fastagent.connectors.sip.flow import address_of
from fastagent.connectors.sip.media import ALL_CODECS, Codec, Srtp
from fastagent.connectors.sip.uri import Uri


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Our certificate and its key, as PEM."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Trunk:
    """A provider or PBX: its calls are taken without a password, and ours go through it.

    Attributes:
        uri: its address; the host is the domain of numbers there, and the registrar.
        user, password: what it knows us by; none where it knows our address.
        register: whether it must be told where we are, and be kept told.
        caller: the number that callees see, if it is not the user.
        proxy: where requests go, if not to the address itself.
        probe_s: how often it is asked whether it is there; never at zero.
    """

    uri: Uri
    user: str = ""
    password: str = field(default="", repr=False)
    register: bool = False
    caller: str = ""
    proxy: Uri | None = None
    probe_s: float = 0.0

    @property
    def hop(self) -> Address:
        """Where requests go."""
        return address_of(self.proxy or self.uri)

    @property
    def credentials(self) -> Credentials | None:
        """What proves who we are."""
        return Credentials(self.user, self.password) if self.user else None


@dataclass(slots=True)
class SipConfig:
    """The settings.

    Attributes:
        host, port: where to listen, UDP and TCP.
        tls, tls_port: the certificate, and where to listen with it; no TLS without one.
        tls_ca: the authorities by which servers are verified that we connect to; the system's, if not given.
        public_host: the address that phones are told, if it is another one.
        rtp_ports: the range for media, both ends included.
        users: passwords by user.
        trusted: networks whose calls need no password.
        trust_loopback: whether this machine is among them; not where a proxy on it brings calls of strangers.
        agents: agent id per called user or number; other calls go to the agent of that id, else to the default one.
        codecs: in the order of our offers; with `prefer_ours` also that of our choice.
        full_status: how calls are refused that there is no place for.
        ring_s: so long it rings before a call is answered.
        attended: whether a transfer calls the other side first, and connects only when it has answered.
        inband_keys: whether keys are also heard as tones, from phones without telephone events.
        hold_music: a WAV file for callers whom we put on hold; silence without one.
        trace: whether messages are logged.
    """

    host: str = "127.0.0.1"
    port: int = 5060
    tls: TlsFiles | None = None
    tls_port: int = 5061
    tls_ca: Path | None = None
    public_host: str | None = None
    rtp_ports: tuple[int, int] = (20000, 29999)
    users: Mapping[str, str] = field(default_factory=dict, repr=False)
    trusted: tuple[Network, ...] = ()
    trust_loopback: bool = True
    agents: dict[str, str] = field(default_factory=dict)
    trunk: Trunk | None = None
    codecs: tuple[Codec, ...] = ALL_CODECS
    prefer_ours: bool = False
    srtp: Srtp = "optional"
    full_status: int = 503
    ring_s: float = 0.0
    attended: bool = False
    inband_keys: bool = False
    hold_music: Path | None = None
    trace: bool = False

    @property
    def ipv6(self) -> bool:
        """Which family we listen on."""
        return ":" in self.host
