"""SIP, SIPS and tel addresses (RFC 3261 section 19.1, RFC 3966); others are kept as they are.

The user part keeps its escapes, since what is compared and written is the escaped form; `user_text` is what it says.
"""

import ipaddress
import re
from dataclasses import dataclass, replace
from urllib.parse import quote as percent
from urllib.parse import unquote as unpercent

from fastagent.connectors.sip.grammar import Malformed, Params, format_params, number, param

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):(.+)", re.DOTALL)
_FORBIDDEN = re.compile(r'[\x00-\x20\x7f<>"]')
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.\-]+)(?::([0-9]+))?")
_UNRESERVED = "-_.!~*'()&=+$,;?/"


@dataclass(frozen=True, slots=True)
class Uri:
    """An address; one of another scheme has only `opaque`."""

    scheme: str
    user: str = ""
    password: str | None = None
    host: str = ""
    port: int | None = None
    params: Params = ()
    headers: str = ""
    opaque: str = ""

    @classmethod
    def parse(cls, text: str) -> "Uri":
        """Parse an address.

        Raises:
            Malformed: it has no scheme, has a character that must be escaped, or no host.
        """
        match = _SCHEME.fullmatch(text)
        if match is None or _FORBIDDEN.search(text):
            raise Malformed("an address has no scheme or has a character that must be escaped")
        scheme, rest = match.group(1).lower(), match.group(2)
        if scheme in ("sip", "sips"):
            return _parse_sip(scheme, rest)
        if scheme == "tel":
            user, _, params = rest.partition(";")
            return cls("tel", user, params=_parse_params(params))
        return cls(scheme, opaque=rest)

    @property
    def user_text(self) -> str:
        """The user part without escapes."""
        return unpercent(self.user)

    @property
    def is_sip(self) -> bool:
        """Whether this is a SIP or SIPS address."""
        return self.scheme in ("sip", "sips")

    def param(self, name: str) -> str | None:
        """Return a parameter; "" where it has no value, None where it is not there."""
        return param(self.params, name)

    def without(self, *names: str) -> "Uri":
        """Return the address without some parameters, and without headers."""
        return replace(self, params=tuple(one for one in self.params if one[0] not in names), headers="")

    def same_place(self, other: "Uri") -> bool:
        """Compare what says where a phone is: scheme, user, host, port (section 19.1.4, without parameters)."""
        return (self.scheme, self.user_text, self.host.lower(), self.port, self.opaque) == (
            other.scheme,
            other.user_text,
            other.host.lower(),
            other.port,
            other.opaque,
        )

    def __str__(self) -> str:
        if self.opaque:
            return f"{self.scheme}:{self.opaque}"
        params = format_params(self.params)
        if self.scheme == "tel":
            return f"tel:{self.user}{params}"
        password = "" if self.password is None else f":{self.password}"
        user = f"{self.user}{password}@" if self.user else ""
        port = "" if self.port is None else f":{self.port}"
        headers = f"?{self.headers}" if self.headers else ""
        return f"{self.scheme}:{user}{self.host}{port}{params}{headers}"


def sip_uri(user: str, host: str, port: int | None = None, params: Params = (), scheme: str = "sip") -> Uri:
    """Return an address of ours: the user part is escaped here."""
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return Uri(scheme, percent(user, safe=_UNRESERVED), None, host, port, params)


def _parse_sip(scheme: str, rest: str) -> Uri:
    user, at, place = rest.partition("@")
    if not at:
        user, place = "", rest
    if "@" in place or (at and not user):
        raise Malformed("an address has no user or more than one")
    user, colon, password = user.partition(":")
    place, _, headers = place.partition("?")
    host, _, params = place.partition(";")
    match = _HOST.fullmatch(host)
    if match is None:
        raise Malformed("an address has no host")
    port = number(match.group(2), 65536) if match.group(2) else None
    return Uri(scheme, user, password if colon else None, match.group(1), port, _parse_params(params), headers)


def _parse_params(text: str) -> Params:
    """Parse parameters; unlike those of headers they have neither blanks nor quotes, and may be empty."""
    parts = (part.partition("=") for part in text.split(";") if part)
    return tuple((name.lower(), value if equals else None) for name, equals, value in parts)


def is_numeric(host: str) -> bool:
    """Whether a host is an address and no name."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
