"""Calls by us."""

from typing import Any

import pytest

from fastagent.connectors.sip.actions import Address, CallAnswered, CallEnded, CallProgress, Unavailable
from fastagent.connectors.sip.digest import Credentials
from fastagent.connectors.sip.headers import NameAddr
from fastagent.connectors.sip.media import PCMA
from fastagent.connectors.sip.message import Request
from fastagent.connectors.sip.outbound import destination
from tests.connectors.sip.rig import LOCAL, SDP, Rig, changed, reply, request

CALLER = NameAddr.parse('"Desk" <sip:desk@192.0.2.1>')
HOP = Address("127.0.0.1", 5070)
ANSWER = SDP.replace("RTP/AVP 0 8 101", "RTP/AVP 8 101")


def calling(rig: Rig | None = None, **changes: Any) -> tuple[Rig, str, Request]:
    rig = rig or Rig()
    call, _, actions = rig.ua.call(destination("sip:bob@phone.example", CALLER, HOP, **changes), LOCAL, rig.now)
    (asked,) = rig.take(actions)
    assert isinstance(asked, Request)
    return rig, call, asked


def methods(messages: list[Any]) -> list[str]:
    return [one.method for one in messages]


def test_an_invite_to_the_letter() -> None:
    rig, call, asked = calling(items=(("X-Ref", "7"),))
    assert str(rig.sent[0].to) == "udp:127.0.0.1:5070"
    assert asked.uri == "sip:bob@phone.example"
    assert asked.headers.get("from") == f'"Desk" <sip:desk@192.0.2.1>;tag={call}'
    assert asked.headers.get("to") == "<sip:bob@phone.example>"
    assert asked.headers.get("contact") == "<sip:agent@192.0.2.1:5060>"
    assert asked.headers.get("x-ref") == "7"
    assert asked.cseq.number == 1
    assert asked.via.branch.startswith("z9hG4bK")
    assert b"m=audio 10000 RTP/AVP 0 8 101\r\n" in asked.body


def test_a_call_that_is_answered() -> None:
    rig, call, asked = calling()
    assert rig.send(reply(asked, 100)) == []
    assert rig.send(reply(asked, 180)) == []
    assert rig.event(CallProgress) == CallProgress(call, 180)
    ok = reply(asked, 200, body=ANSWER, extra="Record-Route: <sip:p1.example;lr>, <sip:p2.example;lr>")
    (ack,) = rig.send(ok)
    assert isinstance(ack, Request)
    assert (ack.method, ack.cseq.number, ack.uri) == ("ACK", 1, "sip:bob@127.0.0.1:5070")
    assert ack.via.branch != asked.via.branch
    assert ack.headers.get_all("route") == ["<sip:p2.example;lr>", "<sip:p1.example;lr>"]
    assert rig.sent[-1].to.host == "p2.example"
    assert rig.event(CallAnswered).media.codec == PCMA
    assert rig.send(ok) == [ack]  # a repeated 200 gets the same ACK again
    rig.event(CallAnswered)
    assert rig.wait(100) == []
    assert methods(rig.take(rig.ua.hang_up(call, rig.now))) == ["BYE"]


def test_a_peer_hangs_up() -> None:
    rig, _, asked = calling()
    rig.send(reply(asked, 200, body=ANSWER))
    to = f'"Desk" <sip:desk@192.0.2.1>;tag={asked.from_.tag}'
    bye = request("BYE", 1, call_id=asked.call_id, from_tag="callee", to_tag=asked.from_.tag)
    assert to
    assert rig.status(bye) == 200
    assert rig.event(CallEnded).reason == "hung_up"


def test_an_invite_is_repeated_and_given_up() -> None:
    rig, _, _ = calling()
    assert [at for at, _ in rig.wait(40)] == [0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
    assert (rig.event(CallEnded).reason, rig.ua.calls, rig.ua.transactions) == ("timeout", 0, 0)


def test_a_refusal_is_acknowledged_each_time() -> None:
    rig, _, asked = calling()
    busy = reply(asked, 486)
    (ack,) = rig.send(busy)
    assert isinstance(ack, Request)
    assert (ack.method, ack.via.branch, ack.to.tag, ack.uri) == ("ACK", asked.via.branch, "callee", asked.uri)
    assert rig.send(busy) == [ack]
    assert (rig.event(CallEnded).reason, rig.event(CallEnded).status) == ("refused", 486)


def test_a_fork_is_acknowledged_and_hung_up() -> None:
    rig, _, asked = calling()
    rig.send(reply(asked, 180, tag="one"))
    rig.send(reply(asked, 180, tag="two"))
    assert methods(rig.send(reply(asked, 200, tag="two", body=ANSWER))) == ["ACK"]
    late = rig.send(reply(asked, 200, tag="one", body=ANSWER))
    assert methods(late) == ["ACK", "BYE"]
    assert [one.to.tag for one in late] == ["one", "one"]
    rig.event(CallAnswered)
    assert rig.ua.calls == 1


def test_a_cancel_waits_for_the_first_answer() -> None:
    rig, call, asked = calling()
    assert rig.take(rig.ua.hang_up(call, rig.now)) == []
    (cancel,) = rig.send(reply(asked, 100))
    assert isinstance(cancel, Request)
    assert (cancel.method, cancel.via, cancel.cseq.number, cancel.to.tag) == ("CANCEL", asked.via, 1, "")
    assert rig.send(reply(asked, 180)) == []
    assert rig.send(reply(cancel, 200)) == []
    assert methods(rig.send(reply(asked, 487))) == ["ACK"]
    assert rig.event(CallEnded).reason == "local"
    rig.wait(64)
    assert rig.ua.transactions == 0


def test_a_200_that_crosses_the_cancel_is_hung_up() -> None:
    rig, call, asked = calling()
    rig.send(reply(asked, 180))
    rig.take(rig.ua.hang_up(call, rig.now))
    assert methods(rig.send(reply(asked, 200, body=ANSWER))) == ["ACK", "BYE"]
    assert rig.event(CallEnded).reason == "local"
    assert not rig.has(CallAnswered)


def test_nobody_answers_for_a_minute() -> None:
    rig, _, asked = calling()
    rig.send(reply(asked, 180))
    said = rig.wait(93)
    assert [one.method for at, one in said if isinstance(one, Request) and at == 60.0] == ["CANCEL"]
    assert rig.event(CallEnded).reason == "no_answer"
    assert rig.ua.calls == 0


def test_a_challenge_is_answered() -> None:
    rig, _, asked = calling(credentials=Credentials("desk", "secret"))
    challenge = 'Proxy-Authenticate: Digest realm="pbx", nonce="n1", algorithm=MD5, qop="auth"'
    ack, again = rig.send(reply(asked, 407, extra=challenge))
    assert isinstance(ack, Request)
    assert isinstance(again, Request)
    assert (ack.method, again.method, again.cseq.number) == ("ACK", "INVITE", 2)
    assert (again.call_id, again.from_.tag, again.to.tag) == (asked.call_id, asked.from_.tag, "")
    assert again.via.branch != asked.via.branch
    assert 'username="desk", realm="pbx", nonce="n1", uri="sip:bob@phone.example"' in (
        again.headers.get("proxy-authorization") or ""
    )
    rig.send(reply(again, 200, body=ANSWER))
    rig.event(CallAnswered)


def test_a_wrong_password_is_given_up() -> None:
    rig, _, asked = calling(credentials=Credentials("desk", "wrong"))
    for nonce in ("a", "b"):
        found = rig.send(reply(asked, 401, extra=f'WWW-Authenticate: Digest realm="x", nonce="{nonce}", qop="auth"'))
        asked = next(one for one in found if isinstance(one, Request) and one.method == "INVITE")
    assert methods(rig.send(reply(asked, 401, extra='WWW-Authenticate: Digest realm="x", nonce="c", qop="auth"'))) == [
        "ACK"
    ]
    assert rig.event(CallEnded).status == 401


def test_an_answer_that_takes_nothing_ends_the_call_politely() -> None:
    rig, _, asked = calling()
    assert methods(rig.send(reply(asked, 200, body=ANSWER.replace("RTP/AVP 8", "RTP/AVP 18")))) == ["ACK", "BYE"]
    assert rig.event(CallEnded).reason == "protocol_error"


def test_a_session_timer_that_is_too_short_is_asked_for_anew() -> None:
    rig, call, asked = calling(Rig(changed(session_expires_s=120)))
    assert asked.headers.get("session-expires") == "120"
    _, again = rig.send(reply(asked, 422, extra="Min-SE: 300"))
    assert isinstance(again, Request)
    assert again.headers.get("session-expires") == "300"
    extra = "Allow: INVITE, UPDATE\nSession-Expires: 300;refresher=uac"
    rig.send(reply(again, 200, body=ANSWER, extra=extra))
    ((at, update),) = rig.wait(150.2)
    assert isinstance(update, Request)
    assert (at, update.method, update.headers.get("session-expires")) == (150.0, "UPDATE", "300;refresher=uac")
    rig.send(reply(update, 200, extra="Session-Expires: 300;refresher=uac"))
    ((at, update),) = rig.wait(150.2)
    assert update.method == "UPDATE"  # type: ignore[union-attr]
    rig.send(reply(update, 481))  # type: ignore[arg-type]
    assert rig.event(CallEnded).reason == "timeout"
    assert rig.event(CallEnded).call == call


def test_a_transport_that_fails_ends_the_attempt() -> None:
    rig, _, _ = calling()
    rig.take(rig.ua.transport_failed(HOP, rig.now))
    assert rig.event(CallEnded).reason == "transport"


def test_early_media_is_no_answer() -> None:
    rig, call, asked = calling()
    rig.send(reply(asked, 183, body=ANSWER))
    assert not rig.has(CallAnswered)
    assert rig.event(CallProgress) == CallProgress(call, 183)
    rig.send(reply(asked, 200, body=ANSWER))
    rig.event(CallAnswered)


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\nb"])
def test_s13_a_line_break_in_a_header_of_ours_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        calling(items=(("X-Ref", value),))


def test_a_route_that_cannot_be_followed_ends_the_call() -> None:
    rig, _, asked = calling()
    assert rig.send(reply(asked, 200, body=ANSWER, extra="Record-Route: <sip:p1.example;lr")) == []
    assert rig.event(CallEnded).reason == "protocol_error"
    rig.wait(100)
    assert (rig.ua.transactions, rig.ua.calls, rig.ua.next_timeout()) == (0, 0, None)


def test_an_ack_proves_what_its_invite_has_proved() -> None:
    rig, _, asked = calling(credentials=Credentials("700", "x"))
    extra = 'Proxy-Authenticate: Digest realm="pbx", nonce="n", qop="auth"'
    _, again = rig.send(reply(asked, 407, extra=extra))
    (ack,) = rig.send(reply(again, 200, body=ANSWER))  # type: ignore[arg-type]
    assert ack.headers.get("proxy-authorization") == again.headers.get("proxy-authorization")


def test_only_so_many_forks_are_heard() -> None:
    rig, _, asked = calling()
    for n in range(100):
        rig.send(reply(asked, 183, tag=f"early{n}", extra=f"Require: 100rel\nRSeq: {n + 1}"))
    assert rig.ua.transactions == 1 + 8
    acks = sum(len(rig.send(reply(asked, 200, tag=f"t{n}", body=ANSWER))) for n in range(100))
    assert acks == 1 + 2 * 7, "the first is acknowledged, others hung up on as well"


def test_an_answer_whose_to_cannot_be_read_ends_the_call() -> None:
    rig, _, asked = calling()
    rig.send(reply(asked, 200, body=ANSWER).replace(b"To: <", b"To: <<"))
    assert rig.event(CallEnded).reason == "protocol_error"


@pytest.mark.parametrize(
    ("transport", "ports", "contact"),
    [
        ("tls", {"udp": 5060, "tcp": 5060}, "<sip:agent@192.0.2.1;transport=tls>"),
        ("tls", {"udp": 5060, "tcp": 5060, "tls": 5061}, "<sip:agent@192.0.2.1:5061;transport=tls>"),
    ],
)
def test_a_contact_names_no_port_where_another_thing_listens(transport: Any, ports: Any, contact: str) -> None:
    rig = Rig(changed(ports=ports))
    to = destination("sip:bob@phone.example", CALLER, Address("phone.example", 0, transport))
    _, _, actions = rig.ua.call(to, LOCAL, rig.now)
    (asked,) = rig.take(actions)
    assert asked.headers.get("contact") == contact


def test_all_parts_of_a_transaction_have_one_key_and_a_server_that_cannot_is_told() -> None:
    rig, call, asked = calling()
    rig.send(reply(asked, 180))
    (cancel,) = rig.take(rig.ua.hang_up(call, rig.now))
    assert isinstance(cancel, Request)
    assert {one.key for one in rig.sent} == {asked.via.branch} == {cancel.via.branch}
    rig.send(reply(asked, 503))
    assert rig.sent[-1].key == asked.via.branch, "the ACK, too"
    assert rig.event(Unavailable) == Unavailable(HOP, asked.via.branch)


def test_silence_is_told_as_a_server_that_does_not_answer() -> None:
    rig, _, asked = calling()
    rig.wait(33)
    assert rig.event(Unavailable) == Unavailable(HOP, asked.via.branch)
