"""Our registration, and the registrar's rule."""

import pytest

from fastagent.connectors.sip.actions import Address, Registered, RegistrationFailed
from fastagent.connectors.sip.digest import Credentials
from fastagent.connectors.sip.message import Request
from fastagent.connectors.sip.registration import Registrar
from tests.connectors.sip.rig import Rig, reply, request

REGISTRAR = Registrar("pbx.example", Credentials("100", "secret"), Address("127.0.0.1", 5070), keep_alive=False)
CHALLENGE = 'WWW-Authenticate: Digest realm="pbx", nonce="n{}", algorithm=MD5, qop="auth"'
OURS = "Contact: <sip:100@192.0.2.1:5060>;expires={}"


def registering(registrar: Registrar = REGISTRAR) -> tuple[Rig, str, Request]:
    rig = Rig()
    registration, actions = rig.ua.register(registrar, rig.now)
    (asked,) = rig.take(actions)
    assert isinstance(asked, Request)
    return rig, registration, asked


def one(found: list[object]) -> Request:
    (asked,) = found
    assert isinstance(asked, Request)
    return asked


def test_registering_to_the_letter() -> None:
    rig, registration, asked = registering()
    assert (asked.method, asked.uri) == ("REGISTER", "sip:pbx.example")
    assert asked.headers.get("to") == "<sip:100@pbx.example>"
    assert (asked.headers.get("from") or "").startswith("<sip:100@pbx.example>;tag=")
    assert asked.headers.get("contact") == "<sip:100@192.0.2.1:5060>"
    assert asked.headers.get("expires") == "600"
    again = one(list(rig.send(reply(asked, 401, extra=CHALLENGE.format(1)))))
    assert (again.call_id, again.from_.tag, again.cseq.number) == (asked.call_id, asked.from_.tag, 2)
    assert 'username="100", realm="pbx", nonce="n1", uri="sip:pbx.example"' in (
        again.headers.get("authorization") or ""
    )
    extra = "Contact: <sip:other@x>;expires=5, <sip:100@192.0.2.1:5060>;expires=200"
    assert rig.send(reply(again, 200, extra=extra)) == []
    assert rig.event(Registered) == Registered(registration, 200)
    at, refresh = rig.wait(160.4)[0]
    assert 100 <= at <= 160
    assert isinstance(refresh, Request)
    assert "nc=00000002" in (refresh.headers.get("authorization") or "")


def test_an_interval_that_is_too_short() -> None:
    rig, _, asked = registering()
    again = one(list(rig.send(reply(asked, 423, extra="Min-Expires: 1800"))))
    assert again.headers.get("expires") == "1800"


def test_a_wrong_password_is_not_tried_for_ever() -> None:
    rig, registration, asked = registering()
    for n in (1, 2):
        asked = one(list(rig.send(reply(asked, 401, extra=CHALLENGE.format(n)))))
    assert rig.send(reply(asked, 401, extra=CHALLENGE.format(3))) == []
    assert rig.event(RegistrationFailed) == RegistrationFailed(registration, 401, None)
    assert rig.wait(10_000) == []


def test_failures_back_off_from_30_s_to_30_min() -> None:
    rig, _, asked = registering()
    delays = []
    for _ in range(9):
        rig.send(reply(asked, 503))
        delays.append(rig.events[-1].retry_s)
        found = [message for _, message in rig.wait(delays[-1] + 0.1)]
        asked = one(list(found))
    assert all(
        0.75 * top <= delay <= 1.25 * top
        for delay, top in zip(delays, [30, 60, 120, 240, 480, 960, 1800, 1800], strict=False)
    )


def test_silence_backs_off_too() -> None:
    rig, _, _ = registering()
    rig.wait(33)
    assert rig.event(RegistrationFailed).status == 408


def test_leaving() -> None:
    rig, registration, asked = registering()
    rig.send(reply(asked, 200, extra=OURS.format(600)))
    (leave,) = rig.take(rig.ua.unregister(registration, rig.now))
    assert isinstance(leave, Request)
    assert leave.headers.get("expires") == "0"
    rig.send(reply(leave, 200))
    assert rig.events[-1] == Registered(registration, 0)
    assert rig.wait(10_000) == []


def test_behind_a_nat_the_contact_is_what_the_registrar_sees() -> None:
    rig, _, asked = registering()
    seen = reply(asked, 200, extra=OURS.format(600)).replace(b";rport", b";rport=41000;received=203.0.113.5")
    again = one(list(rig.send(seen)))
    assert again.headers.get("contact") == "<sip:100@203.0.113.5:41000>"
    rig.send(reply(again, 200, extra="Contact: <sip:100@203.0.113.5:41000>;expires=60"))
    assert rig.event(Registered).expires_s == 60


def test_keep_alives() -> None:
    rig, _, asked = registering(Registrar("pbx.example", Credentials("100", "x"), Address("127.0.0.1", 5070)))
    rig.send(reply(asked, 200, extra=OURS.format(600)))
    rig.sent.clear()
    rig.wait(76)
    assert [send.data for send in rig.sent] == [b"\r\n\r\n"] * 3


@pytest.mark.parametrize(("asked", "granted"), [("", 3600), ("60", 60), ("999999999999", 3600), ("x", 3600)])
def test_a_trusted_phone_may_register_and_nothing_is_stored(asked: str, granted: int) -> None:
    rig = Rig()
    (answer,) = rig.responses(request("REGISTER", extra=f"Expires: {asked}"))
    assert answer.status == 200
    assert answer.headers.get_all("contact") == [f"<sip:ann@127.0.0.1:5070>;expires={granted}"]
    rig.wait(40)
    assert (rig.ua.transactions, rig.events) == (0, [])


def test_a_phone_that_leaves_has_no_contact_in_the_answer() -> None:
    (answer,) = Rig().responses(request("REGISTER", extra="Expires: 0"))
    assert "contact" not in answer.headers


def test_an_outage_between_challenge_and_proof_says_nothing_of_the_password() -> None:
    rig, _, asked = registering()
    proof = one(list(rig.send(reply(asked, 401, extra=CHALLENGE.format(1)))))
    rig.send(reply(proof, 200, extra=OURS.format(600)))
    _, refresh = rig.next(481)
    for n in range(2, 5):  # the nonce is an old one; then the registrar is gone for a while, again and again
        proof = one(list(rig.send(reply(refresh, 401, extra=CHALLENGE.format(n)))))
        rig.send(reply(proof, 503))
        failed = rig.events[-1]
        assert isinstance(failed, RegistrationFailed)
        assert failed.retry_s is not None
        _, refresh = rig.next(failed.retry_s + 0.1)
    proof = one(list(rig.send(reply(refresh, 401, extra=CHALLENGE.format(9)))))
    rig.send(reply(proof, 200, extra=OURS.format(600)))
    assert isinstance(rig.events[-1], Registered)


def test_nonces_that_are_always_old_are_asked_for_later_and_not_for_ever() -> None:
    rig, _, asked = registering()
    for n in range(4):
        asked = one(list(rig.send(reply(asked, 401, extra=CHALLENGE.format(n) + ", stale=true"))))
    assert rig.send(reply(asked, 401, extra=CHALLENGE.format(5) + ", stale=true")) == []
    failed = rig.event(RegistrationFailed)
    assert failed.retry_s is not None


def test_a_proxy_and_a_registrar_may_each_ask_for_a_password() -> None:
    rig, _, asked = registering()
    extra = 'Proxy-Authenticate: Digest realm="edge", nonce="p", qop="auth"'
    asked = one(list(rig.send(reply(asked, 407, extra=extra))))
    asked = one(list(rig.send(reply(asked, 401, extra=CHALLENGE.format(1)))))
    assert 'realm="edge"' in (asked.headers.get("proxy-authorization") or "")
    assert 'realm="pbx"' in (asked.headers.get("authorization") or "")


def test_a_nat_that_gives_us_another_place_later_is_followed_and_the_old_one_left() -> None:
    rig, _, asked = registering()
    seen = b";rport=%d;received=203.0.113.5"
    ours = "Contact: <sip:100@203.0.113.5:{}>;expires=60"
    asked = one(list(rig.send(reply(asked, 200, extra=OURS.format(60)).replace(b";rport", seen % 40000))))
    assert rig.send(reply(asked, 200, extra=ours.format(40000)).replace(b";rport", seen % 40000)) == []
    _, refresh = rig.next(49)
    again = one(list(rig.send(reply(refresh, 200, extra=ours.format(40000)).replace(b";rport", seen % 41000))))
    assert again.headers.get_all("contact") == ["<sip:100@203.0.113.5:41000>", "<sip:100@203.0.113.5:40000>;expires=0"]
    assert rig.send(reply(again, 200, extra=ours.format(41000)).replace(b";rport", seen % 42000)) == [], "once"


def test_when_the_connection_is_gone_we_register_anew_at_once() -> None:
    hop = Address("127.0.0.1", 5070, "tcp")
    rig, _, asked = registering(Registrar("pbx.example", Credentials("100", "secret"), hop, keep_alive=False))
    assert rig.ua.places() == {hop}
    rig.take(
        rig.ua.transport_failed(hop, rig.now)
    )  # before it was a registration: that is a failure, with its back-off
    ((at, asked),) = rig.wait(40)  # type: ignore[assignment]
    assert at > 20
    rig.send(reply(asked, 200, extra=OURS.format(600)))
    rig.take(rig.ua.transport_failed(hop, rig.now))
    at, _ = rig.next(6)
    assert 1 <= at <= 5
