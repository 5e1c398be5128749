"""A session as the store keeps it, and back: everything that is read is checked."""

from typing import Any

from fastagent.connectors.host import Recalled
from fastagent.gateway.session import Session


def document_of(session: Session) -> dict[str, Any]:
    """Return what is needed to go on with a session on another leg."""
    return {
        "session_id": session.id,
        "agent_id": session.agent.agent_id,
        "private": dict(session.leg.info.private),
        "turn_count": session.record.turn_count,
        "machine": session.machine.snapshot(),
    }


def recalled(session_id: str, document: dict[str, Any]) -> Recalled | None:
    """Return a stored session; None where the document is none of ours."""
    agent_id, private, machine = (document.get(name) for name in ("agent_id", "private", "machine"))
    turns, epoch = document.get("turn_count"), document.get("epoch")
    if document.get("session_id") != session_id or not isinstance(agent_id, str) or not isinstance(machine, dict):
        return None
    if not isinstance(private, dict) or not all(isinstance(one, str) and one.isascii() for one in private.values()):
        return None
    if type(turns) is not int or turns < 0 or type(epoch) is not int:
        return None
    return Recalled(session_id, agent_id, private, machine, turns, epoch)
