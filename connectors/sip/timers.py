"""The timers of a core: named by their owner, kept in a heap; what was stopped stays there until its time comes."""

import heapq
from collections.abc import Callable
from itertools import count

Callback = Callable[[float], object]


class Timers:
    """Deadlines; `now` comes from outside."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, object, str]] = []
        self._live: dict[tuple[object, str], tuple[int, Callback]] = {}
        self._names: dict[object, set[str]] = {}
        self._serial = count()

    def start(self, owner: object, name: str, at: float, callback: Callback) -> None:
        """Start a timer, or start it anew."""
        serial = next(self._serial)
        self._live[owner, name] = (serial, callback)
        self._names.setdefault(owner, set()).add(name)
        heapq.heappush(self._heap, (at, serial, owner, name))
        if len(self._heap) > 64 + 4 * len(self._live):  # a long call renews its session timer for ever
            self._heap = [entry for entry in self._heap if self._is_live(entry)]
            heapq.heapify(self._heap)

    def stop(self, owner: object, *names: str) -> None:
        """Stop some of an owner's timers; all of them, if none is named."""
        running = self._names.get(owner, set())
        for name in names or tuple(running):
            running.discard(name)
            self._live.pop((owner, name), None)
        if not running:
            self._names.pop(owner, None)

    def running(self, owner: object, name: str) -> bool:
        """Whether a timer runs."""
        return (owner, name) in self._live

    def next_timeout(self) -> float | None:
        """Return when the next one is due."""
        while self._heap and not self._is_live(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def run_due(self, now: float) -> None:
        """Call what is due, in order."""
        while (at := self.next_timeout()) is not None and at <= now:
            _, _, owner, name = heapq.heappop(self._heap)
            _, callback = self._live[owner, name]
            self.stop(owner, name)
            callback(now)

    def _is_live(self, entry: tuple[float, int, object, str]) -> bool:
        live = self._live.get((entry[2], entry[3]))
        return live is not None and live[0] == entry[1]
