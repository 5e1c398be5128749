"""What comes after a terminal state's words: a hang-up, a transfer, or another agent.

What cannot be done goes to the state that the agent has for that case, or is heard as an apology before the call ends.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastagent.afsm.machine import Response, Step
from fastagent.afsm.state import Ending
from fastagent.connectors.leg import HangupReason, LegError
from fastagent.connectors.notices import CallHappened
from fastagent.gateway import phrases
from fastagent.gateway.destinations import DestinationRefusedError

if TYPE_CHECKING:
    from fastagent.gateway.session import Session

_log = logging.getLogger(__name__)

_MAX_HAND_OVERS = 8

Think = Callable[[], Response]
"""Asks a machine."""


async def fixed(text: str, state: str, *, ending: Ending | None = None) -> Response:
    """A response that no machine was asked for."""
    yield Step(text, state, rest=text, ending=ending)


@dataclass(frozen=True, slots=True)
class Next:
    """How a call goes on: with a turn, with its end, or with a last turn and then its end."""

    think: Think | None = None
    reason: HangupReason | None = None


async def move_on(session: "Session", ending: Ending) -> Next:
    """Do what an ending says; returns when it is done or has failed."""
    if ending.action == "transfer":
        return await _transfer(session, ending)
    if ending.action == "hand_over":
        return _hand_over(session, ending)
    return Next(reason=HangupReason.COMPLETED)


async def _transfer(session: "Session", ending: Ending) -> Next:
    transfers = session.services.metrics.transfers
    try:
        if "transfer" not in session.leg.capabilities:
            raise LegError("this leg cannot be transferred")
        await session.leg.transfer(session.services.transfers.take(ending.to))
    except (DestinationRefusedError, LegError) as error:
        refused = isinstance(error, DestinationRefusedError)
        transfers.labels("refused" if refused else "failed").inc()
        _log.warning("no transfer: %s", error, extra={"session_id": session.id})
        session.tell(CallHappened("transfer_failed", str(error)[:200]))
        return _otherwise(session, ending)
    session.tell(CallHappened("transfer"))
    return Next(reason=HangupReason.TRANSFERRED)


def _hand_over(session: "Session", ending: Ending) -> Next:
    agent = session.services.agent_for(ending.to)
    if agent is None or session.hand_overs >= _MAX_HAND_OVERS:
        why = "there is no such agent" if agent is None else "there were too many in this call"
        _log.error("no hand-over: %s", why, extra={"session_id": session.id, "to": ending.to[:64]})
        return _otherwise(session, ending)
    session.become(agent)
    return Next(think=session.machine.opening)


def _otherwise(session: "Session", ending: Ending) -> Next:
    machine = session.machine
    if ending.otherwise is not None:
        otherwise = ending.otherwise
        return Next(think=lambda: machine.respond_to_refusal(phrases.NO_TRANSFER, otherwise))
    text = f"{phrases.NO_TRANSFER} {phrases.GOODBYE}"
    return Next(think=lambda: fixed(text, machine.state.name), reason=HangupReason.AGENT_FAILED)
