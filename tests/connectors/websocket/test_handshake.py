"""Who gets in, how many, and what closes a socket: keys, capacity, limits, pings, slow readers; over real sockets."""

import asyncio
import json
import socket as sockets
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from fastagent.connectors import outbox as outbox_module
from fastagent.connectors.websocket import connector as connector_module
from fastagent.gateway.app import Gateway
from tests.connectors.websocket.client import KEY, calling, eventually, gateway, metric

pytestmark = pytest.mark.real

TUNNEL = {"Host": "gw.example.com"}  # a name of no loopback: S2


# -- keys (S1, S2, 17) -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {KEY} "[:-2]},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": KEY},
        {"Sec-WebSocket-Protocol": "bearer.wrong"},
        {"Authorization": f"Bearer {KEY}", "Sec-WebSocket-Protocol": f"bearer.{KEY}"},
        {"Sec-WebSocket-Protocol": f"bearer.{KEY}, bearer.{KEY}"},
    ],
)
async def test_without_exactly_one_right_key_there_is_no_handshake(headers: dict[str, str]) -> None:
    async with calling(FASTAGENT_API_KEYS=KEY) as clients:
        answer = await clients.refused(**headers)
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert (await answer.json())["code"] == "authentication_failed"
        assert metric(clients.gateway, "auth_failures_total", surface="websocket") == 1


async def test_a_token_in_the_query_is_none() -> None:
    async with calling(FASTAGENT_API_KEYS=KEY) as clients:
        clients.url = clients.url.with_query(token=KEY, api_key=KEY, access_token=KEY)
        assert (await clients.refused()).status == 401


@pytest.mark.parametrize("headers", [TUNNEL, {"Origin": "https://a.example"}, {"X-Forwarded-For": "1.2.3.4"}])
async def test_without_keys_only_those_are_admitted_that_are_local_for_certain(headers: dict[str, str]) -> None:
    async with calling() as clients:
        answer = await clients.refused(**headers)
        assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        async with clients.connect(headers=headers, key=clients.gateway.keys.made) as client:
            await client.start()
        async with clients.connect() as client:
            await client.start()


@pytest.mark.parametrize("offered", [(f"bearer.{KEY}",), ("fastagent.v1", f"bearer.{KEY}"), (f"bearer.{KEY}", "other")])
async def test_a_browser_brings_its_key_as_a_subprotocol(offered: tuple[str, ...]) -> None:
    async with calling(FASTAGENT_API_KEYS=KEY) as clients, clients.connect(protocols=offered) as client:
        assert client.socket.protocol == ("fastagent.v1" if "fastagent.v1" in offered else offered[0])
        await client.start()


async def test_a_browser_may_be_told_of_a_wrong_key_on_the_socket() -> None:
    async with (
        calling(FASTAGENT_API_KEYS=KEY, FASTAGENT_WS_REFUSE_AFTER_ACCEPT=True) as clients,
        clients.connect(protocols=("bearer.wrong",)) as client,
    ):
        assert (await client.next("error"))["code"] == "authentication_failed"
        assert await client.close_code() == 4401
        assert client.types == ["error"]


# -- capacity (F19, 33) ------------------------------------------------------------------------------------------------


async def test_beyond_the_limit_a_start_is_refused_with_1013_and_those_inside_do_not_notice() -> None:
    async with calling(MAX_SESSIONS=1) as clients, clients.connect() as one, clients.connect() as two:
        await one.start()
        await two.send("start_session")
        assert (await two.next("error"))["code"] == "capacity_exceeded"
        assert await two.close_code() == 1013
        assert metric(clients.gateway, "calls_rejected_total", reason="capacity") == 1
        await one.send("end_session")
        await one.next("session_ended")
        await eventually(lambda: not clients.gateway.sessions._places)
        async with clients.connect() as three:
            await three.start()


async def test_a_gateway_that_stops_refuses_handshakes_and_lets_calls_go_on() -> None:
    async with calling() as clients, clients.connect() as client, clients.connect() as idle:
        await client.start()
        stopping = asyncio.create_task(clients.gateway.stop(5.0))
        await eventually(lambda: not clients.gateway.accepts_calls())
        answer = await clients.refused()
        assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
        assert (await answer.json())["code"] == "capacity_exceeded"
        await idle.send("start_session")
        assert (await idle.next("error"))["code"] == "capacity_exceeded"
        await client.send("text_input", text="Hello.")
        await client.next("state_transition")
        await client.send("end_session")
        await client.next("session_ended")
        await stopping


async def test_a_stop_says_goodbye_and_closes_with_1001_also_what_never_began() -> None:
    async with calling(greeting="Hello.") as clients, clients.connect() as client, clients.connect() as idle:
        await client.start()
        await client.until(lambda: client.finals == 1)
        began = asyncio.get_running_loop().time()
        await clients.gateway.stop(0)
        assert client.of("session_ended")[0]["reason"] == "shutdown"
        assert await client.close_code() == 1001
        assert await idle.close_code() == 1001
        assert asyncio.get_running_loop().time() - began < 8, "the goodbye, and no wait for idle sockets"


# -- what is no handshake ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("session_id", ["a b", "../../etc/passwd", "a" * 65, "_x", "x/y", "sess_\xe9"])
async def test_a_malformed_session_id_is_refused_at_the_handshake(session_id: str) -> None:
    async with calling() as clients:
        answer = await clients.refused(**{"X-Session-ID": session_id})
        assert answer.status == 400
        assert (await answer.json())["code"] == "invalid_request"
        assert metric(clients.gateway, "protocol_errors_total", surface="websocket", kind="session_id") == 1


async def test_a_request_without_an_upgrade_is_told_to_upgrade() -> None:
    async with calling() as clients, clients.http.get(clients.url) as answer:
        assert (answer.status, answer.headers["Upgrade"]) == (426, "websocket")


async def test_an_unknown_agent_is_told_and_the_socket_stays_open() -> None:
    async with calling() as clients, clients.connect() as client:
        await client.send("start_session", agent_id="nobody")
        assert (await client.next("error"))["code"] == "agent_not_found"
        await client.start()


# -- what closes a socket (S10) ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1 << 20) + 1, 10_000_000])
async def test_a_message_above_one_mib_closes_with_1009(size: int) -> None:
    async with calling() as clients, clients.connect() as client:
        await client.start()
        try:
            await client.raw('{"type": "audio_data", "payload": {"data": "' + "A" * size + '"}}')
        except ConnectionError:
            pass  # closed while we were still sending
        assert await client.close_code() == 1009
        await eventually(lambda: metric(clients.gateway, "sessions_ended_total", reason="protocol_error") == 1)


async def test_the_longest_message_is_taken() -> None:
    async with calling() as clients, clients.connect() as client:
        await client.start()
        text = json.dumps({"type": "audio_data", "payload": {"data": ""}})
        await client.raw(text + " " * ((1 << 20) - len(text)))
        await client.send("nothing")
        await client.next("error")
        assert client.errors == ["invalid_request"]


def frame(opcode: int, payload: bytes, *, masked: bool = True) -> bytes:
    size = bytes((len(payload),)) if len(payload) < 126 else b"\x7e" + struct.pack(">H", len(payload))
    head = bytes((0x80 | opcode, size[0] | (0x80 * masked))) + size[1:]
    return head + bytes(4) * masked + payload


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (frame(1, b'{"type": "\xff\xfe"}'), 1007),
        (frame(3, b""), 1002),
        (bytes((0xC1, 0x80)) + bytes(4), 1002),
        (frame(8, b"\0"), 1002),
        (frame(0, b"goes on"), 1002),
    ],
    ids=["utf-8", "opcode", "rsv", "short close", "continuation"],
)
async def test_violations_of_the_protocol_close_with_the_code_that_the_standard_asks_for(raw: bytes, code: int) -> None:
    async with calling() as clients, clients.connect() as client:
        await client.start()
        client.transport.write(raw)
        assert await client.close_code() == code
        await eventually(lambda: metric(clients.gateway, "sessions_ended_total", reason="protocol_error") == 1)


async def test_a_socket_that_starts_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connector_module, "_BEFORE_START_S", 0.5)
    async with calling() as clients, clients.connect() as silent, clients.connect() as busy, clients.connect() as good:
        await good.start()
        for _ in range(3):
            await busy.send("dtmf", digits="1")
        assert await silent.close_code() == 1008
        assert await busy.close_code() == 1008
        assert busy.errors == ["invalid_request"] * 3
        assert metric(clients.gateway, "protocol_errors_total", surface="websocket", kind="no_start") == 2
        assert not good.closed.is_set()


# -- clients that are gone, or do not read (F13, F14) ------------------------------------------------------------------


@asynccontextmanager
async def deaf(one: Gateway, *messages: dict[str, Any]) -> AsyncIterator[asyncio.StreamWriter]:
    """A client that sends and never reads: neither audio nor pings."""
    sock = sockets.socket()
    sock.setblocking(False)
    sock.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", one.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
    writer.write(
        f"GET /agent/ws HTTP/1.1\r\nHost: 127.0.0.1:{one.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
    for message in messages:
        writer.write(frame(1, json.dumps(message).encode()))
    try:
        yield writer
    finally:
        writer.transport.abort()


START = {"type": "start_session", "payload": {}}


async def test_a_client_that_answers_no_ping_is_cut_off_and_one_that_does_is_not() -> None:
    """F13: within two intervals; then all is released."""
    async with (
        gateway(WEBSOCKET_PING_INTERVAL=0.3, FASTAGENT_WS_HOLD_SECONDS=0) as one,
        aiohttp.ClientSession() as http,
        http.ws_connect(f"http://127.0.0.1:{one.port}/agent/ws") as alive,
    ):
        await alive.send_json(START)
        answers = asyncio.create_task(_read(alive))
        async with deaf(one, START):
            await eventually(lambda: len(one.sessions) == 2)
            await eventually(lambda: metric(one, "sessions_ended_total", reason="connection_lost") == 1, 3.0)
            assert len(one.sessions) == 1
        assert not answers.done()
        await alive.close()
        await answers


async def _read(socket: aiohttp.ClientWebSocketResponse) -> None:
    async for _ in socket:
        pass


async def test_a_slow_reader_loses_audio_then_the_connection_and_nothing_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    """F14: at most two seconds wait for it; then it is closed with 1008, and gone a second later."""
    monkeypatch.setattr(outbox_module, "_WRITE_TIMEOUT_S", 1.0)
    start = {"type": "start_session", "payload": {"audio": {"output": {"format": "audio/pcm", "sample_rate": 48000}}}}
    async with gateway(greeting="word " * 200, WEBSOCKET_PING_INTERVAL=30.0) as one:
        async with deaf(one, start) as writer:
            await eventually(lambda: len(one.sessions) == 1)
            (session,) = one.sessions._live.values()
            leg: Any = session.leg
            transport = leg._line.transport
            transport.set_write_buffer_limits(high=1024)
            transport.get_extra_info("socket").setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, 4096)
            while not leg.over:  # as a session that is not paced
                leg.send_audio(bytes(19200))
                assert leg._outbox._audio <= 2 * 96000
                writer.write(frame(1, json.dumps({"type": "nothing"}).encode()))
                await asyncio.sleep(0.001)
            assert leg.frames_dropped > 0
            await eventually(lambda: not len(one.sessions) and transport._sock is None)
            assert metric(one, "sessions_ended_total", reason="slow_peer") == 1
        assert not one.sessions._places


async def test_a_slow_reader_is_closed_with_1008(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "_WRITE_TIMEOUT_S", 0.2)
    async with calling() as clients, clients.connect() as client:
        await client.start()
        (session,) = clients.gateway.sessions._live.values()
        leg: Any = session.leg
        flowing = asyncio.Event()

        async def stuck(text: str) -> None:
            await flowing.wait()

        monkeypatch.setattr(leg._line.socket, "send_str", stuck)
        assert await client.close_code() == 1008


async def test_ten_thousand_bad_messages_at_once_do_not_stop_the_others() -> None:
    async with calling(greeting="Hello.") as clients, clients.connect() as bad, clients.connect() as good:
        await bad.start()
        await good.start()
        flood = frame(1, b'{"type": "nothing"}') * 10_000
        bad.transport.write(flood)
        await good.until(lambda: good.finals == 1)
        await good.send("text_input", text="Hello.")
        await good.until(lambda: good.finals == 2)
        await bad.until(lambda: len(bad.errors) == 10_000, 20.0)
