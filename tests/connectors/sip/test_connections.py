"""SIP over TCP: how connections are cut, counted, closed and found again; datagrams that cannot be sent."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from fastagent.connectors.leg import HangupReason
from fastagent.connectors.sip import connections
from fastagent.connectors.sip.actions import Address
from fastagent.connectors.sip.names import Names, Service
from fastagent.connectors.sip.transports import Transports
from tests.support.process import free_port
from tests.support.sip_end import HOST, certificate, end, until

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
        await until(lambda: Address(HOST, other.port, "tcp") in one.failed)
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


# -- who may stay ------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def raw(port: int, count: int) -> AsyncIterator[list[socket.socket]]:
    """Connections that say nothing."""
    found = [socket.create_connection((HOST, port)) for _ in range(count)]
    try:
        yield found
    finally:
        for one in found:
            one.close()


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_handshake_that_never_begins_counts_and_ends(
    factory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_MAX_PER_ADDRESS", 5)
    monkeypatch.setattr(connections, "_HANDSHAKE_S", 0.5)

    async def hold() -> None:
        async with end(tls=certificate(tmp_path)) as desk:
            all_ = desk.sip._transports._connections
            async with raw(desk.sip.ports["tls"], 20):
                await until(lambda: len(all_) == 5)
                await until(lambda: len(all_) == 0)
            async with end(tls_ca=tmp_path / "server.pem") as phone:
                phone.dial(f"sip:agent@{HOST}:{desk.sip.ports['tls']};transport=tls")
                await phone.talk()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(hold())


async def test_where_all_places_are_taken_the_longest_silent_one_goes_but_never_a_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "_MAX_ACCEPTED", 3)
    async with end() as desk, end() as phone:
        phone.dial(f"sip:agent@{HOST}:{desk.sip.ports['tcp']};transport=tcp")
        talk, _ = await asyncio.gather(desk.talk(), phone.talk())
        all_ = desk.sip._transports._connections
        async with raw(desk.sip.ports["tcp"], 10):
            await until(lambda: len(all_) == 3)
            reader, writer = await asyncio.open_connection(HOST, desk.sip.ports["tcp"])
            writer.write(OPTIONS)
            async with asyncio.timeout(5):
                assert (await reader.readline()).startswith(b"SIP/2.0 200")
            writer.close()
            await talk.leg.hang_up(HangupReason.COMPLETED)
            mine = await phone.talk()
            await mine.over.wait()
            assert mine.ended == "caller_hung_up"


async def test_a_connection_of_our_own_has_a_place_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_MAX_ACCEPTED", 2)
    monkeypatch.setattr(connections, "_MAX_OPENED", 1)
    async with opened() as one, opened() as other, opened() as third, raw(one.port, 2):
        one.all.send(OPTIONS, Address(HOST, other.port, "tcp"))
        await until(lambda: other.received)
        one.all.send(OPTIONS, Address(HOST, third.port, "tcp"))
        await until(lambda: one.failed == [Address(HOST, third.port, "tcp")])


async def test_a_call_keeps_its_connection_and_is_ended_at_the_contact_when_that_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "_SWEEP_S", 0.05)
    monkeypatch.setattr(connections, "_IDLE_S", 0.3)
    async with end() as desk, end() as phone:
        phone.dial(f"sip:agent@{HOST}:{desk.sip.ports['tcp']};transport=tcp")
        theirs, mine = await asyncio.gather(desk.talk(), phone.talk())
        await asyncio.sleep(1.0)
        assert len(desk.sip._transports._connections) == 1
        for one in list(phone.sip._transports._connections._all.values()):
            one.abort()
        await until(lambda: len(desk.sip._transports._connections) == 0)
        await theirs.leg.hang_up(HangupReason.COMPLETED)
        await mine.over.wait()
        assert mine.ended == "caller_hung_up"


async def test_who_has_answered_keep_alives_and_does_no_longer_is_gone() -> None:
    async with opened() as one:
        answering = True

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(100):
                if answering and data.endswith(b"\r\n\r\n"):
                    writer.write(b"\r\n")
            writer.close()

        server = await asyncio.start_server(serve, HOST, 0)
        to = Address(HOST, server.sockets[0].getsockname()[1], "tcp")
        for _ in range(3):
            one.all.send(b"\r\n\r\n", to)
            await asyncio.sleep(0.1)
        answering = False
        one.all.send(b"\r\n\r\n", to)
        await asyncio.sleep(0.1)
        assert one.failed == []
        one.all.send(b"\r\n\r\n", to)
        await until(lambda: one.failed == [to])
        server.close()


async def test_handshakes_that_never_begin_shut_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_MAX_ACCEPTED", 3)
    async with end(tls=certificate(tmp_path)) as desk, raw(desk.sip.ports["tls"], 3):
        await until(lambda: len(desk.sip._transports._connections) == 3)
        for _ in range(3):
            reader, writer = await asyncio.open_connection(HOST, desk.sip.ports["tcp"])
            writer.write(OPTIONS)
            async with asyncio.timeout(3):
                assert (await reader.readline()).startswith(b"SIP/2.0 200")
            writer.close()


async def test_a_server_that_cannot_keeps_its_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async with end() as desk, end() as phone:
        desk.full = True
        for _ in range(5):
            phone.dial(f"sip:agent@localhost:{desk.sip.ports['tcp']};transport=tcp")
        await until(lambda: phone.progress == [("ended", "unreachable")] * 5)
        assert len(phone.sip._transports._connections) == 1


PBX = Address("pbx.test", 0, "tcp")


@contextlib.asynccontextmanager
async def leaving() -> AsyncIterator[tuple[Open, Open, Open]]:
    """Two servers of a name, and who has asked the first one and passes over it now."""
    async with opened() as first, opened() as second:

        async def lookup(name: str) -> list[Service]:
            return [Service(at, 0, one.port, "localhost") for at, one in enumerate((first, second))]

        one = Open()
        one.all = Transports(lambda data, source, kind: None, one.failed.append, Names(lookup=lookup))
        await one.all.open(HOST, 0)
        try:
            one.all.send(OPTIONS, PBX, key="a")
            await until(lambda: len(first.received) == 1)
            one.all.avoid(PBX, "a")
            yield one, first, second
        finally:
            await one.all.aclose()


async def test_a_connection_that_was_left_for_another_server_ends_after_what_was_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "_SWEEP_S", 0.05)
    monkeypatch.setattr(connections, "_LEFT_S", 0.3)
    async with leaving() as (one, first, second):
        one.all.send(OPTIONS, PBX, key="b")
        await until(lambda: len(second.received) == 1)
        one.all.send(OPTIONS, PBX, key="a")
        await until(lambda: len(first.received) == 2)
        one.all.avoid(PBX, "a")  # once more, of what was under way: the other one is not to blame
        one.all.send(OPTIONS, PBX, key="c")
        await until(lambda: len(second.received) == 2)
        assert len({source for _, source in second.received}) == 1
        await until(lambda: len(one.all._connections) == 1)
        assert PBX not in one.failed, "it has another connection"


async def test_a_connection_that_ends_after_it_was_left_takes_nothing_that_waits_for_the_next_with_it() -> None:
    async with leaving() as (one, _, second):
        (left,) = one.all._connections._opened
        one.all.send(OPTIONS, PBX, key="b")  # it waits for a connection
        left.abort()
        await until(lambda: len(second.received) == 1)
        assert PBX not in one.failed
