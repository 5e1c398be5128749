"""Collecting keys: until there are enough, the terminator ends them, or the caller stops pressing."""

import asyncio
from collections.abc import Callable

from fastagent.afsm.state import KeyRules

_MAX = 64


class DigitCollector:
    """Hands on complete inputs."""

    def __init__(self, loop: asyncio.AbstractEventLoop, complete: Callable[[str], None]) -> None:
        self._loop, self._complete = loop, complete
        self._digits = ""
        self._timer: asyncio.TimerHandle | None = None
        self._full_until = 0.0  # an input was complete by its length; its terminator may still come

    @property
    def collecting(self) -> bool:
        """Whether an input is under way."""
        return bool(self._digits)

    def is_late_terminator(self, digit: str, rules: KeyRules) -> bool:
        """Whether a key only ends an input that was complete already, as many callers are used to press it."""
        late = digit == rules.terminator and not self._digits and self._loop.time() < self._full_until
        self._full_until = 0.0
        return late

    def add(self, digit: str, rules: KeyRules) -> None:
        """Take a key. The terminator alone is an input of its own where one key is enough."""
        self._stop()
        if digit == rules.terminator and (self._digits or rules.max_digits > 1):
            self._flush()
            return
        self._digits += digit
        if len(self._digits) >= min(rules.max_digits, _MAX):
            if rules.max_digits > 1:
                self._full_until = self._loop.time() + rules.inter_digit_s
            self._flush()
        else:
            self._timer = self._loop.call_later(rules.inter_digit_s, self._flush)

    def _flush(self) -> None:
        self._timer = None
        digits, self._digits = self._digits, ""
        self._complete(digits)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """Forget what was pressed."""
        self._stop()
        self._digits = ""
