"""A network that loses, delays, reorders and repeats by a seed: a core with time, for phones that test a gateway."""

import heapq
import random
from dataclasses import dataclass
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")

_OVERTAKEN_S = 0.05  # so much later comes what is reordered
_REPEATED_S = 0.01


@dataclass(frozen=True, slots=True)
class Impairments:
    """What a network does to packets; shares are between 0 and 1.

    Attributes:
        loss: the share that never arrives.
        jitter_s: each is delayed by anything up to this.
        reorder: the share that others overtake.
        duplicate: the share that arrives twice.
        delay_s: every packet's way.
        in_order: whether jitter alone lets no packet overtake another, as a queue does.
        seed: of all that chance.
    """

    loss: float = 0.0
    jitter_s: float = 0.0
    reorder: float = 0.0
    duplicate: float = 0.0
    delay_s: float = 0.0
    in_order: bool = True
    seed: int = 1

    @property
    def any(self) -> bool:
        """Whether there are any."""
        return any((self.loss, self.jitter_s, self.reorder, self.duplicate, self.delay_s))


NONE = Impairments()


class Network(Generic[T]):
    """One direction."""

    def __init__(self, impairments: Impairments) -> None:
        self._does = impairments
        self._random = random.Random(impairments.seed)
        self._air: list[tuple[float, int, T]] = []
        self._serial = count()
        self._last = 0.0

    @property
    def next_at(self) -> float | None:
        """When the next packet arrives."""
        return self._air[0][0] if self._air else None

    def push(self, item: T, now: float) -> None:
        """Send something."""
        does, chance = self._does, self._random
        if chance.random() < does.loss:
            return
        at = now + does.delay_s + chance.uniform(0, does.jitter_s)
        if chance.random() < does.reorder:
            at += _OVERTAKEN_S
        elif does.in_order:
            at = self._last = max(at, self._last)
        heapq.heappush(self._air, (at, next(self._serial), item))
        if chance.random() < does.duplicate:
            heapq.heappush(self._air, (at + _REPEATED_S, next(self._serial), item))

    def due(self, now: float) -> list[T]:
        """Return what has arrived, in that order."""
        arrived = []
        while self._air and self._air[0][0] <= now:
            arrived.append(heapq.heappop(self._air)[2])
        return arrived
