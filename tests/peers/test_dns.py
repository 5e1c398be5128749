"""A trunk whose servers the DNS names (dnsmasq, Kamailio): the first does not answer, and a spare one is there."""

import asyncio
import socket
from pathlib import Path

import pytest

from fastagent.connectors.sip.config import Trunk
from fastagent.connectors.sip.names import Service
from fastagent.connectors.sip.uri import Uri
from tests.support.dns_server import dns_server
from tests.support.kamailio import PASSWORD, USER, pbx
from tests.support.process import free_port
from tests.support.sip_end import end, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]


def trunk(transport: str) -> Trunk:
    uri = Uri.parse(f"sip:pbx.test;transport={transport}")
    return Trunk(uri, user=USER, password=PASSWORD, register=True)


async def test_services_are_what_the_dns_says() -> None:
    async with dns_server(["_sip._udp.pbx.test,one.pbx.test,5080,10,60", "_sip._tcp.pbx.test"]) as lookup:
        assert await lookup("_sip._udp.pbx.test") == [Service(10, 60, 5080, "one.pbx.test")]
        assert await lookup("_sip._tcp.pbx.test") == [Service(0, 0, 1, "")], "the service is not offered"
        assert await lookup("_sips._tcp.pbx.test") == []
        assert await lookup("_sip._udp." + 64 * "x" + ".test") == []


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_a_trunk_is_found_by_its_domain(tmp_path: Path, transport: str) -> None:
    port = free_port()
    record = f"_sip._{transport}.pbx.test,localhost,{port},10,60"
    async with pbx(tmp_path, port=port, algorithm="SHA-256"), dns_server([record]) as lookup:
        async with end(trunk=trunk(transport), lookup=lookup) as desk:
            await until(lambda: desk.registered == [True])
            desk.dial("999")
            await until(lambda: desk.progress)
            assert desk.progress == [("ended", "not_found")], "the PBX knows nobody of that number, and us"
        assert desk.registered == [True, False]


async def test_a_server_that_refuses_a_connection_is_passed_over_at_once(tmp_path: Path) -> None:
    dead, port = free_port(), free_port()
    records = [f"_sip._tcp.pbx.test,localhost,{dead},10,60", f"_sip._tcp.pbx.test,localhost,{port},20,60"]
    async with (
        pbx(tmp_path, port=port, algorithm="SHA-256"),
        dns_server(records) as lookup,
        end(trunk=trunk("tcp"), lookup=lookup) as desk,
    ):
        await until(lambda: desk.registered == [True])


async def test_a_server_that_says_nothing_is_passed_over_at_the_next_try(tmp_path: Path) -> None:
    port = free_port()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        mute.bind(("127.0.0.1", 0))
        records = [f"_sip._udp.pbx.test,localhost,{mute.getsockname()[1]},10,60"]
        records += [f"_sip._udp.pbx.test,localhost,{port},20,60"]
        async with (
            pbx(tmp_path, port=port, algorithm="MD5"),
            dns_server(records) as lookup,
            end(trunk=trunk("udp"), lookup=lookup) as desk,
        ):
            await asyncio.sleep(0.5)
            assert desk.registered == []
            ahead = asyncio.get_running_loop().time() + 40
            desk.sip.perform(desk.sip.agent.handle_timeout(ahead))  # no answer came in 32 s
            assert desk.registered == [False]
            desk.sip.perform(desk.sip.agent.handle_timeout(ahead + 40))  # the retry is due
            await until(lambda: desk.registered == [False, True])
