"""Datagrams to names."""

import pytest

from fastagent.connectors.sip.actions import Address
from fastagent.connectors.sip.names import Names, Service
from fastagent.connectors.sip.transports import Transports
from tests.support.sip_end import until

pytestmark = pytest.mark.real


async def test_a_datagram_to_a_name_is_resolved_beside_the_loop() -> None:
    received: list[bytes] = []
    failed: list[Address] = []
    one = Transports(lambda data, source, kind: received.append(data), failed.append, Names())
    await one.open("127.0.0.1", 0)
    try:
        there = Address("localhost", one.ports["udp"])
        for data in (b"first", b"second", b"first"):
            one.send(data, there)
        await until(lambda: received == [b"first", b"second"])
        one.send(b"first", there)
        await until(lambda: received[2:] == [b"first"])
        one.send(b"hello", Address("no host at all", 5060))
        await until(lambda: failed, 20)
    finally:
        await one.aclose()


async def test_a_datagram_that_the_system_does_not_take_is_its_places_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    failed: list[Address] = []

    async def lookup(name: str) -> list[Service]:
        return [Service(0, 0, 5060, "192.0.2.1")]

    def refuse(*given: object) -> None:  # as uvloop does
        raise ValueError("another family")

    one = Transports(lambda data, source, kind: None, failed.append, Names(lookup=lookup))
    await one.open("127.0.0.1", 0)
    try:
        assert one._datagrams is not None
        monkeypatch.setattr(one._datagrams, "sendto", refuse)
        for _ in range(2):
            one.send(b"hello", Address("pbx.test", 0), key="b1")
            await until(lambda: failed)
            assert failed.pop() == Address("192.0.2.1", 5060)
    finally:
        await one.aclose()
