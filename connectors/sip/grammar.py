"""Lexical pieces that headers share (RFC 3261 section 25.1).

Text is decoded with `surrogateescape`, so that what is echoed is echoed byte for byte; `printable` makes it fit for
people. Only blank and tab are white space here: Python's own notion of it (and of line ends, and of digits) is wider
than the grammar's, and a parser that is wider than its neighbours is a way in.
"""

import re

from fastagent.connectors.errors import PeerError

BLANK = " \t"
TOKEN = re.compile(r"[A-Za-z0-9\-.!%*_+`'~]+")
NUMBER = re.compile(r"[0-9]+")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*+)"', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_PIECE = {
    separator: re.compile(rf'(?:[^{separator}"<]|"(?:[^"\\]|\\.)*+"|<[^>]*+>)*+', re.DOTALL) for separator in ",;"
}

Params = tuple[tuple[str, str | None], ...]
"""Parameters in order: names in lower case, values as written (with their quotes, if they have any)."""


class Malformed(PeerError):
    """Text that the grammar does not have."""

    def __init__(self, message: str) -> None:
        super().__init__("malformed", message)


def split_outside(text: str, separator: str) -> list[str]:
    """Split at commas or semicolons that are neither within quotes nor within angle brackets, and strip the parts.

    Raises:
        Malformed: a quote or a bracket has no other end.
    """
    if '"' not in text and "<" not in text:
        return [part.strip(BLANK) for part in text.split(separator)]
    parts, at = [], 0
    while True:
        match = _PIECE[separator].match(text, at)
        assert match is not None  # the pattern takes nothing, too
        parts.append(match.group().strip(BLANK))
        at = match.end()
        if at == len(text):
            return parts
        if text[at] != separator:
            raise Malformed("a quote or bracket has no other end")
        at += 1


def parse_params(text: str, *, strict: bool = False) -> Params:
    """Parse `;name=value;name`; blanks around `=` happen. An empty parameter is skipped, or refused when strict."""
    if not text:
        return ()
    if text[0] != ";":
        raise Malformed("parameters begin with a semicolon")
    return tuple(_param(part) for part in split_outside(text[1:], ";") if part or strict)


def _param(text: str) -> tuple[str, str | None]:
    name, equals, value = text.partition("=")
    name, value = name.rstrip(BLANK), value.lstrip(BLANK)
    if not TOKEN.fullmatch(name):
        raise Malformed("a parameter has no name")
    if value.startswith('"') and not _QUOTED.fullmatch(value):
        raise Malformed("a quoted value has no end")
    return name.lower(), value if equals else None


def format_params(params: Params) -> str:
    """Return parameters as they go on the wire."""
    return "".join(f";{name}" if value is None else f";{name}={value}" for name, value in params)


def param(params: Params, name: str) -> str | None:
    """Return a parameter's value without quotes; "" where it is there without one, None where it is not there."""
    for key, value in params:
        if key == name:
            return unquote(value or "")
    return None


def with_param(params: Params, name: str, value: str | None) -> Params:
    """Return the parameters with one set, at the end if it is new."""
    kept = tuple((key, value if key == name else old) for key, old in params)
    return kept if any(key == name for key, _ in params) else (*kept, (name, value))


def quote(text: str) -> str:
    """Return a quoted string."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def unquote(text: str) -> str:
    """Return what a quoted string says; other text is returned as it is."""
    match = _QUOTED.fullmatch(text)
    return _ESCAPED.sub(r"\1", match.group(1)) if match else text


def leading_quoted(text: str) -> tuple[str, str]:
    """Split a quoted string off the front: its content, and the rest."""
    match = _QUOTED.match(text)
    if match is None:
        raise Malformed("a quoted name has no end")
    return _ESCAPED.sub(r"\1", match.group(1)), text[match.end() :]


def number(text: str, limit: int) -> int:
    """Return a number below a limit.

    Raises:
        Malformed: it is none; more digits than the limit has are not even converted.
    """
    text = text.strip(BLANK)
    digits = text.lstrip("0") or "0"  # Python converts no endless row of zeros
    if not NUMBER.fullmatch(text) or len(digits) > len(str(limit)) or int(digits) >= limit:
        raise Malformed("a number is out of range")
    return int(digits)


def printable(text: str) -> str:
    """Return text for people and logs: valid Unicode, no control characters, short. It is the peer's text still."""
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(one if one.isprintable() else " " for one in text)[:256]
