"""Notices as the events of the API: one form for the WebSocket and for the data channel of a browser's call."""

from collections.abc import Callable
from typing import Any

from fastagent.connectors import notices
from fastagent.connectors.notices import Notice

Payload = dict[str, Any]


def described(notice: Notice) -> tuple[str, Payload] | None:
    """Return the type and payload of an event; None for what clients are not told."""
    form = _FORMS.get(type(notice))
    return form(notice) if form is not None else None


def _started(n: notices.SessionStarted) -> tuple[str, Payload]:
    payload = {"session_id": n.session_id, "initial_state": n.state, "agent_id": n.agent_id, "resumed": n.resumed}
    return "session_started", payload


def _transcript(n: notices.Transcribed) -> tuple[str, Payload]:
    payload: Payload = {"role": n.role, "text": n.text, "is_final": n.final, "turn_id": n.turn}
    if n.heard is not None:
        payload |= {"heard": n.heard, "interrupted": n.interrupted}
    return "transcript", payload


_FORMS: dict[type, Callable[[Any], tuple[str, Payload]]] = {
    notices.SessionStarted: _started,
    notices.Transcribed: _transcript,
    notices.StateChanged: lambda n: (
        "state_transition",
        {"from_state": n.from_state, "to_state": n.to_state, "reason": n.reason},
    ),
    notices.CallerSpeech: lambda n: ("speech_started" if n.speaking else "speech_stopped", {}),
    notices.Interrupted: lambda n: ("interruption", {"turn_id": n.turn, "heard": n.heard}),
    notices.ToolCalled: lambda n: (
        "tool_call",
        {"name": n.name, "duration_ms": n.duration_ms, "error": n.error or None},
    ),
    notices.TurnMeasured: lambda n: ("metrics", {"turn_id": n.turn, "waterfall_ms": dict(n.waterfall_ms)}),
    notices.CallHappened: lambda n: ("call_event", {"event": n.event, "detail": n.detail or None}),
    notices.Failed: lambda n: ("error", {"code": n.code, "message": n.message, "details": dict(n.details) or None}),
}
