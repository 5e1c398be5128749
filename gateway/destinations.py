"""Whom may be called: what the environment allows, and so many an hour (S15)."""

import re
import time
from collections import deque
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

_HOUR_S = 3600.0
_NUMBER = re.compile(r"\+?[0-9]{2,20}")
_SIP = re.compile(r"sips?:[A-Za-z0-9._~%!*'()&=+$,;?/-]{1,64}@[A-Za-z0-9.\[\]:-]{1,200}(?:;[A-Za-z0-9=._-]{1,64}){0,8}")


class DestinationRefusedError(Exception):
    """A destination that is malformed, not allowed, or one too many."""


class TooManyError(DestinationRefusedError):
    """One that would be fine later."""


class DestinationPolicy:
    """The allow-list of destinations, with `*` for any characters (`+1555*`, `sip:*@pbx.example.com`), and the rate.

    Args:
        allowed: the patterns.
        per_hour: how many an hour.
        setting: the variable that the patterns come from, for the refusal.
        clock: seconds.
    """

    def __init__(
        self,
        allowed: Iterable[str],
        per_hour: int,
        *,
        setting: str = "FASTAGENT_TRANSFER_TO",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._allowed, self._per_hour, self._clock = [_plain(one) for one in allowed], per_hour, clock
        self._setting = setting
        self._made: deque[float] = deque()

    def take(self, destination: str) -> str:
        """Return the destination as it is to be dialled, and count it.

        Raises:
            DestinationRefusedError: with the reason, which does not repeat the destination.
        """
        plain = self.check(destination)
        self._made.append(self._clock())
        return plain

    def check(self, destination: str) -> str:
        """Return the destination as it would be dialled; raises as `take`."""
        plain = _plain(destination)
        if not (_NUMBER.fullmatch(plain) or _SIP.fullmatch(plain)):
            raise DestinationRefusedError("it is no number and no SIP address")
        if not any(fnmatchcase(plain, pattern) for pattern in self._allowed):
            raise DestinationRefusedError(f"{self._setting} does not allow it")
        now = self._clock()
        while self._made and now - self._made[0] >= _HOUR_S:
            self._made.popleft()
        if len(self._made) >= self._per_hour:
            raise TooManyError("there were too many in this hour")
        return plain


def _plain(destination: str) -> str:
    """Without the separators that people write in numbers."""
    text = destination.strip()
    return text if ":" in text else re.sub(r"[\s().-]", "", text)
