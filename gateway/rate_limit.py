"""A token bucket per caller of the API."""

import time
from collections import OrderedDict
from collections.abc import Callable

_MAX_CALLERS = 10_000


class RateLimit:
    """So many requests a second, with a burst of twice that."""

    def __init__(self, per_second: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = per_second, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and when they were counted

    def admits(self, caller: str) -> bool:
        """Take a token; whether there was one."""
        now = self._clock()
        tokens, at = self._buckets.pop(caller, (2 * self._rate, now))
        tokens = min(2 * self._rate, tokens + (now - at) * self._rate)
        admitted = tokens >= 1
        self._buckets[caller] = (tokens - admitted, now)
        if len(self._buckets) > _MAX_CALLERS:
            self._buckets.popitem(last=False)
        return admitted
