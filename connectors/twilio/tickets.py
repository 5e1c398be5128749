"""Stream tickets: a signed webhook has no time and no nonce, so each accepted call gets a secret of its own, once.

A repeated webhook of one call gets the same ticket while it is unused, a new one afterwards. A ticket holds the place
of its call among the sessions until it is redeemed or expires, so that the door is closed at the right number.
"""

import hmac
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

LIFETIME_S = 60.0


@dataclass(frozen=True, slots=True)
class Announced:
    """A call that its webhook announced."""

    call_sid: str
    agent_id: str
    from_: str
    to: str
    direction: str
    release: Callable[[], None]
    """Gives the place back that was reserved for the call."""
    metadata: Mapping[str, str] = field(default_factory=dict)


class TicketBox:
    """The tickets that wait for their stream."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[str, float, Announced]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def pending(self, call_sid: str, now: float) -> str | None:
        """Return the unused ticket of a call, if it has one."""
        self.expire(now)
        entry = self._waiting.get(call_sid)
        return entry[0] if entry else None

    def issue(self, call: Announced, now: float) -> str:
        """Return a ticket for a call."""
        token = secrets.token_urlsafe(24)
        self._waiting[call.call_sid] = (token, now + LIFETIME_S, call)
        return token

    def redeem(self, call_sid: str, token: str, now: float) -> Announced | None:
        """Return the call whose ticket this is; the ticket is used up. Its place passes to whoever redeems it."""
        self.expire(now)
        entry = self._waiting.get(call_sid)
        if entry is None or not hmac.compare_digest(entry[0].encode(), token.encode("utf-8", "replace")):
            return None
        del self._waiting[call_sid]
        return entry[2]

    def cancel(self, call_sid: str) -> None:
        """The call ended before its stream came."""
        entry = self._waiting.pop(call_sid, None)
        if entry:
            entry[2].release()

    def expire(self, now: float) -> None:
        """Drop the tickets that nobody came for."""
        late = [sid for sid, (_, until, _) in self._waiting.items() if until <= now]
        for sid in late:
            self.cancel(sid)
