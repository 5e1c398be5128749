"""Traces: one call as spans, where an OpenTelemetry endpoint is configured."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from fastagent.afsm.context import ToolUse
    from fastagent.gateway.turn import Turn


class Tracer(Protocol):
    """What a session reports; never raises, never waits."""

    def tool(self, session_id: str, use: "ToolUse") -> None:
        """A tool has run."""
        ...

    def turn(self, session_id: str, turn: "Turn") -> None:
        """A turn is over."""
        ...


class NoTracer:
    """Nobody wants to know."""

    def tool(self, session_id: str, use: "ToolUse") -> None:
        """Nothing."""

    def turn(self, session_id: str, turn: "Turn") -> None:
        """Nothing."""
