"""Datagrams to names."""

import pytest

from fastagent.connectors.sip.actions import Address
from fastagent.connectors.sip.names import Names
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
