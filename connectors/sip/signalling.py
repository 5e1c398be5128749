"""The user agent, for one call: what its leg may ask for."""

import asyncio
from collections.abc import Callable

from fastagent.connectors.leg import HangupReason
from fastagent.connectors.sip.actions import Action
from fastagent.connectors.sip.attended import Consultation
from fastagent.connectors.sip.endings import reason_items
from fastagent.connectors.sip.user_agent import UserAgent

Perform = Callable[[list[Action]], None]


class CallSignalling:
    """One call's; what the core says to it is carried out by `perform`."""

    def __init__(
        self, agent: UserAgent, perform: Perform, call: str, consult: Callable[[str], Consultation] | None
    ) -> None:
        self._agent, self._perform, self._call, self.consult = agent, perform, call, consult

    def hang_up(self, reason: HangupReason) -> None:
        """Say BYE, or take it back."""
        self._perform(self._agent.hang_up(self._call, self._now, items=reason_items(reason)))

    def transfer(self, target: str) -> None:
        """Say REFER."""
        self._perform(self._agent.transfer(self._call, target, self._now))

    def send_info(self, digit: str) -> None:
        """Send a key by INFO."""
        self._perform(self._agent.send_dtmf(self._call, digit, self._now))

    def hold(self, on: bool) -> None:
        """Send a re-INVITE."""
        self._perform(self._agent.change_media(self._call, self._now, hold=on))

    @property
    def _now(self) -> float:
        return asyncio.get_running_loop().time()
