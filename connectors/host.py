"""What a connector needs of the gateway that hosts it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiohttp import web

from fastagent.connectors.leg import CallLeg

Release = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Recalled:
    """A session that the store still knows: enough to go on with it on a new leg."""

    session_id: str
    agent_id: str
    private: Mapping[str, str]
    """What the connector gave in `CallInfo.private`."""
    snapshot: Mapping[str, Any] = field(default_factory=dict)
    turn_count: int = 0
    epoch: int = 0
    """How often it was taken up before: the newest holder wins."""


class LegHost(Protocol):
    """The gateway, as connectors see it."""

    @property
    def default_agent(self) -> str:
        """The agent for calls that name none."""
        ...

    def has_agent(self, agent_id: str) -> bool:
        """Whether an agent of this id exists."""
        ...

    def is_live(self, session_id: str) -> bool:
        """Whether a session of this id runs here."""
        ...

    def accepts_calls(self) -> bool:
        """Whether calls are taken at all right now."""
        ...

    def authorize(self, request: web.BaseRequest, surface: str) -> str | None:
        """Return who a request comes from, by its API key or by being local; None refuses it, and is counted."""
        ...

    async def recall(self, session_id: str) -> Recalled | None:
        """Return what the store knows of a session, within a second; None if nothing."""
        ...

    def reserve(self, connector: str) -> Release | None:
        """Reserve a place for a call that is announced; None when there is none, or calls are refused for now."""
        ...

    def converse(self, leg: CallLeg, agent_id: str, *, recalled: Recalled | None = None) -> Awaitable[None]:
        """Run a session on an answered leg to its end; a recalled one goes on where it was, and is counted, unless its
        state is gone from the agent: then it begins anew. Never raises."""
        ...

    def resumed(self, origin: str) -> None:
        """Count a session that goes on: on a new `connection`, for one."""
        ...

    def auth_failed(self, surface: str) -> None:
        """Count a refused credential."""
        ...

    def protocol_error(self, surface: str, kind: str, count: int = 1) -> None:
        """Count bad input, by a fixed word."""
        ...
