"""Sessions over REST: what runs, what was said, and a hand on it."""

import logging
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from fastagent.afsm.state import Ending
from fastagent.connectors.leg import Capability, HangupReason, LegError
from fastagent.gateway.api import models
from fastagent.gateway.api.operations import Answer, ApiError, Call, Operation
from fastagent.gateway.destinations import DestinationRefusedError
from fastagent.gateway.record import SessionRecord
from fastagent.gateway.session import Session

if TYPE_CHECKING:
    from fastagent.gateway.app import Gateway


_log = logging.getLogger(__name__)


class _ListQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")
    limit: int = Field(100, ge=1, le=1000)
    offset: int = Field(0, ge=0)
    agent_id: str | None = Field(None, max_length=64, description="of this agent only")
    state: str | None = Field(None, max_length=64, description="in this state only")
    call_id: str | None = Field(None, max_length=128, description="of this call only; also when it has ended")


class _DeleteQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")
    goodbye: bool = Field(False, description="say the agent's goodbye before")
    grace_ms: int | None = Field(None, ge=0, le=8000, description="the goodbye, for so long at most")
    reason: str = Field("", max_length=256, description="for the log")


class SessionsApi:
    """The handlers."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway

    def operations(self) -> list[Operation]:
        """The table."""
        m, one = models, "/sessions/{session_id}"
        unknown = ("session_not_found",)
        cannot = ("session_not_found", "invalid_state", "not_authorized")
        return [
            Operation(
                "GET", "/sessions", "listSessions", "List the sessions that run", self._list, "sessions",
                {200: m.SessionList}, query=_ListQuery,
            ),
            Operation(
                "GET", one, "getSession", "Show a session and its turns; also one that has ended", self._get,
                "sessions", {200: m.SessionDetails}, errors=unknown,
            ),
            Operation(
                "GET", f"{one}/transcript", "getTranscript", "Show what both sides heard", self._transcript,
                "sessions", {200: m.Transcript}, errors=unknown,
            ),
            Operation(
                "DELETE", one, "deleteSession", "End a session: the phone is hung up", self._delete, "sessions",
                {200: m.Done}, query=_DeleteQuery, errors=unknown,
            ),
            Operation(
                "POST", f"{one}/say", "say", "Let the agent say something", self._say, "sessions", {202: m.Done},
                body=m.Say, errors=(*unknown, "invalid_state", "rate_limited"),
            ),
            Operation(
                "POST", f"{one}/transfer", "transfer", "Transfer the call", self._transfer, "sessions",
                {202: m.Done}, body=m.Transfer, errors=cannot,
            ),
            Operation(
                "POST", f"{one}/dtmf", "sendDtmf", "Send keys to the other side", self._dtmf, "sessions",
                {200: m.Done}, body=m.SendDtmf, errors=(*unknown, "invalid_state"),
            ),
            Operation(
                "POST", f"{one}/hold", "hold", "Put the caller on hold, or take them back", self._hold, "sessions",
                {200: m.Done}, body=m.Hold, errors=(*unknown, "invalid_state"),
            ),
        ]  # fmt: skip

    async def _list(self, call: Call) -> Answer:
        sessions, query = self._gateway.sessions, call.query
        records = sessions.active() if query.call_id is None else list(sessions.records())
        found = [
            one
            for one in records
            if query.call_id in (None, one.call.call_id)
            and query.agent_id in (None, one.agent_id)
            and query.state in (None, one.current_state)
        ]
        shown = found[query.offset : query.offset + query.limit]
        entries = [models.SessionEntry(**one.summary()) for one in shown]
        return Answer(models.SessionList(active_sessions=entries, total_count=len(found)))

    def _record(self, call: Call) -> SessionRecord:
        record = self._gateway.sessions.find(call.path("session_id"))
        if record is None:
            raise ApiError("session_not_found", "There is no such session")
        return record

    def _session(self, call: Call) -> Session:
        session = self._gateway.sessions.live(call.path("session_id"))
        if session is None or session.ending:
            raise ApiError("session_not_found", "There is no such session, or it has ended")
        return session

    async def _get(self, call: Call) -> Answer:
        return Answer(models.SessionDetails(**self._record(call).details()))

    async def _transcript(self, call: Call) -> Answer:
        record = self._record(call)
        lines = []
        for turn in record.turns:
            if turn.user:
                lines.append(models.TranscriptLine(role="user", text=turn.user, turn=turn.turn))
            if turn.heard:
                lines.append(
                    models.TranscriptLine(role="agent", text=turn.heard, turn=turn.turn, interrupted=turn.interrupted)
                )
        return Answer(models.Transcript(session_id=record.session_id, transcript=lines))

    async def _delete(self, call: Call) -> Answer:
        record = self._record(call)
        session = self._gateway.sessions.live(record.session_id)
        if session is not None:
            query = call.query
            _log.info("session is ended by the API", extra={"session_id": session.id, "detail": query.reason})
            says = query.goodbye if query.grace_ms is None else query.grace_ms > 0
            session.close(HangupReason.TERMINATED, session.agent.goodbye if says else "")
            if says and query.grace_ms is not None:
                await self._gateway.sessions.ended(session, query.grace_ms / 1000)
                session.close(HangupReason.TERMINATED, "")
            await self._gateway.sessions.ended(session)
        return Answer(models.Done(success=True, message="Session terminated successfully"))

    async def _say(self, call: Call) -> Answer:
        if not self._session(call).announce(call.body.text, interrupt=call.body.interrupt):
            raise ApiError("rate_limited", "too much is waiting to be said")
        return Answer(models.Done(success=True, message="It will be said"), 202)

    async def _transfer(self, call: Call) -> Answer:
        session = self._session(call)
        self._needs(session, "transfer")
        try:
            session.services.transfers.check(call.body.to)
        except DestinationRefusedError as error:
            session.services.metrics.transfers.labels("refused").inc()
            raise ApiError("not_authorized", f"The transfer is refused: {error}") from None
        if not session.announce(call.body.say, ending=Ending("transfer", call.body.to), interrupt=True):
            raise ApiError("rate_limited", "too much is waiting to be said")
        return Answer(models.Done(success=True, message="The call will be transferred"), 202)

    async def _dtmf(self, call: Call) -> Answer:
        session = self._session(call)
        self._needs(session, "dtmf")
        try:
            await session.leg.send_dtmf(call.body.digits)
        except LegError as error:
            raise ApiError("invalid_state", str(error)) from None
        return Answer(models.Done(success=True, message="Keys sent"))

    async def _hold(self, call: Call) -> Answer:
        session = self._session(call)
        self._needs(session, "hold")
        try:
            await session.leg.hold(call.body.on)
        except LegError as error:
            raise ApiError("invalid_state", str(error)) from None
        return Answer(models.Done(success=True, message="On hold" if call.body.on else "Taken back"))

    @staticmethod
    def _needs(session: Session, capability: Capability) -> None:
        if capability not in session.leg.capabilities:
            details = {"provider": session.leg.info.provider, "capabilities": sorted(session.leg.capabilities)}
            raise ApiError("invalid_state", f"This call has no {capability}", details)
