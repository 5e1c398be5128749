"""What a connector needs of a gateway, refusing everything: tests override what they are about."""

from aiohttp import web

from fastagent.connectors.host import Recalled, Release
from fastagent.connectors.leg import CallLeg


class NoHost:
    """A `LegHost` with nothing behind it."""

    default_agent = "front_desk"

    def has_agent(self, agent_id: str) -> bool:
        return True

    def is_live(self, session_id: str) -> bool:
        return False

    def accepts_calls(self) -> bool:
        return True

    def authorize(self, request: web.BaseRequest, surface: str) -> str | None:
        return None

    async def recall(self, session_id: str) -> Recalled | None:
        return None

    def resumed(self, origin: str) -> None:
        raise AssertionError(origin)

    def reserve(self, connector: str) -> Release | None:
        return None

    async def converse(self, leg: CallLeg, agent_id: str, *, recalled: Recalled | None = None) -> None:
        raise AssertionError(agent_id)

    def auth_failed(self, surface: str) -> None:
        raise AssertionError(surface)

    def protocol_error(self, surface: str, kind: str, count: int = 1) -> None:
        pass
