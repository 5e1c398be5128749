"""API keys: who may use the REST and WebSocket APIs.

With keys configured every request needs one. Without, requests that are local for certain are admitted, and all others
need a key that is made at start and shown once.
"""

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from typing import Literal

from aiohttp import web

from fastagent.connectors import trust

_SUBPROTOCOL = "bearer."
LOCAL = "local"
"""Who a request comes from that needs no key."""


class ApiKeys:
    """The keys, compared whole and in constant time.

    Args:
        mode: `auto`; `open` admits everybody; `required` makes a missing key an error at start.

    Raises:
        ValueError: a key is required and there is none.
    """

    def __init__(self, keys: Iterable[str], mode: Literal["auto", "open", "required"]) -> None:
        given = list(keys)
        if mode == "required" and not given:
            raise ValueError("FASTAGENT_AUTH=required needs FASTAGENT_API_KEYS")
        self.open = mode == "open" and not given
        self.made: str | None = None if given or self.open else f"fa_{secrets.token_urlsafe(24)}"
        """The key that was made since none was configured; to be shown once."""
        self._local_needs_none = not given
        self._digests = [_digest(key) for key in given or ([self.made] if self.made else [])]

    def principal(self, request: web.BaseRequest) -> str | None:
        """Return who a request comes from: a name for its key, or `local`; None where it is nobody we know."""
        tokens = _tokens(request)
        if not tokens:
            admitted = self.open or (self._local_needs_none and trust.is_loopback(request))
            return LOCAL if admitted else None
        if len(tokens) > 1:
            return None
        digest = _digest(tokens[0])
        known = [hmac.compare_digest(digest, one) for one in self._digests]  # all of them: no early exit
        if any(known):
            return f"key-{digest.hex()[:12]}"
        return LOCAL if self.open else None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()  # headers may hold any byte


def _tokens(request: web.BaseRequest) -> list[str]:
    """Every credential of a request; a token in the query is none."""
    headers = request.headers.getall("Authorization", [])
    found = [value.partition(" ")[2].strip() if value.lower().startswith("bearer ") else "" for value in headers]
    offered = ",".join(request.headers.getall("Sec-WebSocket-Protocol", []))
    protocols = [one.strip() for one in offered.split(",")]
    return found + [one.removeprefix(_SUBPROTOCOL) for one in protocols if one.startswith(_SUBPROTOCOL)]
