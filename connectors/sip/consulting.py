"""Our own call to the target of an attended transfer; it has no session: nobody talks on it but the caller, later."""

import asyncio
from collections.abc import Callable

from fastagent.connectors.leg import CallInfo, HangupReason, LegError
from fastagent.connectors.sip.actions import CallEnded
from fastagent.connectors.sip.dial import unanswered
from fastagent.connectors.sip.media import NegotiatedMedia
from fastagent.connectors.sip.sip_call import SipCall
from fastagent.media.frame import PCMU_8K

_INFO = CallInfo("sip", "", "", "", "", "outbound", PCMU_8K)


class Consulting:
    """One.

    Args:
        connect: asks the caller's phone to take our place in the call of this id.
    """

    def __init__(self, connect: Callable[[str], None]) -> None:
        self._connect = connect
        self._answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.call: SipCall | None = None

    def begin(self, call: SipCall, media: NegotiatedMedia) -> None:
        """They have answered: silence is sent."""
        call.open(media, _INFO)
        if not self._answered.done():
            self._answered.set_result(None)

    def over(self, event: CallEnded | None) -> None:
        """They have not, or have hung up."""
        if event is not None and not self._answered.done():
            self._answered.set_exception(LegError(f"the transfer failed: {unanswered(event)}"))

    async def answered(self) -> None:
        """Return when they have answered; raises `LegError` when they will not."""
        await self._answered

    def connect(self) -> None:
        """Ask the caller's phone to take our place."""
        if self.call is not None:
            self._connect(self.call.id)

    def hang_up(self) -> None:
        """End it; who has been connected has ended it already."""
        self._answered.cancel()
        if self.call is not None:
            self.call.signalling.hang_up(HangupReason.TRANSFERRED)
