"""Requests and responses (RFC 3261 sections 7 and 25), read leniently and written strictly.

A request that is wrong but can be answered is still a `Request`: `fault` says what is wrong, so that 400 can be sent
instead of a silence that makes the peer repeat for 32 s. Folded lines are joined. Content-Length is not among the
headers: it is made from the body on the way out, so that it cannot lie.
"""

import re
from dataclasses import dataclass, field

from fastagent.connectors.sip.grammar import BLANK, NUMBER, TOKEN, Malformed
from fastagent.connectors.sip.headers import CSeq, Headers, NameAddr, Via, canonical

MAX_MESSAGE = 64 * 1024
MAX_HEADERS = 128
MAX_LINE = 8 * 1024
FOLD = re.compile(rb"\r?\n[ \t]+")
_BLANKS = re.compile(r"[ \t]+")
_VERSION = re.compile(r"SIP/[0-9]{1,9}\.[0-9]{1,9}", re.IGNORECASE)
_STATUS_LINE = re.compile(r"SIP/2\.0 ([1-6][0-9]{2})(?: (.*))?", re.IGNORECASE | re.DOTALL)
_RECEIVED = re.compile(r";[ \t]*received[ \t]*=[^;]*", re.IGNORECASE)
_RPORT = re.compile(r";[ \t]*rport[ \t]*(?:=[^;]*)?(?=;|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Request:
    """A request."""

    method: str
    uri: str
    headers: Headers
    body: bytes = b""
    version: str = "SIP/2.0"
    fault: str = field(default="", compare=False)
    """Why it cannot be taken: 400."""

    def __bytes__(self) -> bytes:
        return _written(f"{self.method} {self.uri} {self.version}", self.headers, self.body)

    @property
    def via(self) -> Via:
        """The top Via."""
        return Via.parse(_first(self.headers, "via"))

    @property
    def cseq(self) -> CSeq:
        """Its number."""
        return CSeq.parse(self.headers.get("cseq") or "")

    @property
    def call_id(self) -> str:
        """Call-ID."""
        return self.headers.get("call-id") or ""

    @property
    def from_(self) -> NameAddr:
        """From."""
        return NameAddr.parse(self.headers.get("from") or "")

    @property
    def to(self) -> NameAddr:
        """To."""
        return NameAddr.parse(self.headers.get("to") or "")


@dataclass(frozen=True, slots=True)
class Response:
    """A response."""

    status: int
    reason: str
    headers: Headers
    body: bytes = b""

    def __bytes__(self) -> bytes:
        return _written(f"SIP/2.0 {self.status} {self.reason}", self.headers, self.body)

    @property
    def via(self) -> Via:
        """The top Via."""
        return Via.parse(_first(self.headers, "via"))

    @property
    def cseq(self) -> CSeq:
        """The number of the request."""
        return CSeq.parse(self.headers.get("cseq") or "")

    @property
    def to(self) -> NameAddr:
        """To."""
        return NameAddr.parse(self.headers.get("to") or "")


Message = Request | Response


def parse(data: bytes) -> Message:
    """Read one message: a datagram, or what a `StreamFramer` cut out.

    Raises:
        Malformed: this is no SIP, or a response that is wrong: there is nobody to tell.
    """
    if len(data) > MAX_MESSAGE:
        raise Malformed("the message is too long")
    head, blank, body = data.lstrip(b"\r\n").partition(b"\r\n\r\n")
    if not blank:
        head, _, body = head.partition(b"\n\n")
    first, *lines = FOLD.sub(b" ", head).split(b"\n")
    if len(first) > MAX_LINE:
        raise Malformed("the first line is too long")
    start = _decoded(first)
    headers, fault = _headers(lines)
    body, wrong_length = _body(headers, body)
    fault = fault or wrong_length
    status = _STATUS_LINE.fullmatch(start)
    if status is not None:
        if fault:
            raise Malformed(fault)
        return Response(int(status.group(1)), status.group(2) or "", headers.without("content-length"), body)
    return _request(start, headers.without("content-length"), body, fault)


def stamped(request: Request, host: str, port: int) -> Request:
    """Return a request whose top Via says where it came from (RFC 3261 section 18.2.1, RFC 3581 section 4).

    What the sender wrote there itself is not believed. The rest of the Via is left as it stands, byte for byte.
    """
    value = request.headers.get("via") or ""
    top = _first(request.headers, "via")
    via = Via.parse(top)
    asked = any(name == "rport" for name, _ in via.params)
    text = _RECEIVED.sub("", top)
    if asked or via.host.strip("[]").lower() != host.lower():
        text += f";received={host}"
    if asked:
        text = _RPORT.sub(f";rport={port}", text, count=1)
    rest = value[value.index(top) + len(top) :]
    headers = request.headers.with_first("via", text + rest)
    return Request(request.method, request.uri, headers, request.body, request.version, request.fault)


def _first(headers: Headers, name: str) -> str:
    """Return the first member of a list header, without reading the rest of the list."""
    value = headers.get(name)
    if value is None:
        raise Malformed(f"{name} is missing")
    if "," not in value:
        return value
    return headers.listed(name)[0] if headers.listed(name) else ""


def _request(start: str, headers: Headers, body: bytes, fault: str) -> Request:
    parts = _BLANKS.split(start.rstrip(BLANK))
    if len(parts) < 3 or not TOKEN.fullmatch(parts[0]) or not _VERSION.fullmatch(parts[-1]):
        raise Malformed("the first line is none of SIP")
    if len(parts) > 3 or start != " ".join(parts):
        fault = fault or "the request line has stray blanks"
    return Request(parts[0], " ".join(parts[1:-1]), headers, body, parts[-1].upper(), fault)


def _decoded(line: bytes) -> str:
    """Decode a line; a lone CR is no line break here, and must not become one in an answer."""
    return line.removesuffix(b"\r").decode("utf-8", "surrogateescape").replace("\r", " ")


def _headers(lines: list[bytes]) -> tuple[Headers, str]:
    fault = ""
    items: list[tuple[str, str]] = []
    for line in lines:
        if len(line) > MAX_LINE or len(items) == MAX_HEADERS:
            fault = "a header is too long, or there are too many"
            break
        name, colon, value = _decoded(line).partition(":")
        name = name.rstrip(BLANK)
        if colon and TOKEN.fullmatch(name):  # section 8.2: what is malformed and not needed is passed over
            items.append((name, value.strip(BLANK)))
    return Headers(items), fault


def _body(headers: Headers, rest: bytes) -> tuple[bytes, str]:
    """Cut the body as Content-Length says; without it the datagram's end is the body's (section 18.3)."""
    told = set(headers.get_all("content-length"))
    if not told:
        return rest, ""
    text = told.pop()
    if told:
        return b"", "Content-Length comes twice"
    if not NUMBER.fullmatch(text) or len(text) > 9:
        return b"", "Content-Length is no number"
    if int(text) > len(rest):
        return b"", "the message is shorter than Content-Length"
    return rest[: int(text)], ""


def _written(start: str, headers: Headers, body: bytes) -> bytes:
    if "\r" in start or "\n" in start:
        raise ValueError("a first line has a line break")
    lines = [start, *(f"{name}: {value}" for name, value in headers if canonical(name) != "content-length")]
    lines.append(f"Content-Length: {len(body)}\r\n\r\n")
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + body
