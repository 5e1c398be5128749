"""A call that one server of a name cannot take, or does not answer, is tried at the next."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from fastagent.connectors.leg import HangupReason
from fastagent.connectors.sip import connections, registration
from fastagent.connectors.sip.actions import Address, CallAnswered, CallEnded, CallProgress, Unavailable
from fastagent.connectors.sip.config import Trunk
from fastagent.connectors.sip.digest import Credentials
from fastagent.connectors.sip.headers import NameAddr
from fastagent.connectors.sip.message import Message, Request, Response
from fastagent.connectors.sip.names import Lookup, Service
from fastagent.connectors.sip.outbound import destination
from fastagent.connectors.sip.registration import Registrar
from fastagent.connectors.sip.servers import NoNames
from fastagent.connectors.sip.uri import Uri
from tests.connectors.sip.rig import LOCAL, SDP, Rig, reply, request
from tests.support.sip_end import HOST, End, certificate, end, until

CALLER = NameAddr.parse("<sip:desk@192.0.2.1>")
HOP = Address("pbx.example", 0)
FIRST, SECOND = Address("203.0.113.6", 5060, "tcp"), Address("203.0.113.7", 5080, "tcp")
ANSWER = SDP.replace("RTP/AVP 0 8 101", "RTP/AVP 8 101")
CHALLENGE = 'WWW-Authenticate: Digest realm="pbx", nonce="n{}", algorithm=MD5, qop="auth"'


class Several(NoNames):
    """A name's servers: whether there is another, each time that it is asked, afterwards always; and who went where."""

    def __init__(self, *others: bool) -> None:
        self.others = list(others)
        self.places: dict[str, Address] = {}

    def where(self, to: Address, branch: str) -> Address:
        return self.places.get(branch, to)

    def has_another(self, to: Address, branch: str) -> bool:
        return self.others.pop(0) if self.others else True


def calling(*others: bool, hop: Address = HOP, **changes: Any) -> tuple[Rig, str, Request]:
    rig = Rig(servers=Several(*others))
    call, _, actions = rig.ua.call(destination("sip:bob@pbx.example", CALLER, hop, **changes), LOCAL, rig.now)
    return rig, call, only(rig.take(actions))


def went(rig: Rig, asked: Request, place: Address) -> None:
    """The shell has sent it there."""
    assert isinstance(rig.servers, Several)
    rig.servers.places[asked.via.branch] = place


def only(messages: list[Message]) -> Request:
    (one,) = messages
    assert isinstance(one, Request)
    return one


def moved(rig: Rig, asked: Request, **more: Any) -> Request:
    """The server says 503: its ACK, and the INVITE to the next one."""
    ack, again = rig.send(reply(asked, 503, **more))
    assert isinstance(ack, Request)
    assert isinstance(again, Request)
    assert (ack.method, again.method) == ("ACK", "INVITE")
    return again


def provisional(asked: Request, tag: str, number: int = 1, body: str = ANSWER) -> bytes:
    return reply(asked, 183, tag=tag, body=body, extra=f"Require: 100rel\nRSeq: {number}")


def update(asked: Request, tag: str) -> bytes:
    body = ANSWER.replace("audio 4000", "audio 4444")
    return request("UPDATE", 7, branch=tag, call_id=asked.call_id, to_tag=asked.from_.tag, from_tag=tag, body=body)


# -- the core ----------------------------------------------------------------------------------------------------------


def test_the_next_invite_differs_in_its_branch_only_and_the_last_refusal_counts() -> None:
    rig, call, asked = calling(True, True, False)
    second = moved(rig, asked)
    assert second.via.branch != asked.via.branch
    assert bytes(second).replace(second.via.branch.encode(), asked.via.branch.encode()) == bytes(asked)
    assert rig.sent[-1].key == second.via.branch
    silent = [one for _, one in rig.wait(32.1)]
    assert [one.cseq for one in silent] == [asked.cseq] * 7
    third = silent[-1]
    assert isinstance(third, Request)
    assert rig.events == [Unavailable(HOP, one.via.branch) for one in (asked, second)], "the call goes on"
    rig.send(reply(third, 503))
    assert rig.event(CallEnded) == CallEnded(call, "refused", 503, "Whatever")


def test_a_name_whose_servers_all_refuse_is_given_up() -> None:
    rig, _, asked = calling()
    for _ in range(4):
        asked = moved(rig, asked)
    assert only(rig.send(reply(asked, 503))).method == "ACK"
    assert rig.event(CallEnded).reason == "refused"


def test_another_server_has_challenges_of_its_own() -> None:
    rig, _, asked = calling(credentials=Credentials("100", "secret"))
    for number in (1, 2):
        _, again = rig.send(reply(asked, 401, extra=CHALLENGE.format(number)))
        assert isinstance(again, Request)
        asked = again
    asked = moved(rig, asked)
    assert 'nonce="n2"' in (asked.headers.get("authorization") or "")
    assert asked.cseq.number == 3
    _, asked_again = rig.send(reply(asked, 401, extra=CHALLENGE.format(3)))
    assert isinstance(asked_again, Request)
    assert 'nonce="n3"' in (asked_again.headers.get("authorization") or "")
    assert asked_again.cseq.number == 4
    rig.send(reply(asked_again, 200, body=ANSWER))
    assert rig.has(CallAnswered)


def test_a_call_taken_back_is_not_tried_again_and_no_cancel_goes_before_the_servers_first_word() -> None:
    rig, call, asked = calling()
    rig.take(rig.ua.hang_up(call, rig.now))
    assert only(rig.send(reply(asked, 503))).method == "ACK"
    assert rig.event(CallEnded).reason == "local"
    rig, call, asked = calling()
    rig.send(reply(asked, 100))
    asked = moved(rig, asked)
    assert rig.take(rig.ua.hang_up(call, rig.now)) == []
    cancel = only(rig.send(reply(asked, 100)))
    assert (cancel.method, cancel.via.branch) == ("CANCEL", asked.via.branch)


@pytest.mark.parametrize("status", [100, 180])
def test_a_server_that_was_heard_and_is_lost_may_have_it_ring(status: int) -> None:
    rig, _, asked = calling()
    rig.send(reply(asked, status))
    assert rig.take(rig.ua.transport_failed(HOP, rig.now)) == []
    assert rig.event(CallEnded).reason == "transport"


def test_what_rang_at_one_server_does_not_ring_at_the_next() -> None:
    rig, _, asked = calling()
    rig.send(reply(asked, 180))
    asked = moved(rig, asked)
    third = rig.wait(32.1)[-1][1]
    assert isinstance(third, Request)
    assert third.via.branch != asked.via.branch
    rig.send(reply(third, 180))
    assert len([one for one in rig.events if isinstance(one, CallProgress)]) == 2
    assert not rig.has(CallEnded)


def test_it_may_ring_as_long_at_every_server() -> None:
    rig, _, _ = calling(ring_s=40.0)
    third = rig.wait(32.1)[-1][1]
    assert isinstance(third, Request)
    rig.send(reply(third, 180))
    rig.wait(39.8)
    assert not rig.has(CallEnded)
    assert only([one for _, one in rig.wait(0.2)]).method == "CANCEL"
    rig, _, _ = calling(ring_s=30.0)
    rig.wait(100)
    assert rig.event(CallEnded).reason == "no_answer"


def test_early_dialogs_of_a_server_that_refused_are_no_more() -> None:
    rig, _, asked = calling()
    for number in range(8):
        rig.send(provisional(asked, f"old{number}"))
    asked = moved(rig, asked, tag="old0")
    assert only(rig.send(provisional(asked, "new"))).method == "PRACK"
    assert rig.status(update(asked, "old1")) == 481
    assert rig.status(update(asked, "new")) == 200
    rig.send(reply(asked, 200, tag="new", body=ANSWER))
    assert rig.event(CallAnswered).media.remote[1] == 4444


def test_media_that_an_early_dialog_has_changed_is_as_it_was() -> None:
    rig, _, asked = calling()
    rig.send(provisional(asked, "old"))
    assert rig.status(update(asked, "old")) == 200
    asked = moved(rig, asked, tag="old")
    rig.send(reply(asked, 200, tag="new", body=ANSWER.replace("audio 4000", "audio 5000")))
    assert rig.event(CallAnswered).media.remote[1] == 5000


def test_the_dialog_is_with_the_server_that_answered() -> None:
    rig, call, asked = calling()
    asked = moved(rig, asked)
    second = Address("203.0.113.7", 5080)
    went(rig, asked, second)
    rig.source = (second.host, 41234)  # an answer may be sent from any port
    ack = only(rig.send(reply(asked, 200, body=ANSWER)))
    assert ack.method == "ACK"
    rig.take(rig.ua.hang_up(call, rig.now))
    assert [one.to for one in rig.sent[-2:]] == [second] * 2


@pytest.mark.parametrize("transport", ["tcp", "tls"])
def test_a_dialog_lives_on_its_servers_connection_and_goes_to_the_name_when_that_is_gone(transport: Any) -> None:
    name, place = Address("pbx.example", 0, transport), Address("203.0.113.7", 5061, transport)
    rig, call, asked = calling(hop=name)
    rig.transport = transport
    went(rig, asked, place)
    contact = "Contact: <sip:bob@pbx.example>"
    rig.send(reply(asked, 200, body=ANSWER, extra=contact))
    assert rig.sent[-1].to == place
    assert rig.ua.places() == {name, place}
    rig.take(rig.ua.transport_failed(name, rig.now))
    rig.take(rig.ua.change_media(call, rig.now, hold=True))
    assert rig.sent[-1].to == place, "another server's trouble"
    rig.source = (place.host, place.port)
    routed = request(
        "UPDATE", 9, call_id=asked.call_id, from_tag="callee", to_tag=asked.from_.tag,
        extra="Via: SIP/2.0/TCP 198.51.100.1;branch=z9hG4bKinner",
    )  # fmt: skip
    assert rig.status(routed) == 200
    rig.take(rig.ua.transfer(call, "sip:carol@pbx.example", rig.now))
    assert (rig.sent[-1].to, b"REFER" in rig.sent[-1].data) == (place, True)
    rig.take(rig.ua.transport_failed(place, rig.now))
    rig.take(rig.ua.hang_up(call, rig.now))
    assert rig.sent[-1].to == name


def test_a_connection_that_ends_takes_with_it_what_went_over_it_and_no_more() -> None:
    rig, call, asked = calling(hop=Address("pbx.example", 0, "tcp"))
    went(rig, asked, FIRST)
    rig.send(reply(asked, 180))
    rig.take(rig.ua.transport_failed(SECOND, rig.now))
    assert not rig.has(CallEnded)
    rig.take(rig.ua.transport_failed(FIRST, rig.now))
    assert rig.event(CallEnded) == CallEnded(call, "transport", 408)


def test_we_are_registered_at_a_server_and_live_on_its_connection() -> None:
    rig = Rig(servers=Several())
    registrar = Registrar("pbx.example", Credentials("100", "secret"), Address("pbx.example", 0, "tcp"))
    _, actions = rig.ua.register(registrar, rig.now)
    asked = only(rig.take(actions))
    assert rig.ua.places() == {registrar.hop}
    went(rig, asked, FIRST)
    rig.send(reply(asked, 200))
    assert rig.ua.places() == {FIRST}
    rig.wait(25.0)
    assert (rig.sent[-1].data, rig.sent[-1].to) == (b"\r\n\r\n", FIRST)
    rig.take(rig.ua.transport_failed(SECOND, rig.now))
    assert {one.to for one in rig.sent if one.data.startswith(b"REGISTER")} == {registrar.hop}
    rig.take(rig.ua.transport_failed(FIRST, rig.now))
    _, again = rig.next(6)
    assert again.method == "REGISTER"
    assert rig.sent[-1].to == registrar.hop


# -- over sockets ------------------------------------------------------------------------------------------------------


def at(*ports: int) -> Lookup:
    async def lookup(name: str) -> list[Service]:
        return [Service(10 * place, 0, port, HOST) for place, port in enumerate(ports)]

    return lookup


def trunk(transport: str, **more: Any) -> Trunk:
    return Trunk(Uri.parse(f"sip:pbx.test;transport={transport}"), **more)


def is_full(server: End) -> list[str]:
    """Have it refuse calls; return what is filled with a word for each."""
    asked: list[str] = []
    server.reserve = asked.append  # type: ignore[method-assign,assignment]
    return asked


@pytest.mark.real
@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("calls", [1, 3])
async def test_calls_that_one_server_cannot_take_go_to_the_next_and_so_do_those_after(
    transport: str, calls: int
) -> None:
    async with end() as first, end() as second:
        asked = is_full(first)
        lookup = at(first.sip.ports["udp"], second.sip.ports["udp"])
        async with end(trunk=trunk(transport), lookup=lookup) as caller:
            for number in range(calls):
                caller.dial(f"+1555010000{number}")
            await caller.talk(calls - 1)
            assert len(asked) == calls
            caller.dial("+15550100009")
            mine = await caller.talk(calls)
            assert len(asked) == calls
            assert caller.progress == [("answered", None)] * (calls + 1)
            await mine.leg.hang_up(HangupReason.COMPLETED)
            await until(lambda: sum(talk.over.is_set() for talk in second.talks) == 1)


@pytest.mark.real
async def test_a_probe_and_a_call_that_find_out_together_do_not_bar_the_server_that_is_well() -> None:
    async with end() as first, end() as second:
        asked = is_full(first)
        first.taking = False
        lookup = at(first.sip.ports["udp"], second.sip.ports["udp"])
        async with end(trunk=trunk("udp", probe_s=0.1), lookup=lookup) as caller:
            caller.dial("+15550100001")
            await until(lambda: True in caller.probed)
            await second.talk()
            assert len(asked) <= 1
            await until(lambda: caller.probed[-2:] == [True, True])
            assert caller.sip.weaknesses == []


@asynccontextmanager
async def refusing_and_closing() -> AsyncIterator[int]:
    """A server of TCP that says 503 and hangs up; its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from fastagent.connectors.sip.message import parse
        from fastagent.connectors.sip.requests import response_to

        asked = parse(await reader.readuntil(b"\r\n\r\n"))
        assert isinstance(asked, Request)
        refusal: Response = response_to(asked, 503, "x")
        writer.write(bytes(refusal))
        writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.real
async def test_a_connection_that_closes_behind_a_refusal_takes_nothing_with_it() -> None:
    async with refusing_and_closing() as port, end() as second:
        lookup = at(port, second.sip.ports["tcp"])
        async with end(trunk=trunk("tcp"), lookup=lookup) as caller:
            caller.dial("+15550100001")
            mine, theirs = await asyncio.gather(caller.talk(), second.talk())
            assert caller.progress == [("answered", None)]
            await mine.leg.hang_up(HangupReason.COMPLETED)
            await theirs.over.wait()


@pytest.mark.real
@pytest.mark.parametrize("transport", ["udp", "tcp", "tls"])
async def test_calls_that_a_server_has_stay_with_it_when_the_name_moves_on(
    transport: Literal["udp", "tcp", "tls"], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = certificate(tmp_path) if transport == "tls" else None
    monkeypatch.setattr(connections, "_SWEEP_S", 0.05)
    monkeypatch.setattr(connections, "_LEFT_S", 0.2)
    async with end(ring_s=1.0, tls=files) as first, end(tls=files) as second:
        lookup = at(first.sip.ports[transport], second.sip.ports[transport])
        there = trunk(transport)
        async with end(trunk=there, lookup=lookup, tls_ca=files and files.certificate) as caller:
            caller.dial("+15550100001")
            mine, theirs = await asyncio.gather(caller.talk(), first.talk())
            caller.dial("+15550100002")
            await until(lambda: len(first.sip._calls) == 2)
            is_full(first)
            caller.dial("+15550100003")
            await second.talk()
            await first.talk(1)  # it rang while the name moved on, and was answered
            await until(lambda: all(call.confirmed.is_set() for call in first.sip._calls.values()))
            await mine.leg.hang_up(HangupReason.COMPLETED)
            await theirs.over.wait()
            assert second.sip.agent.refused == {}


@pytest.mark.real
async def test_a_server_that_is_left_is_the_one_that_refused_whichever_is_preferred_by_now() -> None:
    async with end() as first, end() as second:
        full = is_full(first)
        lookup = at(first.sip.ports["udp"], second.sip.ports["udp"])
        async with end(trunk=trunk("tcp"), lookup=lookup) as caller:
            caller.dial("+15550100001")
            await second.talk()
            (known,) = (one for one in caller.sip._names._known.values() if one.avoided)
            known.avoided.clear()  # ten minutes later; the connection is still the second's
            known.choose(0.0)
            del first.reserve
            is_full(second)
            caller.dial("+15550100002")
            await first.talk()
            assert len(full) == 1


@pytest.mark.real
async def test_a_server_that_the_dns_does_not_name_any_more_is_left_when_it_refuses() -> None:
    async with end() as first, end() as second:
        ports = [first.sip.ports["tcp"]]

        async def lookup(name: str) -> list[Service]:
            return [Service(0, 0, port, HOST) for port in ports]

        async with end(trunk=trunk("tcp"), lookup=lookup) as caller:
            caller.dial("+15550100001")
            await first.talk()
            ((to, known),) = caller.sip._names._known.items()
            ports[:] = [second.sip.ports["tcp"]]
            known.until = 0.0
            await caller.sip._names.find(to)
            is_full(first)
            caller.dial("+15550100002")
            await second.talk()


@pytest.mark.real
async def test_a_registration_lives_on_when_the_name_moves_on_and_is_made_anew_when_its_server_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "_SWEEP_S", 0.05)
    monkeypatch.setattr(connections, "_LEFT_S", 0.2)
    monkeypatch.setattr(registration, "_RECONNECT_S", 0.2)
    async with end() as first, end() as second:
        lookup = at(first.sip.ports["udp"], second.sip.ports["udp"])
        there = trunk("tcp", user="ann", password="secret", register=True)
        async with end(trunk=there, lookup=lookup) as caller:
            await until(lambda: caller.registered == [True])
            is_full(first)
            caller.dial("+15550100001")
            mine = await caller.talk()
            await asyncio.sleep(0.5)
            assert len(first.sip._transports._connections) == 1, "what it was registered over"
            await first.sip._transports._connections.aclose()
            await until(lambda: caller.registered == [True, True])
            assert len(second.sip._transports._connections) == 1
            await mine.leg.hang_up(HangupReason.COMPLETED)
        assert caller.registered == [True, True, False]
