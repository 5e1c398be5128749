"""The chat mode over real sockets, with a real gateway. Numbers are of the acceptance list."""

import asyncio
import json
import uuid
from typing import Any

import aiohttp
import pytest

from fastagent.afsm.state import Ending
from fastagent.connectors.leg import HangupReason
from tests.connectors.audiocodes.test_streams import Shared
from tests.support.audiocodes import PATH, VoiceAi, voice_ai
from tests.support.carrier import HUMAN, Speaks, agent, eventually, metric

pytestmark = pytest.mark.real

GREETING, REPLY = "Good morning.", "You said: {}."


def counts(heard: list[str] | None = None, **kwargs: Any) -> Speaks:
    """Greets, repeats what it was told, and keeps it."""
    kept = [] if heard is None else heard

    def reply(text: str) -> str:
        kept.append(text)
        return REPLY.format(text)

    return Speaks(GREETING, reply, **kwargs)


def event(name: str, **fields: Any) -> dict[str, Any]:
    return {"type": "event", "name": name, "id": str(uuid.uuid4()), **fields}


def words(text: str) -> dict[str, Any]:
    return {"type": "message", "text": text, "id": str(uuid.uuid4()), "parameters": {"confidence": 0.9}}


RESOURCES = ("activities", "refresh", "disconnect")
START = {"caller": "+15550100001", "callee": "+15550100002"}


class Chat:
    """One conversation, as VoiceAI Connect has it."""

    def __init__(self, one: VoiceAi, places: dict[str, Any], id_: str) -> None:
        self.one, self.places, self.id = one, places, id_

    async def ask(self, what: str, **body: Any) -> tuple[int, Any]:
        return await self.one.ask(self.places[f"{what}URL"], {"conversation": self.id, **body})

    async def say(self, *activities: dict[str, Any]) -> list[dict[str, Any]]:
        """Send activities; return those that answer."""
        status, body = await self.ask("activities", activities=list(activities))
        assert status == 200, body
        found: list[dict[str, Any]] = body.get("activities", [])
        assert all(each["id"] and each["timestamp"].endswith("Z") for each in found)
        return found

    async def texts(self, *activities: dict[str, Any]) -> list[str]:
        """And of these the texts."""
        return [each["text"] for each in await self.say(*activities) if each["type"] == "message"]


async def create(one: VoiceAi, **body: Any) -> Chat:
    id_ = str(uuid.uuid4())
    status, places = await one.ask(body={"conversation": id_, "bot": "bot", **body})
    assert status == 200, places
    return Chat(one, places, id_)


async def started(one: VoiceAi, **body: Any) -> Chat:
    chat = await create(one, **body)
    assert await chat.texts(event("start", parameters=START)) == [GREETING]
    return chat


async def test_1_a_get_with_the_right_token_validates() -> None:
    async with voice_ai(agent("a")) as one:
        assert await one.ask() == (200, {"type": "ac-bot-api", "success": True})


async def test_2_without_the_token_nothing_is_done() -> None:
    async with voice_ai(agent("a", counts())) as one:
        chat = await started(one)
        before = len(list(one.gateway.sessions.records()))
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            for url, body in (
                ("", None),
                ("", {"conversation": "c9"}),
                *(
                    (chat.places[f"{what}URL"], {"conversation": chat.id})
                    for what in ("activities", "refresh", "disconnect")
                ),
            ):
                status, answer = await one.ask(url, body, headers=headers)
                assert (status, answer) == (401, {"error": "unauthorized"})
        assert len(list(one.gateway.sessions.records())) == before
        assert (await one.ask("conversation/c9/refresh", {}))[0] == 404
        assert await chat.texts(words("still here")) == ["You said: still here."]


async def test_3_without_a_token_configured_the_gateways_own_rule_holds() -> None:
    async with voice_ai(agent("a"), token=None) as one:
        assert (await one.ask())[0] == 200, "from loopback"
        assert (await one.ask(headers={"X-Forwarded-For": "192.0.2.1"}))[0] == 401
    async with voice_ai(agent("a"), token=None, FASTAGENT_AUTH="open") as one:
        assert (await one.ask(headers={"X-Forwarded-For": "192.0.2.1"}))[0] == 200
    async with voice_ai(agent("a"), token=None, FASTAGENT_API_KEYS="key-1") as one:
        assert (await one.ask())[0] == 401
        assert (await one.ask(headers={"Authorization": "Bearer key-1"}))[0] == 200


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("public", [None, "wss://voice.example.com/prefix/audiocodes/webhook"])
async def test_4_each_url_resolved_against_ours_reaches_its_handler(slash: str, public: str | None) -> None:
    config = {"webhook_url": public} if public else {}
    async with voice_ai(agent("a", counts()), config=config) as one:
        if public:
            one.url = one.url.replace(PATH, "/prefix" + PATH)
        one.url += slash
        chat = await create(one, capabilities=["websocket"])
        assert set(chat.places) == {"activitiesURL", "refreshURL", "disconnectURL", "websocketURL", "expiresSeconds"}
        assert isinstance(chat.places["expiresSeconds"], int)
        assert chat.places["expiresSeconds"] > 0
        if public:
            base = f"voice.example.com/prefix/audiocodes/conversation/{chat.id}"
            assert chat.places["activitiesURL"] == f"https://{base}/activities"
            assert chat.places["websocketURL"] == f"wss://{base}/websocket"
            local = f"http://127.0.0.1:{one.gateway.port}"
            chat.places = {
                name: url.replace("https://voice.example.com", local) if isinstance(url, str) else url
                for name, url in chat.places.items()
            }
        assert await chat.texts(event("start")) == [GREETING]
        assert await chat.ask("refresh") == (200, {"expiresSeconds": chat.places["expiresSeconds"]})
        assert await chat.ask("disconnect", reasonCode="client-disconnected", reason="Client Side") == (200, {})


@pytest.mark.parametrize(
    "body",
    [b"not json", b"", b"[]", b"{}", b'{"conversation": 5}', b'{"conversation": "../x"}', b'{"a":' * 40, b"\xff"],
)
async def test_5_a_create_without_a_conversation_is_400(body: bytes) -> None:
    async with voice_ai(agent("a")) as one:
        assert (await one.ask(body=body))[0] == 400
        assert list(one.gateway.sessions.records()) == []


async def test_6_creating_again_is_the_same_conversation() -> None:
    async with voice_ai(agent("a", counts())) as one:
        chat = await started(one)
        again = await one.ask(body={"conversation": chat.id, "bot": "bot"})
        assert again == (200, chat.places)
        assert len(list(one.gateway.sessions.records())) == 1
        assert await chat.texts(words("one")) == ["You said: one."]


async def test_7_8_the_start_is_greeted_and_words_are_answered_as_json() -> None:
    async with voice_ai(agent("a", counts())) as one:
        chat = await create(one)
        first = await chat.say(event("start", parameters=START))
        assert [each.get("name", each["type"]) for each in first] == ["config", "message"]
        assert first[0]["sessionParams"] == {"bargeIn": True, "sendDTMF": True, "sendEventsToBot": ["noUserInput"]}
        async with one.http.post(
            f"{one.url.removesuffix('webhook')}{chat.places['activitiesURL']}",
            json={"conversation": chat.id, "activities": [words("grüß Gott")]},
            headers=one.headers,
        ) as answer:
            assert answer.content_type == "application/json"
            assert json.loads(await answer.read())["activities"][0]["text"] == "You said: grüß Gott."
        details = await one.details(chat.id)
        assert [turn["heard"] for turn in details["turns"]] == [GREETING, "You said: grüß Gott."]
        session = next(iter(one.gateway.sessions._live.values()))
        assert (session.leg.info.from_, session.leg.info.to) == ("+15550100001", "+15550100002")
        assert session.leg.info.metadata["botName"] == "bot"


async def test_a_conversation_may_begin_without_a_start() -> None:
    async with voice_ai(agent("a", counts())) as one:
        chat = await create(one)
        assert await chat.texts(words("hello")) == [GREETING, "You said: hello."]


async def test_9_an_activity_that_comes_again_has_the_same_answer_and_is_heard_once() -> None:
    heard: list[str] = []
    async with voice_ai(agent("a", counts(heard))) as one:
        chat = await started(one)
        said = words("once")
        first = await chat.say(said)
        assert await chat.say(said) == first
        both = await asyncio.gather(*(chat.say(words("twice") | {"id": "same"}) for _ in range(3)))
        assert both[0] == both[1] == both[2]
        assert await chat.texts(said, words("new")) == ["You said: once.", "You said: new."]
        assert heard == ["once", "twice", "new"]


async def test_10_what_is_unknown_is_ignored() -> None:
    async with voice_ai(agent("a", counts())) as one:
        chat = await started(one)
        odd = [event("weather"), {"type": "poem"}, 5, {"name": "x"}, event("voiceDetected"), words("  ")]
        assert await chat.ask("activities", activities=odd) == (200, {})
        assert await chat.ask("activities", activities=7) == (400, {"error": "the request cannot be read"})
        assert metric(one.gateway, "protocol_errors_total", surface="audiocodes", kind="unknown_activity") == 2
        assert await chat.texts(words("still here")) == ["You said: still here."]


@pytest.mark.parametrize("name", ["DTMF", "dtmf"])
async def test_11_keys_reach_the_agent_each(name: str) -> None:
    heard: list[str] = []
    async with voice_ai(agent("a", counts(heard))) as one:
        chat = await started(one)
        texts = await chat.texts(event(name, value="12#"))
        assert heard == ["1", "2", "#"]
        assert texts[-1] == "You said: #."


async def test_11_keys_that_are_collected_are_answered_when_they_are_complete() -> None:
    heard: list[str] = []
    async with voice_ai(agent("a", counts(heard, dtmf_max_digits=4))) as one:
        chat = await started(one)
        assert await chat.texts(event("DTMF", value="12#")) == ["You said: 12."]
        assert heard == ["12"]


async def test_12_a_conversation_without_requests_is_gone_at_last() -> None:
    async with voice_ai(agent("a", counts()), config={"expires_s": 0.4}) as one:
        chat = await started(one)
        for _ in range(4):
            await asyncio.sleep(0.3)
            assert await chat.ask("refresh") == (200, {"expiresSeconds": 0.4})
        never = await create(one)
        await eventually(lambda: not one.gateway.sessions._places)
        assert (await chat.ask("activities", activities=[words("hello")]))[0] == 404
        assert (await chat.ask("refresh"))[0] == 404
        assert (await never.ask("refresh"))[0] == 404
        assert (await one.details(chat.id))["end_reason"] == "connection_lost"


async def test_13_a_disconnect_ends_the_session_once() -> None:
    async with voice_ai(agent("a", counts())) as one:
        chat = await started(one)
        assert await chat.ask("disconnect", reason="Client Side", reasonCode="client-disconnected") == (200, {})
        await eventually(lambda: not one.gateway.sessions.active())
        assert (await one.details(chat.id))["end_reason"] == "caller_hung_up"
        assert (await chat.ask("disconnect", reasonCode="error"))[0] == 404
        assert metric(one.gateway, "sessions_ended_total", reason="caller_hung_up") == 1
        early = await create(one)
        assert await early.ask("disconnect") == (200, {})
        await eventually(lambda: not one.gateway.sessions._places)
        assert (await early.ask("disconnect"))[0] == 404


async def test_14_an_agent_that_fails_apologises_and_hangs_up_at_last_and_the_status_is_200() -> None:
    def fail(text: str) -> str:
        raise ValueError("broken")

    async with voice_ai(agent("a", Speaks(GREETING, fail))) as one:
        chat = await started(one)
        answers = [await chat.say(words("hello")) for _ in range(3)]
        assert [[each["type"] for each in answer] for answer in answers] == [
            ["message"],
            ["message"],
            ["message", "event"],
        ]
        assert answers[-1][-1]["name"] == "hangup"
        assert answers[-1][-1]["activityParams"] == {"hangupReason": "agent_failed"}


async def test_15_an_agent_that_ends_hangs_up_and_one_that_transfers_transfers() -> None:
    options: dict[str, Any] = {"FASTAGENT_TRANSFER_TO": (HUMAN,)}
    async with voice_ai(agent("a", Speaks("Goodbye.", terminal=True)), **options) as one:
        chat = await create(one)
        *_, last = await chat.say(event("start"))
        assert (last["name"], last["activityParams"]) == ("hangup", {"hangupReason": "completed"})
        await chat.ask("disconnect", reasonCode="bot-disconnected")
        await eventually(lambda: not one.gateway.sessions.active())
        assert (await one.details(chat.id))["end_reason"] == "completed"
    moves = Speaks("One moment.", terminal=Ending("transfer", HUMAN))
    async with voice_ai(agent("a", moves), **options) as one:
        chat = await create(one)
        *_, last = await chat.say(event("start"))
        assert last["name"] == "transfer"
        assert last["activityParams"] == {"transferTarget": f"tel:{HUMAN}", "transferNotifications": True}
        failed = await chat.say(event("transferStatus", value={"status": "failed", "reasonCode": "busy"}))
        assert [each.get("name", each["type"]) for each in failed] == ["message", "hangup"]
        chat = await create(one)
        await chat.say(event("start"))
        await chat.ask("disconnect", reasonCode="transferred")
        await eventually(lambda: not one.gateway.sessions.active())
        assert (await one.details(chat.id))["end_reason"] == "transferred"


class Patient(Speaks):
    """Asks again."""

    async def on_no_input(self, count: int, context: Any) -> str:
        return f"Are you there? {count}"


async def test_silence_that_voiceai_connect_reports_is_answered() -> None:
    async with voice_ai(agent("a", Patient(GREETING))) as one:
        chat = await started(one)
        assert await chat.texts(event("noUserInput", value=1)) == ["Are you there? 1"]


async def test_over_the_asynchronous_channel_words_come_by_themselves() -> None:
    async with voice_ai(agent("a", counts())) as one:
        chat = await create(one, capabilities=["websocket"])
        url = f"{one.url.removesuffix('webhook')}{chat.places['websocketURL']}"
        with pytest.raises(aiohttp.WSServerHandshakeError) as error:
            await one.http.ws_connect(url)
        assert error.value.status == 401
        async with one.http.ws_connect(url, headers=one.headers) as socket:
            assert await chat.say(event("start")) == []
            first = [await socket.receive_json(timeout=5) for _ in range(2)]
            assert [body["activities"][0].get("text", "config") for body in first] == ["config", GREETING]
            assert {body["conversation"] for body in first} == {chat.id}
            assert await chat.say(words("hello")) == []
            assert (await socket.receive_json(timeout=5))["activities"][0]["text"] == "You said: hello."
            session = next(iter(one.gateway.sessions._live.values()))
            session.announce("By the way.")
            assert (await socket.receive_json(timeout=5))["activities"][0]["text"] == "By the way."
        await asyncio.sleep(0.05)
        assert await chat.texts(words("again")) == ["You said: again."], "without the channel, as before"
        async with one.http.ws_connect(url, headers=one.headers) as socket:
            session.close(HangupReason.TERMINATED, "")
            assert (await socket.receive_json(timeout=5))["activities"][0]["name"] == "hangup"
            assert (await socket.receive(timeout=5)).type is aiohttp.WSMsgType.CLOSE
        assert (await one.ask(url.replace("/websocket", "/nothing")))[0] == 404
        assert (await one.ask(url))[0] == 404
        assert (await one.ask(url.replace("/websocket", "/refresh"), method="GET"))[0] == 405


async def test_the_channel_is_offered_to_who_can_have_it_only() -> None:
    async with voice_ai(agent("a", counts()), config={"asynchronous": False}) as one:
        assert "websocketURL" not in (await create(one, capabilities=["websocket"])).places
    async with voice_ai(agent("a", counts())) as one:
        assert "websocketURL" not in (await create(one)).places


async def test_an_answer_that_takes_too_long_comes_with_the_next_request() -> None:
    class Slow(Speaks):
        async def process(self, input_text: str, context: Any) -> str:
            await asyncio.sleep(0.5)
            return "At last."

    async with voice_ai(agent("a", Slow(GREETING)), config={"answer_s": 0.1}) as one:
        chat = await started(one)
        assert await chat.texts(words("hello")) == []
        await asyncio.sleep(0.6)
        assert await chat.texts(event("weather")) == ["At last."]


async def test_a_conversation_goes_on_at_another_gateway_with_the_same_store() -> None:
    store = Shared()
    async with (
        voice_ai(agent("a", counts()), store=store) as first,
        voice_ai(agent("a", counts()), store=store) as second,
    ):
        chat = await started(first)
        await chat.texts(words("one"))
        await eventually(lambda: "You said: one." in str(store._documents))
        chat.one = second
        texts = await chat.texts(words("two"))
        assert texts[-1] == "You said: two."
        session = next(iter(second.gateway.sessions._live.values()))
        assert [each.user for each in session.machine.context.history if each.user] == ["one", "two"]
        assert session.leg.info.from_ == "+15550100001"
        assert (await chat.ask("refresh"))[0] == 200


async def test_two_conversations_do_not_mix() -> None:
    async with voice_ai(agent("a", counts())) as one:
        chats = [await started(one) for _ in range(20)]
        texts = await asyncio.gather(*(chat.texts(words(str(at))) for at, chat in enumerate(chats)))
        assert texts == [[f"You said: {at}."] for at in range(20)]
        assert (await chats[0].one.ask(chats[0].places["activitiesURL"], {"conversation": chats[1].id}))[0] == 400
