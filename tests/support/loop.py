"""An event loop whose clock jumps: an hour of 20 ms ticks runs in seconds, and a wait that can never end fails at once.

For in-memory links only; executors run inline. Tests on real sockets are marked `real` and use real time.
"""

import asyncio
import selectors
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any


class JumpingSelector(selectors.DefaultSelector):
    """Jumps to the next timer in place of waiting for it."""

    loop: "JumpingLoop"

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("nothing scheduled: this wait never ends")
        if not ready and timeout:
            self.loop.now += timeout
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop in virtual time; `run_in_executor` runs at once, in line."""

    def __init__(self) -> None:
        selector = JumpingSelector()
        selector.loop = self
        self.now = 1000.0
        super().__init__(selector)

    def time(self) -> float:
        return self.now

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> "asyncio.Future[Any]":
        if isinstance(executor, DelayedExecutor):
            return executor.submit_later(self, func, *args)
        future: asyncio.Future[Any] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


class InlineExecutor(Executor):
    """For code that asks for an executor; the loop above runs the work in line."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


class DelayedExecutor(InlineExecutor):
    """Work that takes `delay_s` of virtual time."""

    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s

    def submit_later(self, loop: JumpingLoop, func: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":
        future: asyncio.Future[Any] = loop.create_future()

        def finish() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(func(*args))
            except Exception as error:
                future.set_exception(error)

        loop.call_later(self.delay_s, finish)
        return future
