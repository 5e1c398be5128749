"""One clock per process for everything that must move every 20 ms.

Deadlines are absolute, so the clock does not drift; a tick that was missed is not made up. Listeners are told the time
that a tick was due at, not when the loop came to it: what they count from tick to tick has no jitter, and a packet is
not left to the next tick since the first one was late. It runs only while somebody listens.
"""

import asyncio
import logging
from collections.abc import Callable

_log = logging.getLogger(__name__)

Tick = Callable[[float], None]
Failed = Callable[[Exception], None]


class Ticker:
    """Calls its listeners every `period_s` with the time that was due; one that raises is not called again, and whoever
    added it is told."""

    def __init__(self, period_s: float = 0.02, *, on_lag: Callable[[float], None] = lambda lag_s: None) -> None:
        self._period_s = period_s
        self._on_lag = on_lag
        self._early: dict[Tick, Failed] = {}
        self._listeners: dict[Tick, Failed] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def add(self, listener: Tick, *, early: bool = False, failed: Failed | None = None) -> None:
        """Call this from the next tick on.

        Args:
            listener: what to call.
            early: before all that are not: for those that send, and do little.
            failed: told what it raised; logged, if not given.
        """
        (self._early if early else self._listeners)[listener] = failed or _log_failure
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._due = loop.time() + self._period_s
            self._timer = loop.call_at(self._due, self._tick)

    def remove(self, listener: Tick) -> None:
        """Stop calling this; unknown listeners are fine."""
        self._early.pop(listener, None)
        self._listeners.pop(listener, None)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        lag = loop.time() - self._due
        self._on_lag(lag)
        self._due += max(0, int(lag / self._period_s)) * self._period_s
        for group in (self._early, self._listeners):
            for listener in tuple(group):
                if (failed := group.get(listener)) is not None:  # else another one has removed it just now
                    self._call(listener, failed)
        if not (self._early or self._listeners):
            self._timer = None
            return
        self._due += self._period_s
        self._timer = loop.call_at(self._due, self._tick)

    def _call(self, listener: Tick, failed: Failed) -> None:
        try:
            listener(self._due)
        except Exception as error:  # the clock is everybody's
            self.remove(listener)
            try:
                failed(error)
            except Exception as another:
                _log_failure(another)


def _log_failure(error: Exception) -> None:
    _log.error("a listener of the ticker failed", exc_info=error)
