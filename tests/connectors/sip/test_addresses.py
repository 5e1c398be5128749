"""What phones are told of where we are, and where our datagrams go."""

import asyncio

import pytest

from fastagent.connectors.sip.actions import Address
from fastagent.connectors.sip.transports import Transports, is_address, own_address


def test_who_listens_everywhere_tells_an_address_of_this_machine() -> None:
    told = own_address("0.0.0.0")
    assert is_address(told)
    assert told != "0.0.0.0"
    assert own_address("127.0.0.1") == "127.0.0.1"


@pytest.mark.real
async def test_a_datagram_to_a_name_is_resolved_beside_the_loop() -> None:
    received: asyncio.Queue[bytes] = asyncio.Queue()
    failed: list[Address] = []
    one = Transports(lambda data, source, kind: received.put_nowait(data), failed.append)
    await one.open("127.0.0.1", 0)
    try:
        one.send(b"hello", Address("localhost", one.ports["udp"]))
        async with asyncio.timeout(10):
            assert await received.get() == b"hello"
        one.send(b"hello", Address("no host at all", 5060))
        async with asyncio.timeout(20):
            while not failed:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    finally:
        await one.aclose()
