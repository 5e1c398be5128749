"""Health: what the documented endpoint says, over a rolling window of five minutes."""

import time
from collections import deque

_WINDOW_S = 300.0
_MAX = 20_000


class LatencyWindow:
    """Response latencies of the last five minutes."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=_MAX)

    def add(self, seconds: float) -> None:
        """Take a response's latency."""
        self._samples.append((time.monotonic(), seconds * 1000))

    def metrics(self) -> dict[str, float | None]:
        """Return the documented figures in milliseconds; null when there are no samples."""
        oldest = time.monotonic() - _WINDOW_S
        while self._samples and self._samples[0][0] < oldest:
            self._samples.popleft()
        values = sorted(value for _, value in self._samples)
        if not values:
            return dict.fromkeys(("avg_ms", "min_ms", "max_ms", "p95_ms", "p99_ms"))

        def quantile(q: float) -> float:
            return values[min(len(values) - 1, int(q * len(values)))]

        figures = {
            "avg_ms": sum(values) / len(values),
            "min_ms": values[0],
            "max_ms": values[-1],
            "p95_ms": quantile(0.95),
            "p99_ms": quantile(0.99),
        }
        return {name: round(value, 1) for name, value in figures.items()}
