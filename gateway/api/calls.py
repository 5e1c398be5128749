"""Calls over REST: let an agent call somebody, and see what became of it."""

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from fastagent.connectors.leg import HangupReason
from fastagent.connectors.sip.dial import DialError, NoRoomError
from fastagent.gateway.api import models
from fastagent.gateway.api.operations import Answer, ApiError, Call, Operation
from fastagent.gateway.calls import CallRecord, KeyReusedError, NoPhoneError, Order
from fastagent.gateway.destinations import DestinationRefusedError, TooManyError

if TYPE_CHECKING:
    from fastagent.gateway.app import Gateway

_MAX_KEY = 128


class _ListQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")
    limit: int = Field(100, ge=1, le=1000)
    offset: int = Field(0, ge=0)


class CallsApi:
    """The handlers."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway

    def operations(self) -> list[Operation]:
        """The table."""
        m, one = models, "/calls/{call_id}"
        cannot = ("agent_not_found", "not_authorized", "invalid_state", "capacity_exceeded", "rate_limited")
        return [
            Operation(
                "POST", "/calls", "placeCall", "Let an agent call somebody, once for each `Idempotency-Key`",
                self._place, "calls", {202: m.PlacedCall}, body=m.PlaceCall, errors=cannot,
            ),
            Operation(
                "GET", "/calls", "listCalls", "List the calls that were made", self._list, "calls",
                {200: m.PlacedCalls}, query=_ListQuery,
            ),
            Operation(
                "GET", one, "getCall", "Show a call that was made", self._get, "calls", {200: m.PlacedCall},
                errors=("call_not_found",),
            ),
            Operation(
                "DELETE", one, "hangUpCall", "Take a call back, or hang up", self._delete, "calls", {200: m.Done},
                errors=("call_not_found",),
            ),
        ]  # fmt: skip

    async def _place(self, call: Call) -> Answer:
        gateway, body = self._gateway, call.body
        agent_id = body.agent_id or gateway.default_agent
        if not gateway.has_agent(agent_id):
            raise ApiError("agent_not_found", f"There is no agent {agent_id!r:.80}")
        key = call.request.headers.get("Idempotency-Key")
        if key is not None and not 0 < len(key) <= _MAX_KEY:
            raise ApiError("invalid_request", f"Idempotency-Key has 1 to {_MAX_KEY} characters")
        order = Order(body.to, agent_id, body.caller, body.metadata, body.ring_seconds)
        try:
            record = gateway.calls.place(order, principal=call.principal, key=key)
        except TooManyError as error:
            raise ApiError("rate_limited", f"The call is refused: {error}") from None
        except DestinationRefusedError as error:
            raise ApiError("not_authorized", f"The call is refused: {error}") from None
        except NoPhoneError:
            raise ApiError("invalid_state", "SIP is off: there is nothing to call with") from None
        except NoRoomError as error:
            raise ApiError("capacity_exceeded", str(error)) from None
        except DialError as error:
            raise ApiError("invalid_request", str(error)) from None
        except KeyReusedError:
            raise ApiError("invalid_request", "this Idempotency-Key was another call's") from None
        return Answer(_shown(record), 202)

    async def _list(self, call: Call) -> Answer:
        records, query = list(self._gateway.calls.records()), call.query
        shown = records[query.offset : query.offset + query.limit]
        return Answer(models.PlacedCalls(calls=[_shown(one) for one in shown], total_count=len(records)))

    def _record(self, call: Call) -> CallRecord:
        record = self._gateway.calls.find(call.path("call_id"))
        if record is None:
            raise ApiError("call_not_found", "There is no such call")
        return record

    async def _get(self, call: Call) -> Answer:
        return Answer(_shown(self._record(call)))

    async def _delete(self, call: Call) -> Answer:
        record = self._record(call)
        session = self._gateway.sessions.live(record.session_id)
        if session is not None:
            session.close(HangupReason.TERMINATED, "")
        else:
            self._gateway.calls.hang_up(record)
        return Answer(models.Done(success=True, message="It is being ended"))


def _shown(record: CallRecord) -> models.PlacedCall:
    order = record.order
    return models.PlacedCall(
        call_id=record.call_id,
        session_id=record.session_id,
        agent_id=order.agent_id,
        to=order.to,
        status=record.status,
        outcome=record.outcome,
        sip_status=record.sip_status,
        created_at=record.created_at,
        ended_at=record.ended_at,
    )
