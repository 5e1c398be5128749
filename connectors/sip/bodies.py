"""Bodies: the session description in a message, keys in an INFO, the status line in a NOTIFY."""

import re

from fastagent.connectors.sip.grammar import BLANK, Malformed, param, parse_params
from fastagent.connectors.sip.headers import Headers

SDP = "application/sdp"
_DTMF = "0123456789*#ABCD"
_SIGNAL = re.compile(r"^[ \t]*signal[ \t]*=[ \t]*([0-9A-Da-d*#]{1,2})[ \t]*$", re.IGNORECASE | re.MULTILINE)
_DURATION = re.compile(r"^[ \t]*duration[ \t]*=[ \t]*([0-9]{1,5})[ \t]*$", re.IGNORECASE | re.MULTILINE)
_STATUS = re.compile(rb"SIP/2\.0 ([1-6][0-9]{2})(?: |\r|\n|$)")


class Unsupported(Exception):
    """A body of a type, or in an encoding, that is not ours: 415."""

    def __init__(self, header: str, value: str) -> None:
        super().__init__(header)
        self.item = (header, value)


def content_type(headers: Headers) -> str:
    """Return the type of a body in lower case, without parameters."""
    return (headers.get("content-type") or "").partition(";")[0].strip(BLANK).lower()


def sdp_of(headers: Headers, body: bytes) -> bytes | None:
    """Return the description in a body; None where there is no body.

    Raises:
        Unsupported: there is another thing in it.
    """
    if not body:
        return None
    if (headers.get("content-encoding") or "identity").strip(BLANK).lower() != "identity":
        raise Unsupported("Accept-Encoding", "identity")
    kind = content_type(headers)
    if kind == SDP:
        return body
    part = _sdp_part(headers.get("content-type") or "", body) if kind.startswith("multipart/") else None
    if part is None:
        raise Unsupported("Accept", SDP)
    return part


def _sdp_part(kind: str, body: bytes) -> bytes | None:
    """Return the first description in a multipart body (RFC 2046 section 5.1)."""
    _, semicolon, params = kind.partition(";")
    try:
        boundary = param(parse_params(semicolon + params), "boundary")
    except Malformed:
        return None
    if not boundary:
        return None
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary.encode("utf-8", "surrogateescape"))[1:]:
        head, blank, content = part.partition(b"\r\n\r\n")
        if blank and re.search(rb"\r\ncontent-type[ \t]*:[ \t]*application/sdp", b"\r\n" + head, re.IGNORECASE):
            return content
    return None


def accepts_sdp(headers: Headers) -> bool:
    """Whether the sender takes a description in our answer (section 20.1); without Accept it does."""
    if "accept" not in headers:
        return True
    return bool(headers.tokens("accept") & {SDP, "application/*", "*/*"})


def dtmf_of(headers: Headers, body: bytes) -> tuple[str, int] | None:
    """Return the key and its milliseconds in the body of an INFO; None where it has none."""
    text = body.decode("utf-8", "replace").replace("\r", "")
    match content_type(headers):
        case "application/dtmf-relay":
            signal, duration = _SIGNAL.search(text), _DURATION.search(text)
            key, length = (signal.group(1) if signal else ""), (int(duration.group(1)) if duration else 160)
        case "application/dtmf":
            key, length = text.strip(), 160
        case _:
            return None
    key = {"10": "*", "11": "#"}.get(key, key).upper()
    return (key, length) if len(key) == 1 and key in _DTMF else None


def is_dtmf(headers: Headers) -> bool:
    """Whether an INFO is about keys."""
    return content_type(headers) in ("application/dtmf-relay", "application/dtmf")


def sipfrag_status(headers: Headers, body: bytes) -> int | None:
    """Return the status in a `message/sipfrag` (RFC 3515 section 2.4.5)."""
    match = _STATUS.match(body) if content_type(headers) == "message/sipfrag" else None
    return int(match.group(1)) if match else None
