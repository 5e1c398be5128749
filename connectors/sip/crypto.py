"""SDES keys in `a=crypto` lines (RFC 4568)."""

import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable

from fastagent.connectors.rtp.srtp import SUITES
from fastagent.connectors.sip.media import Crypto

_LINE = re.compile(r"([0-9]{1,9}) ([A-Za-z0-9_]+) inline:([A-Za-z0-9+/]+={0,2})(?:\|(?:2\^)?[0-9]+)?", re.ASCII)


def parse_crypto(text: str) -> Crypto | None:
    """Read one line; None where its suite is not ours, or it wants what we do not do: key identifiers, parameters."""
    match = _LINE.fullmatch(text.strip())
    if match is None or match.group(2) not in SUITES:
        return None
    try:
        key = b64decode(match.group(3), validate=True)
    except ValueError:
        return None
    return Crypto(int(match.group(1)), match.group(2), key) if len(key) == SUITES[match.group(2)] else None


def choose_crypto(lines: Iterable[str]) -> Crypto | None:
    """Return the first that can be had: the order is the offerer's preference."""
    return next((crypto for line in lines if (crypto := parse_crypto(line))), None)


def new_key(suite: str, tag: int, token: Callable[[int], bytes]) -> Crypto:
    """Make a key of our own."""
    return Crypto(tag, suite, token(SUITES[suite]))


def format_crypto(crypto: Crypto) -> str:
    """Return the line's value."""
    return f"{crypto.tag} {crypto.suite} inline:{b64encode(crypto.key).decode()}"
