"""Header fields: a list with names in any case or in their compact form, and the typed ones.

Order is kept. No line break can get into a `Headers`: whoever tries has a bug, and gets a `ValueError` (S13).
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from fastagent.connectors.sip.grammar import (
    BLANK,
    TOKEN,
    Malformed,
    Params,
    format_params,
    leading_quoted,
    number,
    param,
    parse_params,
    quote,
    split_outside,
    with_param,
)
from fastagent.connectors.sip.uri import Uri

_COMPACT = {
    "a": "accept-contact",
    "b": "referred-by",
    "c": "content-type",
    "d": "request-disposition",
    "e": "content-encoding",
    "f": "from",
    "i": "call-id",
    "j": "reject-contact",
    "k": "supported",
    "l": "content-length",
    "m": "contact",
    "o": "event",
    "r": "refer-to",
    "s": "subject",
    "t": "to",
    "u": "allow-events",
    "v": "via",
    "x": "session-expires",
}
_BREAK = re.compile(r"[\r\n]")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9\-.!%*_+`'~ \t\x80-\U0010ffff]*")
_VIA = re.compile(
    r"SIP[ \t]*/[ \t]*([0-9.]+)[ \t]*/[ \t]*([A-Za-z0-9\-.!%*_+`'~]+)[ \t]+"
    r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.\-]+)(?:[ \t]*:[ \t]*([0-9]+))?[ \t]*(;.*)?",
    re.IGNORECASE | re.DOTALL,
)
MAGIC = "z9hG4bK"
MAX_CSEQ = 2**31


def canonical(name: str) -> str:
    """Return the name that a header is compared by."""
    name = name.lower()
    return _COMPACT.get(name, name)


class Headers:
    """Header fields in order; immutable."""

    __slots__ = ("_keys", "items")

    def __init__(self, items: Iterable[tuple[str, str]] = ()) -> None:
        self.items = tuple(items)
        for name, value in self.items:
            if _BREAK.search(value) or not TOKEN.fullmatch(name):
                raise ValueError("a header has a line break, or a name that is none")
        self._keys = tuple(canonical(name) for name, _ in self.items)

    def get(self, name: str) -> str | None:
        """Return the first value, or None."""
        key = canonical(name)
        for at, one in enumerate(self._keys):
            if one == key:
                return self.items[at][1]
        return None

    def get_all(self, name: str) -> list[str]:
        """Return the values of all fields of this name, as they stand."""
        key = canonical(name)
        return [self.items[at][1] for at, one in enumerate(self._keys) if one == key]

    def listed(self, name: str) -> list[str]:
        """Return the members of all fields of this name, which are comma lists."""
        return [part for value in self.get_all(name) for part in split_outside(value, ",") if part]

    def tokens(self, name: str) -> frozenset[str]:
        """Return the members of a list of words, in lower case; one that cannot be read has none."""
        try:
            return frozenset(part.partition(";")[0].rstrip(BLANK).lower() for part in self.listed(name))
        except Malformed:
            return frozenset()

    def with_first(self, name: str, value: str) -> "Headers":
        """Return the headers with the first field of this name changed."""
        at = self._keys.index(canonical(name))
        return Headers((*self.items[:at], (self.items[at][0], value), *self.items[at + 1 :]))

    def without(self, *names: str) -> "Headers":
        """Return the headers without fields of these names."""
        keys = {canonical(name) for name in names}
        return Headers(item for item, key in zip(self.items, self._keys, strict=True) if key not in keys)

    def plus(self, *items: tuple[str, str]) -> "Headers":
        """Return the headers with more at the end."""
        return Headers((*self.items, *items))

    def __contains__(self, name: str) -> bool:
        return canonical(name) in self._keys

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and self.items == other.items

    def __hash__(self) -> int:
        return hash(self.items)

    def __repr__(self) -> str:
        return f"Headers({self.items!r})"


@dataclass(frozen=True, slots=True)
class Via:
    """One hop of the way back (section 20.42)."""

    transport: str
    host: str
    port: int | None = None
    params: Params = ()
    version: str = "2.0"

    @classmethod
    def parse(cls, text: str) -> "Via":
        """Parse one value; what is malformed here is no message worth an answer elsewhere."""
        match = _VIA.fullmatch(text)
        if match is None:
            raise Malformed("Via cannot be read")
        version, transport, host, port, params = match.groups()
        return cls(
            transport.upper(),
            host,
            number(port, 65536) if port else None,
            parse_params(params or "", strict=True),
            version,
        )

    @property
    def branch(self) -> str:
        """The transaction's name; "" where there is none."""
        return param(self.params, "branch") or ""

    @property
    def sent_by(self) -> str:
        """Host and port, for comparing."""
        return f"{self.host.lower()}:{self.port or (5061 if self.transport == 'TLS' else 5060)}"

    def __str__(self) -> str:
        port = "" if self.port is None else f":{self.port}"
        return f"SIP/{self.version}/{self.transport} {self.host}{port}{format_params(self.params)}"


@dataclass(frozen=True, slots=True)
class NameAddr:
    """From, To, Contact, Route, Refer-To: an address with a name and parameters (section 20.10)."""

    uri: Uri
    display: str = ""
    params: Params = ()

    @classmethod
    def parse(cls, text: str) -> "NameAddr":
        """Parse one value.

        Without brackets, parameters belong to the header, and an address that has a question mark is ambiguous.
        """
        text = text.strip(BLANK)
        if text.startswith('"'):
            display, rest = leading_quoted(text)
            rest = rest.lstrip(BLANK)
        else:
            at = text.find("<")
            if at < 0:
                return cls._bare(text)
            display, rest = text[:at].strip(BLANK), text[at:]
            if not _PLAIN_NAME.fullmatch(display):
                raise Malformed("a name must be quoted")
        uri, closed, params = rest[1:].partition(">")
        if not rest.startswith("<") or not closed:
            raise Malformed("an address has no brackets")
        return cls(Uri.parse(uri), display, parse_params(params.strip(BLANK)))

    @classmethod
    def _bare(cls, text: str) -> "NameAddr":
        address, semicolon, params = text.partition(";")
        if "?" in address or "," in address:
            raise Malformed("an address must be in brackets")
        return cls(Uri.parse(address.rstrip(BLANK)), "", parse_params(semicolon + params))

    @property
    def tag(self) -> str:
        """The dialog's tag; "" where there is none."""
        return param(self.params, "tag") or ""

    def param(self, name: str) -> str | None:
        """Return a parameter of the header."""
        return param(self.params, name)

    def with_param(self, name: str, value: str) -> "NameAddr":
        """Return the value with a parameter set."""
        return replace(self, params=with_param(self.params, name, value))

    def __str__(self) -> str:
        display = f"{quote(self.display)} " if self.display else ""
        return f"{display}<{self.uri}>{format_params(self.params)}"


@dataclass(frozen=True, slots=True)
class CSeq:
    """The number of a request in its dialog, and its method."""

    number: int
    method: str

    @classmethod
    def parse(cls, text: str) -> "CSeq":
        """Parse a value; leading zeros happen, 2**31 and above do not (section 8.1.1.5)."""
        first, _, method = text.strip(BLANK).replace("\t", " ").partition(" ")
        method = method.strip(BLANK)
        if not TOKEN.fullmatch(method):
            raise Malformed("CSeq has no method")
        return cls(number(first, MAX_CSEQ), method)

    def __str__(self) -> str:
        return f"{self.number} {self.method}"
