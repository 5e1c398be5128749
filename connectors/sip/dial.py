"""Calls that we make: whom, as whom, and what becomes of them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from fastagent.connectors.leg import CallInfo
from fastagent.connectors.sip.actions import CallEnded
from fastagent.connectors.sip.config import Trunk
from fastagent.connectors.sip.flow import address_of
from fastagent.connectors.sip.grammar import Malformed
from fastagent.connectors.sip.headers import NameAddr
from fastagent.connectors.sip.outbound import Destination, destination
from fastagent.connectors.sip.uri import Uri, sip_uri
from fastagent.media.frame import PCMU_8K

Outcome = Literal["busy", "no_answer", "declined", "not_found", "unreachable", "cancelled", "failed"]
"""Why nobody answered."""
Progress = Literal["ringing", "answered", "ended"]


@dataclass(frozen=True, slots=True)
class Unanswered:
    """What became of a call that nobody answered: in a word, and in the words of the other side, if it said any."""

    outcome: Outcome
    status: int | None = None
    """Of the SIP response."""
    text: str = ""

    def __str__(self) -> str:
        return f"{self.outcome} ({self.status} {self.text})" if self.status else self.outcome


class DialError(Exception):
    """A call that cannot be made: its destination is none."""


class NoRoomError(DialError):
    """No place or port is free right now, or calls are not taken."""


@dataclass(frozen=True, slots=True)
class Dial:
    """A call to be made.

    Attributes:
        to: a number, which the trunk dials, or a SIP address.
        agent_id: who talks.
        session_id: the id that the session will have.
        caller: the number to be shown, if not the trunk's.
        metadata: what the agent knows of the call.
        on_progress: told how it goes; with the end comes why, unless somebody has answered.
        ring_s: so long it may ring.
    """

    to: str
    agent_id: str
    session_id: str
    caller: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    on_progress: Callable[[Progress, Unanswered | None], None] = lambda progress, why: None
    ring_s: float = 60.0


def destination_of(
    to: str,
    trunk: Trunk | None,
    *,
    caller: str = "",
    host: str,
    at_trunk: Iterable[str] = (),
    ring_s: float | None = None,
) -> Destination:
    """Return where a call goes: a number through the trunk, an address there itself, unless it is the trunk's.

    Args:
        to, caller: as in `Dial`.
        trunk: ours, if there is one.
        host: the address that others reach us by.
        at_trunk: addresses that the trunk's name stands for.
        ring_s: so long it may ring.

    Raises:
        DialError: it is no address, or a number and there is no trunk.
    """
    try:
        if ":" not in to:
            if trunk is None:
                raise DialError("a number needs SIP_TRUNK to dial it")
            uri = sip_uri(to, trunk.uri.host, trunk.uri.port)
        else:
            uri = Uri.parse(to)
        hop = address_of(uri)
    except Malformed as error:
        raise DialError(f"the destination is no SIP address: {error}") from None
    through = trunk if trunk is not None and _is_of(trunk, uri, at_trunk) else None
    shown = caller or (through and (through.caller or through.user)) or "agent"
    return destination(
        str(uri),
        NameAddr(sip_uri(shown, through.uri.host if through else host)),
        through.hop if through else hop,
        credentials=through.credentials if through else None,
        ring_s=ring_s,
    )


def _is_of(trunk: Trunk, uri: Uri, at_trunk: Iterable[str]) -> bool:
    """Whether an address is one of the trunk's: of its host, and of its port if one is named."""
    ports = (None, trunk.uri.port, trunk.hop.port or trunk.hop.default_port)
    return uri.host.lower().strip("[]") in (trunk.uri.host.lower(), *at_trunk) and uri.port in ports


def callee_info(dial: Dial, provider: str, call: str, *, shown: str) -> CallInfo:
    """Return what the session knows of a call that we made."""
    return CallInfo(
        provider=provider,
        call_id=call,
        stream_id=call,
        from_=shown,
        to=dial.to,
        direction="outbound",
        audio=PCMU_8K,
        metadata=dial.metadata,
        session_id=dial.session_id,
    )


_BY_STATUS: dict[int, Outcome] = {
    404: "not_found", 410: "not_found", 484: "not_found", 604: "not_found", 408: "no_answer", 480: "no_answer",
    486: "busy", 600: "busy", 403: "declined", 603: "declined", 487: "cancelled", 503: "unreachable",
}  # fmt: skip


def unanswered(event: CallEnded) -> Unanswered:
    """Return why a call ended that nobody answered."""
    if event.reason != "refused":  # the status is our own word then
        return Unanswered(_outcome(event))
    return Unanswered(_outcome(event), event.status, event.text)


def _outcome(event: CallEnded) -> Outcome:
    match event.reason:
        case "no_answer":
            return "no_answer"
        case "transport":
            return "unreachable"
        case "timeout":
            return "unreachable" if event.status == 408 else "failed"
        case "local" | "cancelled":
            return "cancelled"
        case _:
            return _BY_STATUS.get(event.status, "failed")
