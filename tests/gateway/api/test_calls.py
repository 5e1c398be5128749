"""Calls that the gateway makes, over REST, to a second SIP connector over real sockets; holds over REST."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.gateway.api import Rest, eventually, served
from tests.support.sip_end import End, end, free_range, until

pytestmark = pytest.mark.real


@asynccontextmanager
async def gateway(**environment: Any) -> AsyncIterator[tuple[Rest, End]]:
    """A gateway that may call whom it likes, and somebody to be called."""
    low, high = free_range()
    settings = {"SIP_PORT": 0, "RTP_PORTS": f"{low}-{high}", "FASTAGENT_CALL_TO": "sip:*@127.0.0.1*,+1555*"}
    async with end() as phone, served(**{**settings, **environment}) as rest:
        yield rest, phone


def at(phone: End) -> str:
    return phone.uri.replace("sip:", "sip:agent@")


async def ended(rest: Rest, call_id: str) -> dict[str, Any]:
    while True:
        body: dict[str, Any] = (await rest.get(f"/calls/{call_id}")).body
        if body["status"] == "ended":
            return body
        await asyncio.sleep(0.05)


async def test_an_agent_calls_somebody_and_talks_to_them() -> None:
    async with gateway() as (rest, phone):
        await rest.configure("posted")
        order = {"to": at(phone), "agent_id": "posted", "caller": "+15550100009", "metadata": {"order": "42"}}
        placed = await rest.post("/calls", order, headers={"Idempotency-Key": "one"})
        assert placed.status == 202
        call_id, session_id = placed.body["call_id"], placed.body["session_id"]
        again = await rest.post("/calls", order, headers={"Idempotency-Key": "one"})
        assert again.body["call_id"] == call_id
        other = await rest.post("/calls", {**order, "caller": ""}, headers={"Idempotency-Key": "one"})
        assert (other.status, other.body["code"]) == (400, "invalid_request")
        talk = await phone.talk()
        assert talk.leg.info.from_ == "+15550100009"
        await until(lambda: talk.loud_s > 0.3)
        body = (await rest.get(f"/calls/{call_id}")).body
        assert (body["status"], body["outcome"]) == ("answered", "answered")
        session = (await rest.get(f"/sessions/{session_id}")).body
        assert (session["call_id"], session["agent_id"], session["provider"]) == (call_id, "posted", "sip")
        await rest.delete(f"/calls/{call_id}")
        await talk.over.wait()
        body = await ended(rest, call_id)
        assert body["ended_at"] is not None
        assert rest.metric("calls_total", connector="sip", direction="outbound", result="terminated") == 1
        listed = (await rest.get("/calls")).body
        assert (listed["total_count"], listed["calls"][0]["call_id"], len(phone.talks)) == (1, call_id, 1)


async def test_what_nobody_answers_has_its_outcome() -> None:
    async with gateway() as (rest, phone):
        phone.full = True
        placed = (await rest.post("/calls", {"to": at(phone)})).body
        body = await ended(rest, placed["call_id"])
        assert (body["outcome"], body["sip_status"]) == ("unreachable", 503)
        assert len(rest.gateway.sessions) == 0
        await eventually(lambda: not rest.gateway.sessions._places)


@pytest.mark.parametrize(
    ("order", "status", "code"),
    [
        ({"to": "sip:a@elsewhere.example"}, 403, "not_authorized"),
        ({"to": "not a number"}, 403, "not_authorized"),
        ({"to": "+15550100001"}, 400, "invalid_request"),  # there is no trunk
        ({"to": "sip:a@127.0.0.1", "agent_id": "nobody"}, 404, "agent_not_found"),
        ({"to": ""}, 400, "invalid_request"),
        ({"to": "sip:a@127.0.0.1", "caller": "a\r\nb"}, 400, "invalid_request"),
        ({"to": "sip:a@127.0.0.1", "nonsense": 1}, 400, "invalid_request"),
        ({}, 400, "invalid_request"),
    ],
)
async def test_what_may_or_can_not_be_called_is_refused(order: dict[str, Any], status: int, code: str) -> None:
    async with gateway() as (rest, _):
        answer = await rest.post("/calls", order)
        assert (answer.status, answer.body["code"]) == (status, code)
        assert (await rest.get("/calls")).body["total_count"] == 0
        assert (await rest.get("/calls/nobody")).status == 404
        assert (await rest.delete("/calls/nobody")).status == 404


async def test_there_are_limits_per_hour_at_once_and_of_places() -> None:
    async with gateway(FASTAGENT_CALLS_PER_HOUR="2", FASTAGENT_CALLS_AT_ONCE="1") as (rest, phone):
        first = (await rest.post("/calls", {"to": at(phone)})).body
        answer = await rest.post("/calls", {"to": at(phone)})
        assert (answer.status, answer.body["code"]) == (429, "rate_limited")
        await rest.delete(f"/calls/{first['call_id']}")
        await ended(rest, first["call_id"])
        second = (await rest.post("/calls", {"to": at(phone)})).body
        await rest.delete(f"/calls/{second['call_id']}")
        await ended(rest, second["call_id"])
        assert "hour" in (await rest.post("/calls", {"to": at(phone)})).body["message"]
    async with gateway(MAX_SESSIONS="1") as (rest, phone):
        await rest.post("/calls", {"to": at(phone)})
        answer = await rest.post("/calls", {"to": at(phone)})
        assert (answer.status, answer.body["code"]) == (503, "capacity_exceeded")
    async with gateway(SIP_HOST="") as (rest, phone):
        answer = await rest.post("/calls", {"to": at(phone)})
        assert (answer.status, answer.body["code"]) == (409, "invalid_state")


async def test_a_caller_is_put_on_hold_and_taken_back_over_rest() -> None:
    async with gateway() as (rest, phone):
        assert rest.gateway.sip is not None
        phone.dial(f"sip:bench@127.0.0.1:{rest.gateway.sip.ports['udp']}")
        talk = await phone.talk()
        await until(lambda: rest.gateway.sessions.active())
        (record,) = rest.gateway.sessions.active()
        session_id = record.session_id
        assert record.call.call_id == talk.leg.info.call_id
        assert (await rest.post(f"/sessions/{session_id}/hold", {"on": True})).status == 200
        await until(lambda: talk.holds == [True])
        assert (await rest.post(f"/sessions/{session_id}/hold", {"on": False})).status == 200
        await until(lambda: talk.holds == [True, False])
        assert (await rest.post(f"/sessions/{session_id}/hold", {"on": "perhaps"})).status == 400
