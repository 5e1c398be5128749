"""Why calls end: the user agent's reasons as ours, and ours as causes that networks understand (RFC 3326, Q.850)."""

from collections.abc import Mapping

from fastagent.connectors.leg import HangupReason
from fastagent.connectors.sip.actions import EndReason
from fastagent.connectors.sip.requests import Items

REASONS: Mapping[EndReason, HangupReason] = {
    "hung_up": HangupReason.CALLER_HUNG_UP,
    "cancelled": HangupReason.CALLER_HUNG_UP,
    "local": HangupReason.COMPLETED,
    "no_ack": HangupReason.CONNECTION_LOST,
    "timeout": HangupReason.CONNECTION_LOST,
    "transport": HangupReason.CONNECTION_LOST,
    "refused": HangupReason.CONNECTION_LOST,
    "no_answer": HangupReason.CONNECTION_LOST,
    "protocol_error": HangupReason.PROTOCOL_ERROR,
}

_CAUSES: Mapping[HangupReason, tuple[int, str]] = {
    HangupReason.MEDIA_TIMEOUT: (102, "Media timeout"),
    HangupReason.MAX_DURATION: (102, "Call too long"),
    HangupReason.PROTOCOL_ERROR: (111, "Protocol error"),
    HangupReason.INTERNAL_ERROR: (41, "Temporary failure"),
    HangupReason.AGENT_FAILED: (41, "Temporary failure"),
    HangupReason.SHUTDOWN: (41, "Temporary failure"),
}
_NORMAL = (16, "Normal call clearing")


def reason_items(reason: HangupReason) -> Items:
    """Return the header of a BYE that tells why."""
    cause, text = _CAUSES.get(reason, _NORMAL)
    return (("Reason", f'Q.850;cause={cause};text="{text}"'),)
