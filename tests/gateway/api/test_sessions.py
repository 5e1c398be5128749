"""Sessions over REST: what runs, what was heard, and a hand on live calls."""

import asyncio
from typing import Any

import pytest

from fastagent.connectors.leg import HangupReason
from fastagent.gateway.cli.twilio_phone import TwilioPhone
from tests.gateway.api import Rest, call, eventually, served, talker
from tests.support.carrier import (
    ACCOUNT,
    HUMAN,
    Carrier,
    FakeRest,
    Speaks,
    agent,
    metric,
)
from tests.support.carrier import gateway as carriers_gateway

pytestmark = pytest.mark.real

LONG = "440 " + "word " * 100  # ten seconds of tone
DOCUMENTED = {"session_id", "start_time", "current_state", "duration_seconds", "turn_count"}


async def ended(rest: Rest, session_id: str) -> dict[str, Any]:
    """Return the details of a session that is over."""
    await eventually(lambda: rest.gateway.sessions.live(session_id) is None)
    details: dict[str, Any] = (await rest.get(f"/sessions/{session_id}")).body
    assert details["end_reason"] is not None
    return details


# -- what is shown --


async def test_the_list_has_the_documented_fields_pages_and_filters() -> None:
    async with served() as rest:
        assert (await rest.get("/sessions")).body == {"active_sessions": [], "total_count": 0}
        await rest.configure("posted")
        async with call(rest, "posted") as one, call(rest, "posted") as two, call(rest, "bench") as three:
            body = (await rest.get("/sessions")).body
            assert body["total_count"] == 3
            for entry in body["active_sessions"]:
                assert set(entry) >= DOCUMENTED
                assert entry["start_time"].endswith("Z")
                assert (entry["provider"], entry["duration_seconds"] < 5) == ("websocket", True)
            pages = []
            for offset in range(4):
                page = (await rest.get(f"/sessions?limit=1&offset={offset}")).body
                assert page["total_count"] == 3
                pages += [entry["session_id"] for entry in page["active_sessions"]]
            assert pages == [one.id, two.id, three.id]
            for query, expected in (
                ("agent_id=posted", 2),
                ("agent_id=posted&state=greet", 2),
                ("agent_id=bench&state=greet", 0),
                (f"call_id={two.id}", 1),
                ("agent_id=nobody", 0),
            ):
                assert (await rest.get(f"/sessions?{query}")).body["total_count"] == expected, query
        for query in ("limit=0", "limit=1001", "limit=x", "offset=-1", "nonsense=1", "state=" + "s" * 65):
            assert (await rest.get(f"/sessions?{query}")).status == 400, query


async def test_details_have_every_turn_and_the_transcript_has_what_was_heard() -> None:
    async with served() as rest:
        await rest.configure("posted", talker("Good morning, this is the agent."))
        async with call(rest, "posted") as one:
            await one.spoken()
            await one.send("text_input", text="Hello there.")
            await one.spoken()
            details = (await rest.get(f"/sessions/{one.id}")).body
            assert [turn["cause"] for turn in details["turns"]] == ["opening", "text"]
            assert details["turn_count"] == 2
            assert details["end_reason"] is None
            transcript = (await rest.get(f"/sessions/{one.id}/transcript")).body
            assert transcript["session_id"] == one.id
            assert transcript["transcript"][:2] == [
                {"role": "agent", "text": "Good morning, this is the agent.", "turn": 1, "interrupted": False},
                {"role": "user", "text": "Hello there.", "turn": 2, "interrupted": False},
            ]


async def test_the_transcript_of_an_interrupted_answer_is_what_was_heard_of_it() -> None:
    async with served() as rest:
        await rest.configure("posted", talker(f"One two three. {LONG}."))
        async with call(rest, "posted") as one:
            await one.until("audio_response")
            await asyncio.sleep(0.8)
            await one.send("interrupt")
            await one.until("interruption")
            (line,) = (await rest.get(f"/sessions/{one.id}/transcript")).body["transcript"]
            assert line["interrupted"] is True
            assert line["text"].startswith("One two three.")
            assert len(line["text"]) < 100


async def test_a_session_that_has_ended_is_still_shown_but_nothing_can_be_done_with_it() -> None:
    async with served() as rest:
        await rest.configure("posted")
        async with call(rest, "posted") as one:
            await one.spoken()
            await one.send("end_session")
            await one.until("session_ended")
        details = await ended(rest, one.id)
        assert details["end_reason"] == "caller_hung_up"
        assert (await rest.get(f"/sessions/{one.id}/transcript")).body["transcript"][0]["role"] == "agent"
        assert (await rest.get("/sessions")).body["total_count"] == 0
        assert (await rest.get(f"/sessions?call_id={one.id}")).body["total_count"] == 1
        for verb, body in (("say", {"text": "x"}), ("transfer", {"to": HUMAN}), ("dtmf", {"digits": "1"})):
            gone = await rest.post(f"/sessions/{one.id}/{verb}", body)
            assert (gone.status, gone.body["code"]) == (404, "session_not_found")


async def test_an_unknown_session_is_not_found_and_a_malformed_id_is_a_wrong_request() -> None:
    async with served() as rest:
        for path in ("/sessions/sess_none", "/sessions/sess_none/transcript"):
            assert (await rest.get(path)).body["code"] == "session_not_found"
        assert (await rest.delete("/sessions/sess_none")).status == 404
        for malformed in ("a%20b", "x" * 65, "%00", "-x"):
            assert (await rest.get(f"/sessions/{malformed}")).status == 400


# -- ending --


async def test_delete_ends_the_session_at_once_with_the_documented_answer_and_twice_is_fine() -> None:
    async with served() as rest:
        await rest.configure("posted", talker(LONG))
        async with call(rest, "posted") as one:
            await one.until("audio_response")
            for _ in range(2):
                reply = await rest.delete(f"/sessions/{one.id}?reason=tidying")
                assert reply.status == 200
                assert reply.body == {"success": True, "message": "Session terminated successfully"}
                assert (await rest.get("/sessions")).body["total_count"] == 0
            assert (await one.until("session_ended"))["reason"] == "terminated"
        details = await ended(rest, one.id)
        assert details["end_reason"] == "terminated"
        assert "closing" not in [turn["cause"] for turn in details["turns"]]
        assert rest.metric("sessions_ended_total", reason="terminated") == 1


async def test_delete_with_a_goodbye_lets_it_be_heard_first() -> None:
    async with served() as rest:
        await rest.configure("posted", talker(LONG, goodbye="So long."))
        async with call(rest, "posted") as one:
            await one.until("audio_response")
            assert (await rest.delete(f"/sessions/{one.id}?goodbye=true")).status == 200
        last = (await ended(rest, one.id))["turns"][-1]
        assert (last["cause"], last["heard"]) == ("closing", "So long.")


async def test_a_goodbye_has_the_grace_that_it_was_given() -> None:
    async with served() as rest:
        await rest.configure("posted", talker("Hello.", goodbye=LONG))
        async with call(rest, "posted") as one, call(rest, "posted") as two:
            assert (await rest.delete(f"/sessions/{one.id}?grace_ms=300&reason=hurry")).status == 200
            assert (await rest.delete(f"/sessions/{two.id}?grace_ms=0")).status == 200
        cut = (await ended(rest, one.id))["turns"][-1]
        assert (cut["cause"], cut["interrupted"]) == ("closing", True)
        assert "closing" not in [turn["cause"] for turn in (await ended(rest, two.id))["turns"]]
        assert (await rest.delete(f"/sessions/{one.id}?grace_ms=8001")).status == 400


async def test_delete_really_hangs_the_phone_up() -> None:
    async with served() as rest:
        await rest.configure("posted", talker(LONG))
        async with TwilioPhone(f"{rest.url}/twilio/webhook?agent_id=posted") as phone:
            await asyncio.wait_for(phone.agent_started.wait(), 10)
            (entry,) = (await rest.get("/sessions")).body["active_sessions"]
            assert (await rest.delete(f"/sessions/{entry['session_id']}")).status == 200
            await asyncio.wait_for(phone.closed.wait(), 5)
            assert phone.ended_by == "agent"


# -- saying --


async def test_what_is_to_be_said_waits_for_the_answer_under_way() -> None:
    async with served() as rest:
        await rest.configure("posted", talker("One two three four five six seven."))
        async with call(rest, "posted") as one:
            await one.until("audio_response")
            for text in ("First news.", "Second news."):
                reply = await rest.post(f"/sessions/{one.id}/say", {"text": text})
                assert (reply.status, reply.body["success"]) == (202, True)
            heard = [(await one.spoken())["heard"] for _ in range(3)]
            assert heard == ["One two three four five six seven.", "First news.", "Second news."]


async def test_what_interrupts_is_said_at_once() -> None:
    async with served() as rest:
        await rest.configure("posted", talker(LONG))
        async with call(rest, "posted") as one:
            await one.until("audio_response")
            assert (await rest.post(f"/sessions/{one.id}/say", {"text": "Listen!", "interrupt": True})).status == 202
            cut = await one.spoken()
            assert cut["interrupted"] is True
            assert (await one.spoken())["heard"] == "Listen!"


async def test_what_waits_to_be_said_has_a_bound() -> None:
    async with served() as rest:
        await rest.configure("posted", talker(LONG))
        async with call(rest, "posted") as one:
            await one.until("audio_response")
            statuses = [(await rest.post(f"/sessions/{one.id}/say", {"text": "x"})).status for _ in range(9)]
            assert statuses == [202] * 8 + [429]
            full = await rest.post(f"/sessions/{one.id}/say", {"text": "x"})
            assert full.body["code"] == "rate_limited"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"text": ""},
        {"text": "x" * 4001},
        {"text": 5},
        {"text": "x", "interrupt": 7},
        {"text": "x", "loud": 1},
        [],
        "x",
    ],
)
async def test_a_wrong_say_is_told_where_it_is_wrong(body: Any) -> None:
    async with served() as rest, call(rest) as one:
        reply = await rest.post(f"/sessions/{one.id}/say", body)
        assert (reply.status, reply.body["code"]) == (400, "invalid_request")
        assert reply.body["details"][0]["path"] in ("text", "interrupt", "loud", "body")


# -- keys --


async def test_keys_are_sent_where_the_leg_can_and_refused_with_what_it_can_where_not() -> None:
    async with served() as rest:
        async with call(rest) as one:
            reply = await rest.post(f"/sessions/{one.id}/dtmf", {"digits": "12*#A"})
            assert (reply.status, reply.body["success"]) == (200, True)
            told = await one.until("call_event", event="dtmf_out")
            assert told["digits"] == "12*#A"
            for digits in ("", "x", "1" * 65, "1 2", "１"):
                assert (await rest.post(f"/sessions/{one.id}/dtmf", {"digits": digits})).paths == ["digits"]
        async with TwilioPhone(f"{rest.url}/twilio/webhook"):
            (entry,) = (await rest.get("/sessions")).body["active_sessions"]
            refused = await rest.post(f"/sessions/{entry['session_id']}/dtmf", {"digits": "1"})
            assert (refused.status, refused.body["code"]) == (409, "invalid_state")
            assert refused.body["details"] == {"provider": "twilio", "capabilities": []}


# -- transfers (S15) --


async def test_a_leg_that_cannot_be_transferred_says_what_it_can() -> None:
    async with served(FASTAGENT_TRANSFER_TO=HUMAN) as rest, call(rest) as one:
        refused = await rest.post(f"/sessions/{one.id}/transfer", {"to": HUMAN})
        assert (refused.status, refused.body["code"]) == (409, "invalid_state")
        assert refused.body["details"] == {"provider": "websocket", "capabilities": ["dtmf"]}
        assert rest.gateway.sessions.live(one.id) is not None


class _Talks(Speaks):
    def __init__(self) -> None:
        super().__init__("500 one two")


@pytest.mark.filterwarnings("ignore:BasicAuth is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The 'auth' parameter is deprecated:DeprecationWarning")
@pytest.mark.parametrize("words", ["", "300 please hold"])
async def test_an_allowed_transfer_is_done_and_any_other_is_refused_and_counted(words: str) -> None:
    import aiohttp

    async with (
        FakeRest().running() as twilio,
        carriers_gateway(agent("talks", _Talks()), account=ACCOUNT, rest_url=twilio.url) as one,
        aiohttp.ClientSession() as http,
    ):
        rest = Rest(one, http)
        async with Carrier(http, one).call(echo=True) as stream:
            await eventually(lambda: len(one.sessions) == 1)
            twilio.streams[stream.call_sid] = stream
            (entry,) = (await rest.get("/sessions")).body["active_sessions"]
            path = f"/sessions/{entry['session_id']}/transfer"
            refusals = ["+15550999999", "sip:x@evil.example", f"{HUMAN};x", "x\r\ny", "*"]
            for to in refusals:
                refused = await rest.post(path, {"to": to})
                assert (refused.status, refused.body["code"]) == (403, "not_authorized")
                assert "evil" not in refused.text
                assert "5550" not in refused.text
            assert metric(one, "transfers_total", result="refused") == len(refusals)
            for wrong in ({}, {"to": ""}, {"to": "1" * 257}, {"to": HUMAN, "via": "x"}):
                assert (await rest.post(path, wrong)).status == 400
            assert twilio.of(stream.call_sid) == []
            done = await rest.post(path, {"to": HUMAN, "say": words})
            assert (done.status, done.body["success"]) == (202, True)
            await stream.close_code()
            (asked,) = twilio.of(stream.call_sid)
            assert HUMAN.replace("+", "%2B") in asked.body
            await eventually(lambda: len(one.sessions) == 0)
            details = (await rest.get(f"/sessions/{entry['session_id']}")).body
            assert details["end_reason"] == HangupReason.TRANSFERRED
            assert words in [turn["heard"] for turn in details["turns"]]
            assert metric(one, "transfers_total", result="done") == 1
