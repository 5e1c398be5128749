"""SIP over TCP: how connections are cut, counted, closed and found again; datagrams that cannot be sent."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvloop

from fastagent.connectors.sip import connections
from fastagent.connectors.sip.actions import Address
from fastagent.connectors.sip.names import Names
from fastagent.connectors.sip.transports import Transports
from tests.support.process import free_port
from tests.support.sip_end import HOST, end, until

pytestmark = pytest.mark.real

OPTIONS = (
    b"OPTIONS sip:agent@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1:5070;branch=z9hG4bK1\r\nMax-Forwards: 70\r\n"
    b"From: <sip:a@127.0.0.1>;tag=1\r\nTo: <sip:agent@127.0.0.1>\r\nCall-ID: 1\r\nCSeq: 1 OPTIONS\r\n\r\n"
)


class Open:
    """The transports, and what they told."""

    def __init__(self) -> None:
        self.received: list[tuple[bytes, Any]] = []
        self.failed: list[Address] = []
        self.all = Transports(
            lambda data, source, kind: self.received.append((data, source)), self.failed.append, Names()
        )

    @property
    def port(self) -> int:
        return self.all.ports["tcp"]


@contextlib.asynccontextmanager
async def opened() -> AsyncIterator[Open]:
    one = Open()
    await one.all.open(HOST, 0)
    try:
        yield one
    finally:
        await one.all.aclose()


async def test_a_free_port_is_free_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    bound = Transports._bound

    def taken_twice(self: Transports, host: str, port: int) -> socket.socket:
        tried.append(port)
        if len(tried) < 3:
            raise OSError("taken")
        return bound(self, host, port)

    monkeypatch.setattr(Transports, "_bound", taken_twice)
    async with opened() as one:
        assert one.all.ports == {"udp": tried[2], "tcp": tried[2]}
    tried.clear()
    with pytest.raises(OSError, match="taken"):
        await Transports(lambda data, source, kind: None, lambda to: None, Names()).open(HOST, free_port())
    assert len(tried) == 1


@pytest.mark.parametrize("at", [len(OPTIONS) - 4, len(OPTIONS) - 2, 30])
async def test_a_request_may_be_cut_anywhere_also_into_what_looks_like_a_keep_alive(at: int) -> None:
    async with end() as desk:
        reader, writer = await asyncio.open_connection(HOST, desk.sip.ports["tcp"])
        for piece in (OPTIONS[:at], OPTIONS[at:]):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.05)
        async with asyncio.timeout(5):
            assert (await reader.readline()).startswith(b"SIP/2.0 200")
        writer.close()


async def test_a_keep_alive_is_answered() -> None:
    async with end() as desk:
        reader, writer = await asyncio.open_connection(HOST, desk.sip.ports["tcp"])
        writer.write(b"\r\n\r\n")
        async with asyncio.timeout(5):
            assert await reader.readexactly(2) == b"\r\n"
        writer.close()


async def test_a_connection_that_we_opened_by_a_name_is_found_again_and_forgotten_when_it_is_gone() -> None:
    async with opened() as one, opened() as other:
        to = Address("localhost", other.port, "tcp")
        for text in (b"A", b"B", b"C"):  # while it is being opened, too
            one.all.send(OPTIONS.replace(b"Call-ID: 1", b"Call-ID: " + text), to)
        await until(lambda: len(other.received) == 3)
        one.all.send(OPTIONS, to)
        await until(lambda: len(other.received) == 4)
        assert len({source for _, source in other.received}) == 1
        await other.all.aclose()
        await until(lambda: to in one.failed)
        assert len(one.all._connections) == 0
        assert not one.all._connections._all


async def test_one_address_has_so_many_connections_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_MAX_PER_ADDRESS", 3)
    async with opened() as one:
        writers = []
        for _ in range(3):
            _, writer = await asyncio.open_connection(HOST, one.port)
            writers.append(writer)
        await until(lambda: len(one.all._connections) == 3)
        reader, writer = await asyncio.open_connection(HOST, one.port)
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
        for each in (*writers, writer):
            each.close()
        await until(lambda: len(one.all._connections) == 0)


async def test_who_says_nothing_that_is_sip_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_SWEEP_S", 0.05)
    monkeypatch.setattr(connections, "_FIRST_MESSAGE_S", 0.3)
    async with opened() as one:
        mute, writer = await asyncio.open_connection(HOST, one.port)
        writer.write(b"\r\n\r\n")
        _, talking = await asyncio.open_connection(HOST, one.port)
        talking.write(OPTIONS)
        async with asyncio.timeout(5):
            assert await mute.read() == b""
        assert len(one.all._connections) == 1
        for each in (writer, talking):
            each.close()


async def test_who_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_MAX_UNSENT", 4096)
    async with opened() as one:
        reader, writer = await asyncio.open_connection(HOST, one.port)
        writer.write(OPTIONS)
        await until(lambda: one.received)
        host, port = one.received[0][1]
        to = Address(host, port, "tcp")
        for _ in range(200):
            one.all.send(bytes(65536), to)
            if len(one.all._connections) == 0:
                break
            await asyncio.sleep(0)
        await until(lambda: to in one.failed)
        del reader
        writer.close()


def test_a_datagram_for_another_family_fails_alone_under_uvloop() -> None:
    async def send() -> list[Address]:
        async with opened() as one:
            to = Address("2001:db8::1", 5060)
            one.all.send(b"hello", to)
            one.all.send(b"hello", Address(HOST, one.all.ports["udp"]))
            await until(lambda: one.failed and one.received)
            return one.failed

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(send()) == [Address("2001:db8::1", 5060)]
