"""A chain of models: the next one answers when the one before does not, inside the turn's budget.

    fault            the same endpoint again         then
    -----            -----------------------         ----
    unavailable      once, after a short jitter      the next
    rate limited     once, if what it asks for fits  the next
    broken, empty    once                            the next
    silent           no: it would take as long       the next
    auth, refused    no: it would say the same       the next

Nothing is tried again once a part of an answer was given out. An endpoint that has failed five times in half a minute
is left alone for ten seconds; then one request may try it.
"""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence

from fastagent.afsm.llm import FaultKind, Llm, LlmError, LlmRequest, TextDelta, ToolCall

_BUDGET_S = 10.0
_OPENS_AFTER = 5
_WITHIN_S = 30.0
_OPEN_S = 10.0
_JITTER_S = (0.05, 0.25)
_AGAIN: frozenset[FaultKind] = frozenset({"unavailable", "rate_limited", "broken", "empty"})


class Breaker:
    """Whether an endpoint may be asked."""

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
        """An answer came."""
        self._failures.clear()
        self._opened_at = None

    def failed(self, now: float) -> None:
        """None came."""
        self._failures.append(now)
        if len(self._failures) == _OPENS_AFTER and now - self._failures[0] <= _WITHIN_S:
            self._opened_at = now

    @property
    def open(self) -> bool:
        """Whether the endpoint is being left alone."""
        return self._opened_at is not None


class EndpointChain:
    """A model that is as many as its endpoints."""

    def __init__(
        self,
        endpoints: Sequence[Llm],
        *,
        budget_s: float = _BUDGET_S,
        on_fault: Callable[[str, FaultKind], None] = lambda name, kind: None,
        rng: random.Random | None = None,
    ) -> None:
        if not endpoints:
            raise ValueError("a chain has at least one endpoint")
        self.name = endpoints[0].name
        self._endpoints = [(endpoint, Breaker()) for endpoint in endpoints]
        self._budget_s, self._on_fault = budget_s, on_fault
        self._rng = rng or random.Random()

    async def stream(self, request: LlmRequest) -> AsyncIterator[TextDelta | ToolCall]:
        """Yield the answer of the first endpoint that gives one."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._budget_s
        fault = LlmError("open", "every endpoint is being left alone")
        for endpoint, breaker in self._endpoints:
            for attempt in range(2):
                if not breaker.allows(loop.time()):
                    break
                try:
                    async for event in _before(endpoint.stream(request), deadline):
                        yield event
                except LlmError as error:
                    fault = error
                    breaker.failed(loop.time())
                    self._on_fault(endpoint.name, error.kind)
                    if error.spoken:
                        raise
                    wait_s = self._wait_s(error) if attempt == 0 else None
                    if wait_s is None or loop.time() + wait_s >= deadline:
                        break
                    await asyncio.sleep(wait_s)
                else:
                    breaker.succeeded()
                    return
            if loop.time() >= deadline:
                break
        raise fault

    def _wait_s(self, error: LlmError) -> float | None:
        """How long to wait before the same endpoint is asked again; None for not at all."""
        if error.kind not in _AGAIN:
            return None
        return max(error.retry_after_s or 0.0, self._rng.uniform(*_JITTER_S))


async def _before(events: AsyncIterator[TextDelta | ToolCall], deadline: float) -> AsyncIterator[TextDelta | ToolCall]:
    """Yield events; the first one must come before the deadline."""
    try:
        try:
            async with asyncio.timeout_at(deadline):
                first = await anext(events)
        except TimeoutError as error:
            raise LlmError("silent", "the turn's budget is used up") from error
        except StopAsyncIteration:
            raise LlmError("empty", "the answer is empty") from None
        yield first
        async for event in events:
            yield event
    finally:
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()
