"""A token bucket per caller of the API."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable

_MAX_CALLERS = 10_000


class RateLimit:
    """So many requests a second, with a burst of twice that, or of one."""

    def __init__(self, per_second: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = per_second, clock
        self._burst = max(1.0, 2 * per_second)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and when they were counted

    def admits(self, caller: str) -> bool:
        """Take a token; whether there was one."""
        now = self._clock()
        tokens, at = self._buckets.pop(caller, (self._burst, now))
        tokens = min(self._burst, tokens + (now - at) * self._rate)
        admitted = tokens >= 1
        self._buckets[caller] = (tokens - admitted, now)
        if len(self._buckets) > _MAX_CALLERS:
            self._buckets.popitem(last=False)
        return admitted

    def wait_s(self, caller: str) -> int:
        """Return the whole seconds after which a caller that was refused has a token again."""
        tokens, at = self._buckets.get(caller, (self._burst, self._clock()))
        return max(1, math.ceil((1 - tokens) / self._rate - (self._clock() - at)))
