"""What a connector needs of the gateway that hosts it."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from fastagent.connectors.leg import CallLeg

Release = Callable[[], None]


class LegHost(Protocol):
    """The gateway, as connectors see it."""

    def reserve(self, connector: str) -> Release | None:
        """Reserve a place for a call that is announced; None when there is none, or calls are refused for now."""
        ...

    def converse(self, leg: CallLeg, agent_id: str) -> Awaitable[None]:
        """Run a session on an answered leg to its end. Never raises."""
        ...

    def auth_failed(self, surface: str) -> None:
        """Count a refused credential."""
        ...

    def protocol_error(self, surface: str, kind: str, count: int = 1) -> None:
        """Count bad input, by a fixed word."""
        ...
