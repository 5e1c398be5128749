"""The leg's shell: its outbox, its clocks and its end, over a socket in memory; and slow readers over a real one."""

import asyncio
import json
import socket as sockets
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web

from fastagent.connectors import outbox as outbox_module
from fastagent.connectors.host import Recalled, Release
from fastagent.connectors.leg import CallInfo, CallLeg, DtmfReceived, HangupReason, LegEnded, LegEvent, MarkReached
from fastagent.connectors.twilio import leg as leg_module
from fastagent.connectors.twilio.connector import TwilioConfig, TwilioConnection
from fastagent.connectors.twilio.emulator import StreamEmulator
from fastagent.connectors.twilio.leg import TwilioLeg
from fastagent.connectors.twilio.protocol import TwilioProtocol
from fastagent.media.frame import PCMU_8K
from tests.support.carrier import MEDIA, WEBHOOK
from tests.support.no_host import NoHost

CHUNK = b"\xff" * 1600  # 200 ms


class Socket:
    """What the leg needs of a web socket; it can stop taking messages, or break."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.closed = False
        self.code: int | None = None
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.error: Exception | None = None

    async def send_str(self, text: str) -> None:
        await self.flowing.wait()
        if self.error is not None:
            raise self.error
        self.sent.append(json.loads(text))

    async def close(self, *, code: int = 1000, message: bytes = b"", drain: bool = True) -> None:
        self.closed, self.code = True, code

    @property
    def kinds(self) -> list[str]:
        return [one["event"] for one in self.sent]


class Sink:
    """Counts the caller's audio."""

    def __init__(self) -> None:
        self.pushed: list[tuple[bytes, int | None, float]] = []

    def push(self, payload: bytes, timestamp_ms: int | None, now: float) -> bool:
        self.pushed.append((payload, timestamp_ms, now))
        return True

    def quiet(self, seconds: float, now: float) -> None:
        raise AssertionError("Twilio sends silence itself")


def make(socket: Socket, end_call: Callable[[], Awaitable[None]] | None = None) -> TwilioLeg:
    protocol = TwilioProtocol()
    for message in StreamEmulator(call_sid="CA1", stream_sid="MZ1").opening({}):
        protocol.receive(message)
    info = CallInfo("twilio", "CA1", "MZ1", "+1", "+2", "inbound", PCMU_8K)
    return TwilioLeg(cast(web.WebSocketResponse, socket), protocol, info, end_call=end_call)


@asynccontextmanager
async def open_leg(
    socket: Socket | None = None, end_call: Callable[[], Awaitable[None]] | None = None
) -> AsyncIterator[tuple[TwilioLeg, Socket]]:
    socket = socket or Socket()
    leg = make(socket, end_call)
    try:
        yield leg, socket
    finally:
        await leg.aclose(HangupReason.COMPLETED)


async def events_of(leg: TwilioLeg) -> list[LegEvent]:
    return [event async for event in leg.events()]


def now() -> float:
    return asyncio.get_running_loop().time()


# -- out ---------------------------------------------------------------------------------------------------------------


async def test_audio_marks_and_clears_go_out_in_order() -> None:
    async with open_leg() as (leg, socket):
        for at in range(3):
            leg.send_audio(bytes((at,)) * 160)
            leg.send_mark(f"1:{at}")
        await asyncio.sleep(0)
        leg.clear()
        await asyncio.sleep(0)
        assert socket.kinds == ["media", "mark"] * 3 + ["clear"]
        payloads = [b64decode(one["media"]["payload"]) for one in socket.sent if one["event"] == "media"]
        assert payloads == [bytes((at,)) * 160 for at in range(3)]
        assert {one["streamSid"] for one in socket.sent} == {"MZ1"}


async def test_a_clear_drops_what_waits_here_first_marks_and_all() -> None:
    socket = Socket()
    socket.flowing.clear()
    async with open_leg(socket) as (leg, _):
        for at in range(5):
            leg.send_audio(CHUNK)
            leg.send_mark(f"1:{at}")
        await asyncio.sleep(0.01)  # the first message is on its way
        leg.clear()
        leg.send_audio(b"\x00" * 160)
        socket.flowing.set()
        await asyncio.sleep(0.01)
        assert socket.kinds == ["media", "clear", "media"]
        assert b64decode(socket.sent[-1]["media"]["payload"]) == b"\x00" * 160
        assert leg.frames_dropped == 0, "cleared, not dropped"


async def test_beyond_two_seconds_of_backlog_the_oldest_audio_is_dropped_and_counted() -> None:
    """F14, and the limit of a slow client's backlog."""
    socket = Socket()
    socket.flowing.clear()
    async with open_leg(socket) as (leg, _):
        leg.send_mark("first")
        await asyncio.sleep(0.01)  # the writer waits with this one
        for at in range(25):  # five seconds
            leg.send_audio(bytes((at,)) * 1600)
            leg.send_mark(f"1:{at}")
        assert leg.frames_dropped == 150, "three seconds"
        socket.flowing.set()
        await asyncio.sleep(0.01)
        kept = [b64decode(one["media"]["payload"])[0] for one in socket.sent if one["event"] == "media"]
        assert kept == list(range(15, 25)), "the newest two seconds, in order"
        names = [one["mark"]["name"] for one in socket.sent if one["event"] == "mark"]
        assert names == ["first", *(f"1:{at}" for at in range(25))], "control is never dropped"


async def test_a_reader_that_takes_nothing_for_five_seconds_is_given_up_on() -> None:
    """F14."""
    socket = Socket()
    socket.flowing.clear()
    async with open_leg(socket) as (leg, _):
        began = now()
        leg.send_audio(CHUNK)
        assert await events_of(leg) == [LegEnded(HangupReason.SLOW_PEER)]
        assert now() - began == pytest.approx(5.0, abs=0.1)
        await leg.hang_up(HangupReason.SLOW_PEER)
        assert socket.code == 1008


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), aiohttp.ClientConnectionResetError("closing")])
async def test_a_write_that_fails_is_a_lost_connection(error: Exception) -> None:
    socket = Socket()
    socket.error = error
    async with open_leg(socket) as (leg, _):
        leg.send_audio(CHUNK)
        assert await events_of(leg) == [LegEnded(HangupReason.CONNECTION_LOST)]


async def test_nothing_is_sent_after_the_end() -> None:
    """Point 37: outbound sending stops at once."""
    socket = Socket()
    socket.flowing.clear()
    async with open_leg(socket) as (leg, _):
        for _ in range(5):
            leg.send_audio(CHUNK)
        await asyncio.sleep(0.01)
        leg.happened(LegEnded(HangupReason.CALLER_HUNG_UP))
        leg.send_audio(CHUNK)
        leg.send_mark("1:1")
        leg.clear()
        socket.flowing.set()
        await asyncio.sleep(0.01)
        assert len(socket.sent) <= 1, "no more than what was on its way"


# -- in ----------------------------------------------------------------------------------------------------------------


async def test_audio_goes_to_the_sink_with_its_time() -> None:
    async with open_leg() as (leg, _):
        sink = Sink()
        leg.attach(sink)
        leg.audio_received(b"\x01" * 160, 40)
        leg.audio_received(b"\x02" * 80, None)
        assert sink.pushed == [(b"\x01" * 160, 40, now()), (b"\x02" * 80, None, now())]


async def test_events_come_in_order_and_the_end_is_the_last() -> None:
    async with open_leg() as (leg, _):
        given: list[LegEvent] = [DtmfReceived("1"), MarkReached("1:160"), DtmfReceived("2")]
        for event in given:
            leg.happened(event)
        leg.happened(LegEnded(HangupReason.CALLER_HUNG_UP))
        leg.happened(LegEnded(HangupReason.CONNECTION_LOST))
        leg.happened(DtmfReceived("3"))
        assert await events_of(leg) == [*given, LegEnded(HangupReason.CALLER_HUNG_UP)]


async def test_a_flood_of_events_ends_the_call_within_its_bound() -> None:
    async with open_leg() as (leg, _):
        for _ in range(10_000):
            leg.happened(DtmfReceived("1"))
        events = await events_of(leg)
        assert len(events) <= 512
        assert events[-1] == LegEnded(HangupReason.PROTOCOL_ERROR)


async def test_without_media_for_fifteen_seconds_the_call_is_over() -> None:
    """F26."""
    async with open_leg() as (leg, socket):
        began = now()
        assert await events_of(leg) == [LegEnded(HangupReason.MEDIA_TIMEOUT)]
        assert now() - began == pytest.approx(15.0, abs=0.2)
        await leg.hang_up(HangupReason.MEDIA_TIMEOUT)
        assert socket.closed


async def test_the_fifteen_seconds_count_from_the_last_media() -> None:
    """F26: silence is media too, and an hour of it is a call that goes on."""
    async with open_leg() as (leg, _):
        for _ in range(300):
            await asyncio.sleep(12.0)
            leg.audio_received(CHUNK[:160], None)
        last = now()
        assert await events_of(leg) == [LegEnded(HangupReason.MEDIA_TIMEOUT)]
        assert now() - last == pytest.approx(15.0, abs=0.2)


async def test_the_watch_for_media_ends_with_the_leg() -> None:
    async with open_leg() as (leg, _):
        leg.happened(LegEnded(HangupReason.CALLER_HUNG_UP))
        await asyncio.sleep(60.0)
        assert await events_of(leg) == [LegEnded(HangupReason.CALLER_HUNG_UP)]


# -- the end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (HangupReason.COMPLETED, 1000),
        (HangupReason.NO_INPUT, 1000),
        (HangupReason.SHUTDOWN, 1001),
        (HangupReason.SLOW_PEER, 1008),
        (HangupReason.INTERNAL_ERROR, 1011),
    ],
)
async def test_without_rest_a_hang_up_closes_the_socket_behind_what_was_said(reason: HangupReason, code: int) -> None:
    async with open_leg() as (leg, socket):
        leg.send_audio(CHUNK)
        leg.send_mark("1:1600")
        await leg.hang_up(reason)
        assert socket.kinds == ["media", "mark"]
        assert socket.code == code
        assert await events_of(leg) == [LegEnded(reason)]


async def test_with_rest_a_hang_up_waits_for_twilio_s_stop() -> None:
    legs: list[TwilioLeg] = []

    async def end_call() -> None:
        asyncio.get_running_loop().call_later(0.3, legs[0].happened, LegEnded(HangupReason.CALLER_HUNG_UP))

    async with open_leg(end_call=end_call) as (leg, socket):
        legs.append(leg)
        began = now()
        await leg.hang_up(HangupReason.COMPLETED)
        assert now() - began == pytest.approx(0.3, abs=0.01)
        assert socket.closed
        assert len(await events_of(leg)) == 1


async def test_a_stop_that_never_comes_is_waited_for_five_seconds() -> None:
    async def end_call() -> None:
        pass

    async with open_leg(end_call=end_call) as (leg, socket):
        began = now()
        await leg.hang_up(HangupReason.COMPLETED)
        assert now() - began == pytest.approx(5.0, abs=0.01)
        assert socket.code == 1000


async def test_a_rest_call_that_never_returns_does_not_hold_the_leg() -> None:
    """Each wait has a deadline: the caller must not listen to silence since Twilio's REST API is stuck."""

    async def end_call() -> None:
        await asyncio.sleep(3600.0)

    async with open_leg(end_call=end_call) as (leg, socket):
        began = now()
        await leg.hang_up(HangupReason.COMPLETED)
        assert socket.closed
        assert now() - began < 15.0


async def test_a_rest_call_that_fails_unexpectedly_still_closes_the_socket() -> None:
    async def end_call() -> None:
        raise ValueError("not JSON")

    async with open_leg(end_call=end_call) as (leg, socket):
        try:
            await leg.hang_up(HangupReason.COMPLETED)
        except ValueError:
            pass
        assert socket.closed, "else the caller stays in a call that nobody serves"


async def test_rest_is_not_asked_for_a_call_that_is_over() -> None:
    asked = []

    async def end_call() -> None:
        asked.append(1)

    async with open_leg(end_call=end_call) as (leg, socket):
        leg.happened(LegEnded(HangupReason.CALLER_HUNG_UP))
        await leg.hang_up(HangupReason.CALLER_HUNG_UP)
        assert not asked
        assert socket.closed


async def test_hanging_up_and_closing_twice_is_fine() -> None:
    async with open_leg() as (leg, socket):
        await leg.hang_up(HangupReason.COMPLETED)
        await leg.hang_up(HangupReason.SHUTDOWN)
        await leg.aclose(HangupReason.SHUTDOWN)
        assert socket.code == 1000
        assert await events_of(leg) == [LegEnded(HangupReason.COMPLETED)]


async def test_a_hang_up_does_not_wait_for_a_reader_that_takes_nothing() -> None:
    socket = Socket()
    socket.flowing.clear()
    async with open_leg(socket) as (leg, _):
        for _ in range(3):
            leg.send_audio(CHUNK)
        await asyncio.sleep(0.01)
        began = now()
        await leg.hang_up(HangupReason.SHUTDOWN)
        assert now() - began <= 1.1
        assert socket.code == 1001


# -- slow and dead readers over real sockets ---------------------------------------------------------------------------


class Host(NoHost):
    """A gateway whose every session does what the test says."""

    def __init__(self, converse: Callable[[CallLeg], Awaitable[None]]) -> None:
        self._converse = converse
        self.places = 0
        self.released = asyncio.Event()
        self.done = asyncio.Event()

    def reserve(self, connector: str) -> Release | None:
        self.places += 1

        def release() -> None:
            self.places -= 1
            self.released.set()

        return release

    async def converse(self, leg: CallLeg, agent_id: str, *, recalled: Recalled | None = None) -> None:
        try:
            await self._converse(leg)
        finally:
            self.done.set()

    def auth_failed(self, surface: str) -> None:
        raise AssertionError(surface)

    def protocol_error(self, surface: str, kind: str, count: int = 1) -> None:
        pass


@asynccontextmanager
async def serving(host: Host) -> AsyncIterator[str]:
    """Serve the connector alone; yield the address."""
    connection = TwilioConnection(TwilioConfig(), host)
    app = web.Application()
    app.add_routes(connection.routes())
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
        await connection.aclose()


@asynccontextmanager
async def deaf_caller(url: str) -> AsyncIterator[asyncio.StreamWriter]:
    """Announce a call and open its stream from a socket that nobody reads."""
    async with aiohttp.ClientSession() as http, http.post(url + WEBHOOK, data={"CallSid": "CA1"}) as answer:
        token = (await answer.text()).partition('name="token" value="')[2].partition('"')[0]
    host, port = url.removeprefix("http://").split(":")
    sock = sockets.socket()
    sock.setblocking(False)
    sock.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)  # so that little is taken before a reader does
    await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
    reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
    writer.write(
        f"GET {MEDIA} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101")
    for text in StreamEmulator(call_sid="CA1", stream_sid="MZ1").opening({"token": token}):
        data = text.encode()
        writer.write(bytes((0x81, 0x80 | 126)) + len(data).to_bytes(2, "big") + bytes(4) + data)
    try:
        yield writer
    finally:
        writer.transport.abort()


async def _until_ended(leg: CallLeg) -> HangupReason:
    async for event in leg.events():
        if isinstance(event, LegEnded):
            return event.reason
    raise AssertionError("the events end with the end")


@pytest.mark.real
async def test_a_slow_reader_loses_audio_then_the_connection_and_holds_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """F14: drop, then close; F13: all is released within a second more."""
    monkeypatch.setattr(outbox_module, "_WRITE_TIMEOUT_S", 0.3)
    reasons: list[HangupReason] = []
    dropped: list[int] = []

    async def flood(leg: CallLeg) -> None:
        assert isinstance(leg, TwilioLeg)
        ended = asyncio.create_task(_until_ended(leg))
        while not ended.done():
            leg.send_audio(CHUNK * 10)
            await asyncio.sleep(0)
        reasons.append(await ended)
        dropped.append(leg.frames_dropped)
        await leg.hang_up(reasons[0])

    host = Host(flood)
    async with serving(host) as url, deaf_caller(url):
        async with asyncio.timeout(8.0):
            while not reasons:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert reasons == [HangupReason.SLOW_PEER]
        assert dropped[0] > 0
        async with asyncio.timeout(2.0):
            await host.done.wait()
            await host.released.wait()
        assert host.places == 0


@pytest.mark.real
async def test_a_half_open_connection_is_released_within_a_second_of_being_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """F13, F26: the peer neither sends nor closes."""
    monkeypatch.setattr(leg_module, "_MEDIA_TIMEOUT_S", 0.3)
    reasons: list[HangupReason] = []

    async def wait(leg: CallLeg) -> None:
        reasons.append(await _until_ended(leg))
        await leg.hang_up(reasons[0])

    host = Host(wait)
    async with serving(host) as url, deaf_caller(url):
        async with asyncio.timeout(3.0):
            await host.released.wait()
        assert reasons == [HangupReason.MEDIA_TIMEOUT]


@pytest.mark.real
async def test_a_session_that_ends_by_itself_leaves_no_stream_open() -> None:
    """F23: whatever becomes of the session, its caller is not left in a call that nobody serves."""

    async def leave(leg: CallLeg) -> None:
        await asyncio.sleep(0)

    host = Host(leave)
    async with serving(host) as url, deaf_caller(url):
        async with asyncio.timeout(3.0):
            await host.done.wait()
            await host.released.wait()
