"""Whether a peer is there."""

from fastagent.connectors.sip.actions import Address, PeerProbed, Unavailable
from fastagent.connectors.sip.message import Request
from fastagent.connectors.sip.uri import Uri
from tests.connectors.sip.rig import Rig, reply
from tests.support.sip_end import end, trunk_to, until

HOP = Address("127.0.0.1", 5070)
URI = Uri.parse("sip:pbx.example")


def probing(hop: Address = HOP) -> tuple[Rig, str, Request]:
    rig = Rig()
    probe, actions = rig.ua.probe(URI, hop, 60.0, rig.now)
    (asked,) = rig.take(actions)
    assert isinstance(asked, Request)
    return rig, probe, asked


def test_asking_to_the_letter() -> None:
    rig, probe, asked = probing()
    assert (asked.method, asked.uri, asked.headers.get("to")) == ("OPTIONS", "sip:pbx.example", "<sip:pbx.example>")
    assert (asked.headers.get("contact"), asked.cseq.number) == ("<sip:agent@192.0.2.1:5060>", 1)
    assert asked.headers.get("accept") == "application/sdp"
    assert rig.ua.places() == {HOP}
    assert rig.send(reply(asked, 100)) == []
    assert rig.events == []
    assert rig.send(reply(asked, 200)) == []
    assert rig.event(PeerProbed) == PeerProbed(probe, 200)
    at, again = rig.next(100)
    assert (at, again.call_id, again.from_.tag, again.cseq.number) == (60.0, asked.call_id, asked.from_.tag, 2)
    assert again.via.branch != asked.via.branch


def test_any_answer_is_one_and_a_busy_server_is_asked_again_soon() -> None:
    for status, ok in ((404, True), (401, True), (405, True), (500, True), (503, False), (408, False), (504, False)):
        rig, probe, asked = probing()
        rig.send(reply(asked, status))
        event = rig.event(PeerProbed)
        assert (event, event.ok) == (PeerProbed(probe, status), ok)
        assert rig.next(100)[0] == (60.0 if ok else 10.0)
        assert rig.has(Unavailable) is not ok


def test_silence_and_a_connection_that_breaks() -> None:
    rig, probe, _ = probing()
    assert {one.cseq.number for _, one in rig.wait(32.0)} == {1}
    assert rig.event(PeerProbed) == PeerProbed(probe, 0)
    assert rig.next(11)[0] == 10.0
    there = Address("127.0.0.1", 5070, "tcp")
    rig, probe, _ = probing(there)
    rig.take(rig.ua.transport_failed(there, rig.now))
    assert rig.event(PeerProbed) == PeerProbed(probe, 0)


def test_a_secure_trunk_is_asked_by_a_secure_address() -> None:
    rig = Rig()
    _, actions = rig.ua.probe(Uri.parse("sips:pbx.example"), Address("pbx.example", 0, "tls"), 60.0, rig.now)
    (asked,) = rig.take(actions)
    assert isinstance(asked, Request)
    assert asked.headers.get("contact") == "<sips:agent@192.0.2.1:5061>"


def test_who_is_not_asked_any_more_leaves_nothing_behind() -> None:
    rig, probe, asked = probing()
    rig.ua.stop_probe(probe)
    rig.ua.stop_probe(probe)
    assert (rig.ua.unanswered, rig.ua.transactions, rig.ua.next_timeout(), rig.ua.places()) == (0, 0, None, set())
    rig, probe, asked = probing()
    rig.send(reply(asked, 200))
    rig.ua.stop_probe(probe)
    assert rig.wait(200) == []


async def test_the_operator_is_told_of_a_trunk_that_goes_and_comes_back() -> None:
    async with end() as desk, end(trunk=trunk_to(desk, register=False, user="", probe_s=0.1)) as pbx:
        told = pbx.probed
        await until(lambda: told[-2:] == [True, True])
        assert pbx.sip.weaknesses == []
        desk.taking = False  # it drains
        await until(lambda: told[-1:] == [False])
        assert pbx.sip.weaknesses == ["the SIP trunk does not answer, or takes no calls"]
        desk.taking = True
        await until(lambda: told[-1:] == [True])
        assert pbx.sip.weaknesses == []
