"""Which server of a name is asked, and which one after it."""

import asyncio

import pytest

from fastagent.connectors.sip.actions import Address, Transport
from fastagent.connectors.sip.names import KEEP_S, Names, Place, Service, ordered, own_address
from fastagent.connectors.sip.uri import is_numeric


def test_who_listens_everywhere_tells_an_address_of_this_machine() -> None:
    told = own_address("0.0.0.0")
    assert is_numeric(told)
    assert told != "0.0.0.0"
    assert own_address("127.0.0.1") == "127.0.0.1"


class Dns:
    """SRV records that a test may change, and the questions that were asked."""

    def __init__(self, *records: Service) -> None:
        self.records = list(records)
        self.asked: list[str] = []

    async def __call__(self, name: str) -> list[Service]:
        self.asked.append(name)
        await asyncio.sleep(0)
        return self.records


def server(last: int, priority: int = 10, port: int = 5080, weight: int = 0) -> Service:
    return Service(priority, weight, port, f"192.0.2.{last}")


def place(last: int, priority: int = 10, port: int = 5080) -> Place:
    return Place(f"192.0.2.{last}", port, priority)


def test_records_are_tried_by_priority_and_within_one_by_weight() -> None:
    found = [server(1, 20), server(2, weight=90), server(3, weight=10)]
    first = [ordered(found)[0].target for _ in range(2000)]
    assert set(first) == {"192.0.2.2", "192.0.2.3"}
    assert 0.85 < first.count("192.0.2.2") / 2000 < 0.95
    assert all(ordered(found)[2].priority == 20 for _ in range(50))


async def test_the_service_asked_for_is_that_of_the_transport() -> None:
    dns = Dns(server(1))
    names = Names(lookup=dns)
    kinds: tuple[Transport, ...] = ("udp", "tcp", "tls")
    for kind in kinds:
        assert await names.find(Address("pbx.example", 0, kind)) == [place(1)]
    assert dns.asked == ["_sip._udp.pbx.example", "_sip._tcp.pbx.example", "_sips._tcp.pbx.example"]


async def test_a_port_an_address_and_a_name_without_a_domain_need_no_service() -> None:
    dns = Dns(server(1))
    names = Names(lookup=dns)
    assert await names.find(Address("localhost", 5070)) == [Place("127.0.0.1", 5070)]
    assert await names.find(Address("localhost", 0, "tls")) == [Place("127.0.0.1", 5061)]
    assert await names.find(Address("192.0.2.7", 5062, "tcp")) == [Place("192.0.2.7", 5062)]
    assert names.at_once(Address("192.0.2.7", 0)) == Place("192.0.2.7", 5060)
    assert dns.asked == []


async def test_a_name_is_asked_for_once_a_minute_and_keeps_its_server() -> None:
    dns = Dns(*(server(number) for number in range(1, 9)))
    names, to = Names(lookup=dns), Address("pbx.example", 0)
    assert names.at_once(to) is None
    first, *others = await names.find(to)
    assert len({first, *others}) == 8
    for _ in range(20):
        assert (await names.find(to))[0] == first
        assert names.at_once(to) == first
        await asyncio.sleep(KEEP_S / 10)
    assert len(dns.asked) == 2


async def test_two_that_ask_at_once_are_told_the_same() -> None:
    names, to = Names(lookup=Dns(*(server(number) for number in range(1, 9)))), Address("pbx.example", 0)
    first, second = await asyncio.gather(names.find(to), names.find(to))
    assert first[0] == second[0]


async def test_a_server_that_does_not_answer_is_passed_over_and_comes_back() -> None:
    names, to = Names(lookup=Dns(server(1), server(2, 20), server(3, 30))), Address("pbx.example", 0)
    await names.find(to)
    assert names.has_another(to, "")
    names.avoid(to)
    assert names.at_once(to) == place(2, 20)
    assert names.has_another(to, "")
    names.avoid(to, place(2, 20))
    assert names.at_once(to) == place(3, 30)
    assert not names.has_another(to, "")
    assert not names.has_another(Address("192.0.2.1", 5060), "")
    names.avoid(to)  # all of them: the best is as good as any
    assert names.at_once(to) == place(1)
    names.avoid(to, place(1))
    await asyncio.sleep(601)
    assert (await names.find(to))[0] == place(1)


async def test_what_the_dns_does_not_say_any_more_stays_and_what_it_says_otherwise_counts() -> None:
    dns, to = Dns(server(1)), Address("no-such-host.invalid", 0)
    names = Names(lookup=dns)
    await names.find(to)
    dns.records = []
    await asyncio.sleep(KEEP_S + 1)
    assert await names.find(to) == [place(1)], "the name has no address of its own either"
    dns.records = [server(2)]
    await asyncio.sleep(KEEP_S + 1)
    assert await names.find(to) == [place(2)]


async def test_a_name_that_never_was_is_an_error_and_so_is_a_service_that_is_none() -> None:
    with pytest.raises(OSError, match=r"."):
        await Names(lookup=Dns()).find(Address("no-such-host.invalid", 0))
    with pytest.raises(OSError, match=r"none of the servers of pbx\.example"):
        await Names(lookup=Dns(Service(0, 0, 0, ""))).find(Address("pbx.example", 0))


async def test_what_is_known_is_bounded() -> None:
    names = Names(lookup=Dns(server(1)))
    for number in range(300):
        await names.find(Address(f"{number}.example", 0))
    assert names.at_once(Address("0.example", 0)) is None
    assert names.at_once(Address("299.example", 0)) == place(1)


async def test_two_records_of_one_address_are_one_server() -> None:
    names, to = Names(lookup=Dns(server(1), server(1, 20), server(2, 30))), Address("pbx.example", 0)
    assert await names.find(to) == [place(1), place(2, 30)]
    names.pin("b1", place(1))
    assert names.has_another(to, "b1")
    assert names.avoid(to, place(1)) == place(2, 30)
    names.pin("b2", place(2, 30))
    assert not names.has_another(to, "b2")
    assert names.where(to, "b2") == Address(place(2).host, place(2).port)
    assert names.where(to, "b3") == to
