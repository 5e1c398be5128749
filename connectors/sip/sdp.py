"""Session descriptions (RFC 8866), as much of them as a telephone call needs.

Read leniently: a line of another type, or one without an equals sign, is passed over. Built by `bytes()` only, from
parts in which a line break is a `ValueError` (S13).
"""

import ipaddress
import re
from dataclasses import dataclass

from fastagent.connectors.sip.grammar import NUMBER, Malformed, number

MAX_SDP = 16 * 1024
MAX_MEDIA = 8
_HOST = re.compile(r"[A-Za-z0-9.:\-_]{1,255}")
_BREAK = re.compile(r"[\r\n]")
_TYPED = re.compile(r"([a-z])=(.*)", re.DOTALL)

Attributes = tuple[tuple[str, str | None], ...]

STATIC = {"0": "PCMU/8000", "8": "PCMA/8000", "9": "G722/8000", "13": "CN/8000", "18": "G729/8000"}
"""Payload types that need no rtpmap (RFC 3551)."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Who made a description, and which version of it this is."""

    session_id: int
    version: int
    host: str
    user: str = "-"

    def __str__(self) -> str:
        return f"{self.user} {self.session_id} {self.version} IN {_family(self.host)} {self.host}"


@dataclass(frozen=True, slots=True)
class MediaLine:
    """An m-line with what belongs to it."""

    kind: str
    port: int
    proto: str
    formats: tuple[str, ...]
    host: str | None = None
    attributes: Attributes = ()

    def get(self, name: str) -> str | None:
        """Return an attribute's value, "" for a flag, None where it is not there."""
        for key, value in self.attributes:
            if key == name:
                return value or ""
        return None

    def get_all(self, name: str) -> list[str]:
        """Return the values of all attributes of a name."""
        return [value or "" for key, value in self.attributes if key == name]

    def about(self, name: str, payload_type: str) -> str | None:
        """Return what `a=rtpmap` or `a=fmtp` says of a payload type."""
        for value in self.get_all(name):
            first, _, rest = value.partition(" ")
            if first == payload_type:
                return rest.strip()
        return None

    def encoding(self, payload_type: str) -> tuple[str, int, int] | None:
        """Return name in lower case, clock and channels of a payload type; None where it is not told."""
        text = self.about("rtpmap", payload_type) or STATIC.get(payload_type)
        name, *numbers = (text or "").split("/")
        if not 1 <= len(numbers) <= 2 or not all(NUMBER.fullmatch(one) and len(one) < 8 for one in numbers):
            return None
        return name.lower(), int(numbers[0]), int(numbers[1]) if len(numbers) == 2 else 1


@dataclass(frozen=True, slots=True)
class SessionDescription:
    """A description."""

    origin: Origin
    media: tuple[MediaLine, ...]
    host: str | None = None
    attributes: Attributes = ()

    def __bytes__(self) -> bytes:
        lines = ["v=0", f"o={self.origin}", "s=-"]
        lines += _connection(self.host)
        lines += ["t=0 0", *_attributes(self.attributes)]
        for media in self.media:
            lines.append(f"m={media.kind} {media.port} {media.proto} {' '.join(media.formats)}")
            lines += [*_connection(media.host), *_attributes(media.attributes)]
        if any(_BREAK.search(line) for line in lines):
            raise ValueError("a line of SDP has a line break")
        return "".join(f"{line}\r\n" for line in lines).encode()

    def host_of(self, media: MediaLine) -> str | None:
        """Return where a stream is wanted: its own connection line, else the session's."""
        return media.host or self.host

    def of(self, media: MediaLine, *names: str) -> str | None:
        """Return the first of some attributes that a stream has, else that the session has."""
        for attributes in (media.attributes, self.attributes):
            for name, value in attributes:
                if name in names:
                    return name if value is None else value
        return None


def parse_sdp(body: bytes) -> SessionDescription:
    """Read a description.

    Raises:
        Malformed: it is too long, is none, or names no usable place.
    """
    if len(body) > MAX_SDP:
        raise Malformed("the description is too long")
    lines = [_TYPED.fullmatch(line.rstrip("\r")) for line in body.decode("utf-8", "replace").split("\n")]
    typed = [(match.group(1), match.group(2)) for match in lines if match]
    if not typed or typed[0] != ("v", "0"):
        raise Malformed("the description does not begin with v=0")
    starts = [at for at, (letter, _) in enumerate(typed) if letter == "m"]
    if len(starts) > MAX_MEDIA:
        raise Malformed("the description has too many streams")
    ends = [*starts[1:], len(typed)] if starts else []
    session = typed[: starts[0]] if starts else typed
    return SessionDescription(
        _origin(session),
        tuple(_media(typed[begin:end]) for begin, end in zip(starts, ends, strict=True)),
        _host(session),
        _attributes_in(session),
    )


def is_nowhere(host: str) -> bool:
    """Whether an address means "send nothing" (RFC 3264 section 8.4, the way of RFC 2543)."""
    return host in ("0.0.0.0", "::")


def canonical_host(host: str) -> str:
    """Return an address in the form that sockets give it."""
    return str(ipaddress.ip_address(host))


def usable_host(host: str, *, ipv6: bool, nearby: bool = True) -> bool:
    """Whether packets may be sent there by a socket of the family: not to many at once, and to this machine only if the
    other side is on it (`nearby`).

    A name (RFC 8866 section 5.7) is not followed: nobody offers one but who wants to be asked for it, and each packet
    would wait for the answer.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return False  # another family in disguise
    if address.is_multicast or address == ipaddress.IPv4Address("255.255.255.255"):
        return False
    return (address.version == 6) is ipv6 and (nearby or not address.is_loopback)


Lines = list[tuple[str, str]]


def _origin(lines: Lines) -> Origin:
    text = next((value for letter, value in lines if letter == "o"), "")
    parts = text.split()
    if len(parts) != 6 or not NUMBER.fullmatch(parts[1]) or not NUMBER.fullmatch(parts[2]):
        return Origin(0, 0, "0.0.0.0")  # who made it matters to nobody here
    return Origin(int(parts[1][:20]), int(parts[2][:20]), parts[5], parts[0])


def _host(lines: Lines) -> str | None:
    text = next((value for letter, value in lines if letter == "c"), None)
    if text is None:
        return None
    parts = text.split()
    host = parts[2].partition("/")[0] if len(parts) == 3 else ""
    if not _HOST.fullmatch(host):
        raise Malformed("a connection line names no place")
    return host


def _media(lines: Lines) -> MediaLine:
    parts = lines[0][1].split()
    if len(parts) < 4:
        raise Malformed("a stream has no formats")
    port = number(parts[1].partition("/")[0], 65536)
    return MediaLine(parts[0].lower(), port, parts[2], tuple(parts[3:]), _host(lines), _attributes_in(lines))


def _attributes_in(lines: Lines) -> Attributes:
    found = (value.partition(":") for letter, value in lines if letter == "a")
    return tuple((name, value.strip() if colon else None) for name, colon, value in found)


def _attributes(attributes: Attributes) -> list[str]:
    return [f"a={name}" if value is None else f"a={name}:{value}" for name, value in attributes]


def _connection(host: str | None) -> list[str]:
    return [] if host is None else [f"c=IN {_family(host)} {host}"]


def _family(host: str) -> str:
    return "IP6" if ":" in host else "IP4"
