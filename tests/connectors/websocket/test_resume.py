"""A session outlives its socket (F12): cuts, returns, replacements and farewells, over real sockets."""

import asyncio
from typing import Any

import pytest

from fastagent.connectors.leg import ConnectionBack, ConnectionLost, LegEvent
from fastagent.gateway.app import Gateway
from fastagent.gateway.session import Session
from tests.connectors.websocket.client import (
    ANSWER,
    GREETING,
    KEY,
    OTHER_KEY,
    Client,
    Clients,
    calling,
    eventually,
    metric,
    speech_wav,
)

pytestmark = pytest.mark.real


def session_of(one: Gateway) -> Session:
    (session,) = one.sessions._live.values()
    return session


async def lost(one: Gateway) -> Session:
    """The session, once it knows that its client is gone."""
    session = session_of(one)
    await eventually(lambda: session._away)
    return session


async def heard_to_the_end(client: Client, words: str) -> None:
    await client.until(lambda: any(one.get("heard") == words for one in client.of("transcript")))


@pytest.mark.parametrize("way", ["abort", "fin", "1001", "4000"])
async def test_a_client_that_is_cut_off_comes_back_and_the_answer_goes_on_where_it_was(way: str) -> None:
    async with calling() as clients:
        async with clients.connect() as client:
            started = await client.start()
            await client.until(lambda: len(client.of("audio_response")) >= 8)
            if way == "abort":
                client.drop()
            elif way == "fin":
                client.transport.close()
            else:
                await client.socket.close(code=int(way))
            session = await lost(clients.gateway)
        heard = session.speaker.heard()
        assert 0 < len(heard) < len(GREETING)
        async with clients.connect(started["session_id"]) as back:
            again = await back.start(resume_secret=started["resume_secret"])
            assert again == started | {"resumed": True}
            await back.until(lambda: back.finals == 1)
            assert len(back.audio) / 16000 == pytest.approx(3.75 * (1 - len(heard) / len(GREETING)), abs=0.6)
            if way == "abort":
                await heard_to_the_end(back, GREETING)
                await back.say(speech_wav(1.0), chunk_id=0)
                await heard_to_the_end(back, ANSWER)
            assert back.of("audio_response")[0]["seq"] > client.of("audio_response")[-1]["seq"]
            assert not back.errors
        assert metric(clients.gateway, "sessions_resumed_total", **{"from": "connection"}) == 1


async def test_the_id_may_come_in_the_payload() -> None:
    async with calling() as clients:
        async with clients.connect() as client:
            started = await client.start()
            client.drop()
            await lost(clients.gateway)
        async with clients.connect() as back:
            await back.start(session_id=started["session_id"], resume_secret=started["resume_secret"])


async def refuse(clients: Clients, code: str, session_id: str | None, key: str = KEY, **payload: Any) -> None:
    async with clients.connect(session_id, key=key) as client:
        await client.send("start_session", **payload)
        await client.next("error")
        assert client.errors == [code]


async def test_only_the_owner_with_the_secret_gets_a_session_back() -> None:
    async with calling(FASTAGENT_API_KEYS=f"{KEY},{OTHER_KEY}") as clients:
        async with clients.connect("mine", key=KEY) as client:
            secret = (await client.start())["resume_secret"]
            client.drop()
            await lost(clients.gateway)
        await refuse(clients, "authentication_failed", "mine", resume_secret="wrong")
        await refuse(clients, "authentication_failed", "mine", resume_secret="")
        await refuse(clients, "authentication_failed", "mine", resume_secret="é")
        await refuse(clients, "authentication_failed", "mine", OTHER_KEY, resume_secret=secret)
        await refuse(clients, "authentication_failed", "mine")
        await refuse(clients, "session_not_found", "another", resume_secret=secret)
        await refuse(clients, "invalid_request", None, resume_secret=secret)
        other = {"output": {"format": "audio/x-mulaw"}}
        await refuse(clients, "invalid_request", "mine", resume_secret=secret, audio=other)
        assert metric(clients.gateway, "auth_failures_total", surface="websocket_resume") == 4
        async with clients.connect("mine", key=KEY) as back:
            assert (await back.start(resume_secret=secret))["resumed"]


async def test_two_sockets_cannot_have_one_session() -> None:
    async with calling() as clients, clients.connect("mine") as one, clients.connect("mine") as two:
        await asyncio.gather(one.send("start_session"), two.send("start_session"))
        await one.until(lambda: one.received)
        await two.until(lambda: two.received)
        assert sorted([one.types[0], two.types[0]]) == ["error", "session_started"]
        assert [*one.errors, *two.errors] == ["authentication_failed"]
        assert len(clients.gateway.sessions) == 1


@pytest.mark.parametrize("hold", [30.0, 0.0])
async def test_a_resume_replaces_a_socket_that_is_still_open(hold: float) -> None:
    """S6: a resume ends the older connection, and only that."""
    async with calling(FASTAGENT_WS_HOLD_SECONDS=hold) as clients, clients.connect() as old:
        started = await old.start()
        await old.until(lambda: len(old.of("audio_response")) >= 6)
        async with clients.connect(started["session_id"]) as new:
            await new.start(resume_secret=started["resume_secret"])
            assert await old.close_code() == 1008
            before = len(old.received)
            await new.until(lambda: new.finals == 1)
            await heard_to_the_end(new, GREETING)
            assert len(old.received) == before
            await new.send("text_input", text="Hello.")
            await heard_to_the_end(new, ANSWER)
        await eventually(lambda: metric(clients.gateway, "sessions_ended_total", reason="caller_hung_up") == 1)


async def test_what_the_older_socket_still_says_does_not_count() -> None:
    async with calling() as clients, clients.connect() as old:
        started = await old.start()
        session = session_of(clients.gateway)
        async with clients.connect(started["session_id"]) as new:
            await new.start(resume_secret=started["resume_secret"])
            try:
                await old.send("end_session")
                await old.socket.close()  # a proper goodbye, of somebody who has moved on
            except ConnectionError:
                pass
            await old.close_code()
            await new.send("text_input", text="Hello.")
            await heard_to_the_end(new, ANSWER)
            assert session_of(clients.gateway) is session


async def test_of_two_that_resume_at_once_the_last_has_the_session() -> None:
    async with calling() as clients:
        async with clients.connect() as client:
            started = await client.start()
            client.drop()
            session = await lost(clients.gateway)
        session_id, secret = started["session_id"], started["resume_secret"]
        async with clients.connect(session_id) as one, clients.connect(session_id) as two:
            for client in (one, two):
                await client.send("start_session", resume_secret=secret)
            await eventually(lambda: one.closed.is_set() or two.closed.is_set())
            winner, loser = (two, one) if one.closed.is_set() else (one, two)
            assert loser.socket.close_code == 1008
            await winner.next("session_started")
            await winner.send("text_input", text="Hello.")
            await heard_to_the_end(winner, ANSWER)
            assert session_of(clients.gateway) is session
            assert len([task for task in asyncio.all_tasks() if task.get_name() == "outbox"]) == 1


async def test_a_client_that_comes_back_too_late_finds_no_session() -> None:
    async with calling(FASTAGENT_WS_HOLD_SECONDS=0.3) as clients:
        async with clients.connect() as client:
            started = await client.start()
            client.drop()
        await eventually(lambda: metric(clients.gateway, "sessions_ended_total", reason="connection_lost") == 1)
        async with clients.connect(started["session_id"]) as late:
            await late.send("start_session", resume_secret=started["resume_secret"])
            await late.next("error")
            assert late.errors == ["session_not_found"]
        assert not clients.gateway.sessions._places


@pytest.mark.parametrize("code", [1000, None])
async def test_a_client_that_closes_properly_has_hung_up(code: int | None) -> None:
    async with calling() as clients, clients.connect() as client:
        await client.start()
        if code is None:
            client.transport.write(b"\x88\x80\0\0\0\0")  # a close without a code, as browsers' `close()` sends it
        else:
            await client.socket.close(code=code)
        await eventually(lambda: metric(clients.gateway, "sessions_ended_total", reason="caller_hung_up") == 1)
        await eventually(lambda: not any(one.get_name() == "websocket-session" for one in asyncio.all_tasks()))


async def test_an_ended_session_cannot_be_resumed() -> None:
    async with calling() as clients, clients.connect() as client:
        started = await client.start()
        await client.send("end_session", reason="user_hangup")
        ended = await client.next("session_ended")
        assert (ended["reason"], ended["detail"]) == ("caller_hung_up", "user_hangup")
        async with clients.connect(started["session_id"]) as late:
            await late.send("start_session", resume_secret=started["resume_secret"])
            await late.next("error")
            assert late.errors == ["session_not_found"]
        await client.send("dtmf", digits="1")
        await client.next("error")
        assert client.errors == ["session_not_found"]
        assert await client.close_code() == 1000
        assert client.types[-2:] == ["session_ended", "error"]


async def test_what_is_typed_while_the_client_was_away_is_answered_when_it_is_back() -> None:
    """Text that came just before the cut: its answer waits, and is heard from its first word."""
    async with calling(greeting="Hello.") as clients:
        async with clients.connect() as client:
            started = await client.start()
            await heard_to_the_end(client, "Hello.")
            await client.send("text_input", text="My balance?")
            client.transport.close()  # what was written goes out first
            session = await lost(clients.gateway)
        await eventually(lambda: session._turn is not None and bool(session._turn.record.agent))
        async with clients.connect(started["session_id"]) as back:
            await back.start(resume_secret=started["resume_secret"])
            await back.until(lambda: back.finals == 1)
            await heard_to_the_end(back, ANSWER)
            assert len(back.audio) / 16000 >= 1.0


async def test_an_utterance_that_the_cut_has_ended_is_answered() -> None:
    async with calling(greeting="Hello.") as clients:
        async with clients.connect() as client:
            started = await client.start()
            await heard_to_the_end(client, "Hello.")
            await client.say(speech_wav(1.0))
            await client.next("speech_started")
            client.drop()
            session = await lost(clients.gateway)
        assert session.inbound.caller_speaks
        async with clients.connect(started["session_id"]) as back:
            await back.start(resume_secret=started["resume_secret"])
            await heard_to_the_end(back, ANSWER)


async def test_the_session_is_told_of_the_loss_and_of_the_return() -> None:
    async with calling() as clients:
        async with clients.connect() as client:
            started = await client.start()
            leg: Any = session_of(clients.gateway).leg
            seen: list[Any] = []
            put = leg._events.put

            def see(event: LegEvent) -> bool:
                seen.append(event)
                return bool(put(event))

            leg._events.put = see
            client.drop()
            await lost(clients.gateway)
        async with clients.connect(started["session_id"]) as back:
            await back.start(resume_secret=started["resume_secret"])
            assert [one for one in seen if isinstance(one, ConnectionLost | ConnectionBack)] == [
                ConnectionLost(),
                ConnectionBack(),
            ]
            assert not session_of(clients.gateway)._away
