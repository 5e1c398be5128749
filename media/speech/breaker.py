"""Whether a speech provider may be asked, or is left alone for a while.

The same rule as for models (`afsm.endpoints`); neither layer may import the other.
"""

from collections import deque

_OPENS_AFTER = 5
_WITHIN_S = 30.0
_OPEN_S = 10.0


class Breaker:
    """Five failures within half a minute open it; ten seconds later one request may try."""

    def __init__(self) -> None:
        self._failures: deque[float] = deque(maxlen=_OPENS_AFTER)
        self._opened_at: float | None = None

    def allows(self, now: float) -> bool:
        """Closed: yes. Open: no, until its time is over; then for one request."""
        if self._opened_at is None:
            return True
        if now - self._opened_at < _OPEN_S:
            return False
        self._opened_at = now  # half open: the next one has to wait for what becomes of this one
        return True

    def succeeded(self) -> None:
        """The provider did it."""
        self._failures.clear()
        self._opened_at = None

    def failed(self, now: float) -> None:
        """It did not."""
        self._failures.append(now)
        if len(self._failures) == _OPENS_AFTER and now - self._failures[0] <= _WITHIN_S:
            self._opened_at = now

    @property
    def open(self) -> bool:
        """Whether the provider is being left alone."""
        return self._opened_at is not None
