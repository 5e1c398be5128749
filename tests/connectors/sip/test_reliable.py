"""Provisional answers that must arrive (RFC 3262)."""

from typing import Any

import pytest

from fastagent.connectors.sip.actions import CallAnswered, CallEnded, CallOffered, CallProgress
from fastagent.connectors.sip.message import Message, Request, Response
from tests.connectors.sip.rig import LOCAL, Rig, invite, reply, request
from tests.connectors.sip.test_link import HOSTS, Link
from tests.connectors.sip.test_outbound import ANSWER, calling

REQUIRED = "Require: 100rel"


def only(messages: list[Message]) -> Any:
    (one,) = messages
    return one


def ringing(rig: Rig, *, early: bool = False) -> tuple[str, Response]:
    """A call whose caller requires it, and our first provisional answer."""
    rig.send(invite(extra=REQUIRED))
    call = rig.event(CallOffered).call
    answer = only(rig.take(rig.ua.ring(call, rig.now, early=LOCAL if early else None)))
    return call, answer


def prack(answer: Response, *, number: int = 2, rack: str = "", **more: Any) -> bytes:
    rack = rack or f"{answer.headers.get('rseq')} 1 INVITE"
    return request("PRACK", number, to_tag=answer.to.tag, extra=f"RAck: {rack}", **more)


# -- they call ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("early", "status"), [(False, 180), (True, 183)])
def test_a_provisional_answer_is_numbered_and_repeated_until_its_prack(early: bool, status: int) -> None:
    rig = Rig()
    _, answer = ringing(rig, early=early)
    assert (answer.status, answer.headers.get("require"), bool(answer.body)) == (status, "100rel", early)
    assert 0 < int(answer.headers.get("rseq") or 0) < 2**31
    assert [at for at, _ in rig.wait(8)] == [0.5, 1.5, 3.5, 7.5]
    assert rig.status(prack(answer)) == 200
    assert rig.wait(20) == []
    assert rig.status(prack(answer)) == 200  # a repeat of the PRACK
    assert rig.status(prack(answer, number=3)) == 481  # another one for the same


def test_the_200_waits_for_the_prack() -> None:
    rig = Rig()
    call, answer = ringing(rig, early=True)
    assert rig.take(rig.ua.accept(call, LOCAL, rig.now)) == []
    ok, confirmed = rig.responses(prack(answer))
    assert ((ok.status, ok.cseq.method), (confirmed.status, confirmed.cseq.method)) == ((200, "PRACK"), (200, "INVITE"))
    assert confirmed.body == answer.body
    assert rig.event(CallAnswered).call == call


def test_without_a_prack_the_call_is_given_up() -> None:
    rig = Rig()
    call, _ = ringing(rig)
    rig.take(rig.ua.accept(call, LOCAL, rig.now))
    last = rig.wait(32)[-1]
    assert isinstance(last[1], Response)
    assert (last[0], last[1].status) == (32, 504)
    assert rig.event(CallEnded).reason == "no_ack"
    rig.wait(64)
    assert (rig.ua.calls, rig.ua.transactions) == (0, 0)


@pytest.mark.parametrize("rack", ["7 1 INVITE", "{rseq} 2 INVITE", "{rseq} 1 UPDATE", "nonsense", "{rseq}"])
def test_a_prack_for_something_else_is_refused(rack: str) -> None:
    rig = Rig()
    _, answer = ringing(rig)
    wrong = rack.replace("{rseq}", answer.headers.get("rseq") or "")
    assert rig.status(prack(answer, rack=wrong)) == 481
    assert len(rig.wait(0.6)) == 1  # still repeated


def test_another_offer_in_a_prack_is_refused_and_a_cancel_ends_it_all() -> None:
    rig = Rig()
    _, answer = ringing(rig)
    assert rig.status(prack(answer, body="v=0\r\n")) == 488
    assert [one.status for one in rig.responses(request("CANCEL", 1, branch="INVITE1"))] == [200, 487]
    rig.send(request("ACK", 1, to_tag=answer.to.tag, branch="INVITE1"))
    assert rig.wait(60) == []


def test_who_does_not_require_it_is_not_made_to_acknowledge() -> None:
    rig = Rig()
    rig.send(invite(extra="Supported: 100rel"))
    answer = only(rig.take(rig.ua.ring(rig.event(CallOffered).call, rig.now)))
    assert (answer.headers.get("rseq"), rig.wait(5)) == (None, [])


# -- we call -----------------------------------------------------------------------------------------------------------


def provisional(asked: Request, number: int, *, status: int = 183, body: str = "", tag: str = "callee") -> bytes:
    return reply(asked, status, body=body, tag=tag, extra=f"Require: 100rel\nRSeq: {number}")


def test_a_provisional_answer_is_acknowledged_once_and_in_order() -> None:
    rig, call, asked = calling()
    sent = only(rig.send(provisional(asked, 5)))
    assert (sent.method, sent.headers.get("rack"), sent.cseq.number) == ("PRACK", "5 1 INVITE", 2)
    assert (sent.uri, sent.to.tag) == ("sip:bob@127.0.0.1:5070", "callee")
    assert rig.send(reply(sent, 200)) == []
    assert rig.send(provisional(asked, 5)) == []  # a copy
    assert rig.send(provisional(asked, 7)) == []  # 6 is missing
    assert only(rig.send(provisional(asked, 6, status=180))).headers.get("rack") == "6 1 INVITE"
    assert [one.status for one in rig.events if isinstance(one, CallProgress)] == [183, 180]
    ack = only(rig.send(reply(asked, 200, body=ANSWER)))
    assert (ack.method, ack.cseq.number) == ("ACK", 1)
    bye = only(rig.take(rig.ua.hang_up(call, rig.now)))
    assert (bye.method, bye.cseq.number) == ("BYE", 4)


def test_the_answer_may_come_with_it_and_the_200_without_one() -> None:
    rig, call, asked = calling()
    rig.send(provisional(asked, 1, body=ANSWER))
    assert only(rig.send(reply(asked, 200))).method == "ACK"
    assert rig.event(CallAnswered).call == call


def test_each_fork_has_numbers_of_its_own() -> None:
    rig, _, asked = calling()
    one = only(rig.send(provisional(asked, 1, tag="a")))
    other = only(rig.send(provisional(asked, 9, tag="b")))
    assert (one.to.tag, one.headers.get("rack")) == ("a", "1 1 INVITE")
    assert (other.to.tag, other.headers.get("rack")) == ("b", "9 1 INVITE")


@pytest.mark.parametrize("number", ["", "x", "99999999999"])
def test_what_has_no_number_is_an_ordinary_one(number: str) -> None:
    rig, _, asked = calling()
    assert rig.send(reply(asked, 180, extra=f"Require: 100rel\nRSeq: {number}" if number else "Require: 100rel")) == []
    assert rig.event(CallProgress).status == 180


@pytest.mark.parametrize("seed", range(20))
def test_it_arrives_over_a_bad_link(seed: int) -> None:
    link = Link(seed, loss=0.3, duplicate=0.3, jitter_s=0.4)
    inbound = link.desk._inbound._provisionals
    inbound.are_wanted = lambda call: True  # type: ignore[method-assign]  # as if the phone required it
    call = link.call()
    link.run(40)
    assert [len(link.got(name, CallAnswered)) for name in HOSTS] == [1, 1]
    link.do("phone", link.phone.hang_up(call, link.now))
    link.run(120)
    assert [len(link.got(name, CallEnded)) for name in HOSTS] == [1, 1]
    assert link.is_clean()


def test_media_may_be_changed_before_the_final_answer_which_repeats_an_old_one() -> None:
    rig, _, asked = calling()
    rig.send(provisional(asked, 1, body=ANSWER))
    update = request(
        "UPDATE", 7, call_id=asked.call_id, to_tag=asked.from_.tag, from_tag="callee",
        body=ANSWER.replace("audio 4000", "audio 4444"),
    )  # fmt: skip
    (ok,) = rig.responses(update)
    assert (ok.status, b"m=audio 10000 RTP/AVP 8" in ok.body) == (200, True)
    rig.send(reply(asked, 200, body=ANSWER))
    assert rig.event(CallAnswered).media.remote[1] == 4444


@pytest.mark.parametrize(
    ("method", "body", "answered", "status"),
    [("UPDATE", "", False, 200), ("UPDATE", ANSWER, False, 500), ("OPTIONS", "", True, 200), ("REFER", "", True, 405),
     ("NOTIFY", "", True, 481), ("UPDATE", "rubbish", True, 400)],
)  # fmt: skip
def test_other_requests_before_the_final_answer(method: str, body: str, answered: bool, status: int) -> None:
    rig, _, asked = calling()
    rig.send(provisional(asked, 1, body=ANSWER if answered else ""))
    early = request(method, 7, call_id=asked.call_id, to_tag=asked.from_.tag, from_tag="callee", body=body)
    assert rig.status(early) == status
    assert rig.status(request("UPDATE", 8, call_id=asked.call_id, to_tag=asked.from_.tag, from_tag="other")) == 481


def test_another_phone_that_answers_after_a_fork_was_changed_is_talked_to() -> None:
    rig, _, asked = calling()
    rig.send(provisional(asked, 1, body=ANSWER, tag="tones"))
    update = request(
        "UPDATE", 7, call_id=asked.call_id, to_tag=asked.from_.tag, from_tag="tones",
        body=ANSWER.replace("audio 4000", "audio 4444"),
    )  # fmt: skip
    assert rig.status(update) == 200
    rig.send(reply(asked, 200, body=ANSWER.replace("audio 4000", "audio 5000"), tag="phone"))
    assert rig.event(CallAnswered).media.remote[1] == 5000


def test_a_refusal_in_an_early_dialog_is_repeated_as_it_was() -> None:
    rig, _, asked = calling()
    rig.send(provisional(asked, 1, body=ANSWER))
    update = request(
        "UPDATE", 7, call_id=asked.call_id, to_tag=asked.from_.tag, from_tag="callee", body="rubbish",
    )  # fmt: skip
    assert [rig.status(update), rig.status(update)] == [400, 400]
