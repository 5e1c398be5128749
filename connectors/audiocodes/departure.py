"""How a conversation is left, in both modes: by hang-up or transfer, each of which the other side confirms."""

import asyncio
from dataclasses import dataclass

from fastagent.connectors.audiocodes.activities import TransferStatus
from fastagent.connectors.events import LegEvents
from fastagent.connectors.leg import HangupReason, LegEnded, LegError, LegEvent

HOLD_S = 30.0
_ENDINGS = {
    "client-disconnected": HangupReason.CALLER_HUNG_UP,
    "bot-disconnected": HangupReason.COMPLETED,
    "transferred": HangupReason.TRANSFERRED,
    "error": HangupReason.PROVIDER_ERROR,
}


@dataclass(frozen=True, slots=True)
class LegOptions:
    """What a leg is told.

    Attributes:
        hold_s: how long a lost connection may take to come back.
        answer_s: a call is answered by its first audio; an agent that is silent for so long gets some silence sent.
        confirm_s: for the other side's word after our hang-up.
        transfer_s: for word of a transfer that was asked to notify.
        notified: whether transfers ask for notification, so that one that failed comes back to the agent.
    """

    hold_s: float = HOLD_S
    answer_s: float = 1.0
    confirm_s: float = 5.0
    transfer_s: float = 90.0
    notified: bool = True


class Departure:
    """One conversation's events, and its end."""

    def __init__(self, options: LegOptions) -> None:
        self.events = LegEvents()
        self.leaving: HangupReason | None = None
        """Why we have asked to end the call."""
        self._options = options
        self._status: TransferStatus | None = None
        self._settled: asyncio.Event | None = None  # of the transfer that is under way

    @property
    def over(self) -> bool:
        """Whether the conversation has ended."""
        return self.events.ended.is_set()

    def happened(self, event: LegEvent) -> None:
        """Take an event."""
        if self.events.put(event) and self._settled is not None:
            self._settled.set()

    def told_end(self, reason_code: str) -> None:
        """The other side says that it is over."""
        reason = _ENDINGS.get(reason_code)
        if reason in (None, HangupReason.COMPLETED) and self.leaving is not None:
            reason = self.leaving
        elif reason is None:
            reason = HangupReason.TRANSFERRED if self._settled is not None else HangupReason.CALLER_HUNG_UP
        self.happened(LegEnded(reason))

    async def confirmed(self) -> None:
        """Return when the end has come, or will not."""
        await _within(self._options.confirm_s, self.events.ended)

    # -- transfers -------------------------------------------------------------------------------------------------

    def transferring(self) -> None:
        """A transfer is asked for."""
        self._status, self._settled = None, asyncio.Event()

    def told_status(self, status: TransferStatus) -> bool:
        """Word of a transfer; return whether there is one that waits for it."""
        if self._settled is None or self._status is not None:
            return False
        self._status = status
        self._settled.set()
        return True

    async def transferred(self) -> None:
        """Return when the call is somebody else's. With notifications one that fails comes back; without, the other
        side drops us whatever becomes of it.

        Raises:
            LegError: it failed, and the call is still here.
        """
        assert self._settled is not None
        options = self._options
        try:
            await _within(options.transfer_s if options.notified else options.confirm_s, self._settled)
            status = self._status
            if not self.over and status is not None and status.status == "failed":
                raise LegError(f"the transfer has failed: {status.detail or 'no reason given'}")
            if not self.over and status is None and options.notified:
                raise LegError("no word of the transfer")
            await self.confirmed()
            self.happened(LegEnded(HangupReason.TRANSFERRED))
        finally:
            self._settled = None


async def _within(seconds: float, event: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
