"""One clock per process for everything that must move every 20 ms.

Deadlines are absolute, so the clock does not drift; a tick that was missed is not made up. It runs only while somebody
listens.
"""

import asyncio
import logging
from collections.abc import Callable

_log = logging.getLogger(__name__)

Tick = Callable[[float], None]


class Ticker:
    """Calls its listeners with `now` every `period_s`; one that raises is not called again."""

    def __init__(self, period_s: float = 0.02, *, on_lag: Callable[[float], None] = lambda lag_s: None) -> None:
        self._period_s = period_s
        self._on_lag = on_lag
        self._listeners: dict[Tick, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def add(self, listener: Tick) -> None:
        """Call this from the next tick on."""
        self._listeners[listener] = None
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._due = loop.time() + self._period_s
            self._timer = loop.call_at(self._due, self._tick)

    def remove(self, listener: Tick) -> None:
        """Stop calling this; unknown listeners are fine."""
        self._listeners.pop(listener, None)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._on_lag(now - self._due)
        for listener in tuple(self._listeners):
            if listener not in self._listeners:  # another one has removed it just now
                continue
            try:
                listener(now)
            except Exception:  # the clock is everybody's
                _log.exception("a listener of the ticker failed")
                self.remove(listener)
        if not self._listeners:
            self._timer = None
            return
        missed = max(0, int((now - self._due) / self._period_s))
        self._due += (missed + 1) * self._period_s
        self._timer = loop.call_at(self._due, self._tick)
