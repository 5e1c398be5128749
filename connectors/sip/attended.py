"""Transfers that keep the caller until somebody has answered (RFC 5589 section 7).

hold the caller --> call the target --> answered --> REFER the caller there, in place of us (Replaces)
                                    \\-> not answered --> take the caller back: the transfer has failed
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

from fastagent.connectors.leg import LegError

_ANSWER_S = 30.0


class Caller(Protocol):
    """The caller's leg."""

    async def hold(self, on: bool) -> None:
        """Put them on hold, or take them back; may raise `LegError`."""
        ...

    async def refer(self, ask: Callable[[], None]) -> None:
        """Have a REFER sent, and wait for how it ends; may raise `LegError`."""
        ...


class Consultation(Protocol):
    """Our call to the target."""

    def answered(self) -> Awaitable[None]:
        """Return when it is answered; raises `LegError` when it will not be."""
        ...

    def connect(self) -> None:
        """Ask the caller's phone to take our place in it."""
        ...

    def hang_up(self) -> None:
        """End it."""
        ...


async def attended_transfer(leg: Caller, consult: Callable[[], Consultation]) -> None:
    """Transfer a call; returns when the caller's phone says that it has reached the other.

    Raises:
        LegError: it did not come to that; the caller is off hold again.
    """
    try:
        await leg.hold(True)
        await _connect(leg, consult())
    except BaseException:
        with suppress(LegError):  # why the transfer failed is what matters
            await leg.hold(False)
        raise


async def _connect(leg: Caller, consultation: Consultation) -> None:
    try:
        async with asyncio.timeout(_ANSWER_S):
            await consultation.answered()
        await leg.refer(consultation.connect)
    except TimeoutError:
        raise LegError("the transfer failed: nobody answers") from None
    finally:
        consultation.hang_up()
