"""What happens within a call, beyond the acceptance list."""

from typing import Any

import pytest

from fastagent.connectors.sip.actions import (
    Address,
    CallAnswered,
    CallConfirmed,
    CallEnded,
    CallOffered,
    ChangeDone,
    DtmfInfo,
    Held,
    MediaChanged,
    Resumed,
    TransferProgress,
)
from fastagent.connectors.sip.digest import Credentials
from fastagent.connectors.sip.headers import NameAddr
from fastagent.connectors.sip.message import Request, Response
from fastagent.connectors.sip.outbound import destination
from tests.connectors.sip.rig import LOCAL, SDP, Rig, changed, invite, reply, request

UPDATED = SDP.replace("audio 4000", "audio 4444").replace("1 1 IN", "1 2 IN")


def only(messages: list[Any]) -> Request:
    (message,) = messages
    assert isinstance(message, Request)
    return message


def talking() -> tuple[Rig, str, str]:
    rig = Rig()
    call, ok = rig.answered(invite())
    rig.events.clear()
    return rig, call, ok.to.tag


def test_early_media_and_the_answer_are_one_description() -> None:
    rig = Rig()
    rig.send(invite())
    call = rig.event(CallOffered).call
    (early,) = rig.take(rig.ua.ring(call, rig.now, early=LOCAL))
    (ok,) = rig.take(rig.ua.accept(call, LOCAL, rig.now))
    assert isinstance(early, Response)
    assert (early.status, early.body) == (183, ok.body)
    rig.event(CallAnswered)


def test_a_call_that_we_refuse() -> None:
    rig = Rig()
    rig.send(invite())
    call = rig.event(CallOffered).call
    (no,) = rig.take(rig.ua.reject(call, 404, rig.now))
    assert isinstance(no, Response)
    assert (no.status, no.reason) == (404, "Not Found")
    assert rig.event(CallEnded).status == 404
    assert [at for at, _ in rig.wait(4)] == [0.5, 1.5, 3.5]
    rig.send(request("ACK", 1, to_tag=no.to.tag, branch="INVITE1"))
    assert rig.wait(60) == []


def test_a_call_that_nobody_decides_on_is_refused_in_the_end() -> None:
    rig = Rig()
    rig.send(invite())
    assert [one.status for _, one in rig.wait(180.1) if isinstance(one, Response)] == [480]
    assert rig.event(CallEnded).reason == "no_answer"
    rig.wait(40)
    assert (rig.ua.transactions, rig.ua.calls, rig.ua.next_timeout()) == (0, 0, None)


def test_hanging_up_before_the_ack_waits_for_it() -> None:
    rig = Rig()
    call, ok = rig.answered(invite(), ack=None)
    assert rig.take(rig.ua.hang_up(call, rig.now)) == []
    assert only(rig.send(request("ACK", 1, to_tag=ok.to.tag))).method == "BYE"
    assert rig.event(CallEnded).reason == "local"


def test_an_update_moves_the_media_without_an_ack() -> None:
    rig, _, tag = talking()
    (answer,) = rig.responses(request("UPDATE", 2, to_tag=tag, body=UPDATED))
    assert (answer.status, answer.headers.get("content-type")) == (200, "application/sdp")
    assert rig.event(MediaChanged).media.remote[1] == 4444
    assert rig.wait(5) == []


def test_a_reinvite_without_a_body_gets_a_fresh_offer() -> None:
    rig, call, tag = talking()
    (answer,) = rig.responses(request("INVITE", 2, to_tag=tag))
    assert b"m=audio 10000 RTP/AVP 0 8 101\r\n" in answer.body
    assert rig.status(request("INVITE", 3, to_tag=tag)) == 491  # one at a time
    rig.send(request("ACK", 2, to_tag=tag, branch="a", body=UPDATED))
    assert rig.event(MediaChanged).call == call


def test_a_refused_update_changes_nothing_and_keeps_its_number() -> None:
    rig, call, tag = talking()
    before = rig.ua.media(call)
    bad = request("UPDATE", 2, to_tag=tag, body=UPDATED.replace("RTP/AVP 0 8 101", "RTP/SAVP 0"))
    assert rig.status(bad) == 488
    assert rig.ua.media(call) == before
    assert rig.events == []
    assert rig.status(request("INFO", 2, to_tag=tag, branch="again")) == 500


def test_a_new_contact_is_where_our_requests_go() -> None:
    rig, call, tag = talking()
    moved = invite(number=2, to_tag=tag).replace(b"<sip:ann@127.0.0.1:5070>\r\nX", b"<sip:ann@127.0.0.1:5999>\r\nX")
    assert rig.status(moved) == 200
    rig.send(request("ACK", 2, to_tag=tag, branch="a"))
    assert only(rig.take(rig.ua.hang_up(call, rig.now))).uri == "sip:ann@127.0.0.1:5999"
    assert rig.sent[-1].to.port == 5999


def test_a_phone_behind_a_nat_is_reached_where_it_came_from() -> None:
    rig = Rig(changed(anyone=True), source=("198.51.100.7", 40000))
    data = invite().replace(b"Contact: <sip:ann@127.0.0.1:5070>", b"Contact: <sip:ann@192.168.1.5:5060>")
    call, _ = rig.answered(data, ack=None)
    rig.send(request("ACK", 1, to_tag=call))
    assert only(rig.take(rig.ua.hang_up(call, rig.now))).uri == "sip:ann@192.168.1.5:5060"
    assert str(rig.sent[-1].to) == "udp:198.51.100.7:40000"


def test_a_call_over_tcp_stays_on_its_connection() -> None:
    rig = Rig(transport="tcp", source=("127.0.0.1", 45000))
    call, ok = rig.answered(invite(via="SIP/2.0/TCP 127.0.0.1:5070"))
    assert ok.headers.get("contact") == "<sip:agent@192.0.2.1:5060;transport=tcp>"
    rig.take(rig.ua.hang_up(call, rig.now))
    assert str(rig.sent[-1].to) == "tcp:127.0.0.1:45000"
    assert rig.wait(31) == []  # a stream repeats for us


def test_over_tcp_the_200_is_repeated_all_the_same() -> None:
    rig = Rig(transport="tcp")
    rig.answered(invite(via="SIP/2.0/TCP 127.0.0.1:5070"), ack=None)
    assert [at for at, _ in rig.wait(2)] == [0.5, 1.5]


@pytest.mark.parametrize(
    ("kind", "body", "status", "key"),
    [
        ("application/dtmf-relay", "Signal=11\r\nDuration=1\r\n", 200, "#"),
        ("application/dtmf-relay", "Signal= *\nDuration= 90", 200, "*"),
        ("application/dtmf-relay", "Signal=d", 200, "D"),
        ("application/dtmf-relay", "Signal=77", 400, ""),
        ("application/dtmf", "12", 400, ""),
        ("text/plain", "5", 415, ""),
        ("text/plain", "", 200, ""),
    ],
)
def test_info(kind: str, body: str, status: int, key: str) -> None:
    rig, _, tag = talking()
    assert rig.status(request("INFO", 2, to_tag=tag, body=body, kind=kind)) == status
    assert [one.digit for one in rig.events if isinstance(one, DtmfInfo)] == ([key] if key else [])


def test_a_key_of_ours() -> None:
    rig, call, _ = talking()
    info = only(rig.take(rig.ua.send_dtmf(call, "#", rig.now)))
    assert (info.method, info.body) == ("INFO", b"Signal=#\r\nDuration=160\r\n")
    assert rig.ua.send_dtmf(call, "#\r\n", rig.now) == []


def test_a_hold_of_ours_and_back() -> None:
    rig, call, _ = talking()
    asked = only(rig.take(rig.ua.change_media(call, rig.now, hold=True)))
    assert (asked.method, asked.cseq.number) == ("INVITE", 1)
    assert b"a=sendonly\r\n" in asked.body
    ok = reply(asked, 200, body=SDP + "a=recvonly\r\n")
    ack = only(rig.send(ok))
    assert (ack.method, ack.cseq.number) == ("ACK", 1)
    assert rig.event(MediaChanged).media.direction == "sendonly"
    assert only(rig.send(ok)).method == "ACK"
    asked = only(rig.take(rig.ua.change_media(call, rig.now, hold=False)))
    rig.send(reply(asked, 200, body=SDP))
    assert (media := rig.ua.media(call)) is not None
    assert media.direction == "sendrecv"


def test_our_change_is_refused_and_nothing_changes() -> None:
    rig, call, _ = talking()
    before = rig.ua.media(call)
    asked = only(rig.take(rig.ua.change_media(call, rig.now, local=("192.0.2.1", 10002))))
    assert b"m=audio 10002" in asked.body
    assert only(rig.send(reply(asked, 488))).method == "ACK"
    assert rig.event(ChangeDone) == ChangeDone(call, 488)
    assert rig.ua.media(call) == before
    held = invite(SDP + "a=sendonly\r\n", 2, to_tag=call)
    (answer,) = rig.responses(held)
    assert b"m=audio 10000" in answer.body


def test_changes_that_cross_are_tried_again() -> None:
    rig, call, tag = talking()
    asked = only(rig.take(rig.ua.change_media(call, rig.now, hold=True)))
    assert rig.status(invite(number=2, to_tag=tag)) == 491
    rig.send(request("ACK", 2, to_tag=tag, branch="INVITE2"))
    rig.send(reply(asked, 491))
    ((at, again),) = rig.wait(2.1)
    assert isinstance(again, Request)
    assert (again.method, again.cseq.number) == ("INVITE", 2)
    assert 0 <= at <= 2


def test_a_change_in_a_dialog_that_is_gone_ends_the_call() -> None:
    rig, call, _ = talking()
    asked = only(rig.take(rig.ua.change_media(call, rig.now, hold=True)))
    assert [one.method for one in rig.send(reply(asked, 481)) if isinstance(one, Request)] == ["ACK", "BYE"]
    assert rig.event(CallEnded).reason == "timeout"


def test_a_reinvite_proves_that_our_200_arrived() -> None:
    rig = Rig()
    _, ok = rig.answered(invite(), ack=None)
    assert rig.status(invite(SDP + "a=sendonly\r\n", 2, to_tag=ok.to.tag)) == 200
    rig.event(CallConfirmed)
    rig.event(Held)
    rig.send(request("ACK", 2, to_tag=ok.to.tag))
    assert rig.wait(10) == []
    assert rig.status(invite(number=3, to_tag=ok.to.tag)) == 200
    rig.event(Resumed)


def test_a_reinvite_before_the_first_answer_is_told_to_wait() -> None:
    rig = Rig()
    rig.send(invite())
    call = rig.event(CallOffered).call
    (answer,) = rig.responses(invite(number=2, to_tag=call))
    assert answer.status == 500
    assert "retry-after" in answer.headers


def test_a_bye_while_it_rings_answers_the_invite_too() -> None:
    rig = Rig()
    rig.send(invite())
    call = rig.event(CallOffered).call
    answers = rig.responses(request("BYE", 2, to_tag=call))
    assert [(one.status, one.cseq.method) for one in answers] == [(487, "INVITE"), (200, "BYE")]


def test_a_merged_request_is_a_loop() -> None:
    rig = Rig()
    rig.send(invite())
    assert rig.status(invite(branch="another-path")) == 482
    assert rig.ua.calls == 1


def test_a_multipart_body_has_its_description_found() -> None:
    rig = Rig()
    body = f"--x\r\nContent-Type: text/plain\r\n\r\nhi\r\n--x\r\nContent-Type: application/sdp\r\n\r\n{SDP}\r\n--x--"
    rig.answered(invite(body, kind='multipart/mixed;boundary="x"'))
    assert rig.event(CallAnswered).media.remote == ("192.0.2.9", 4000)
    assert Rig().status(invite("--x\r\n\r\n--x--", kind="multipart/mixed;boundary=x")) == 415


def test_a_refresh_of_ours_by_reinvite_where_there_is_no_update() -> None:
    rig = Rig()
    _, ok = rig.answered(invite(extra="Session-Expires: 100"))
    assert ok.headers.get("session-expires") == "100;refresher=uas"
    assert "require" not in ok.headers
    ((at, asked),) = rig.wait(50.2)
    assert isinstance(asked, Request)
    assert (at, asked.method) == (50.0, "INVITE")
    assert b"m=audio 10000 RTP/AVP 0 8 101\r\n" in asked.body
    rig.send(reply(asked, 200, body=SDP))
    assert [one.method for at, one in rig.wait(50.2) if isinstance(one, Request)] == ["INVITE"]


def test_a_refresh_that_nobody_answers_ends_the_call() -> None:
    rig = Rig()
    rig.answered(invite(extra="Session-Expires: 100\nAllow: UPDATE"))
    rig.wait(100)
    assert rig.event(CallEnded).reason == "timeout"


# -- transfer --------------------------------------------------------------------------------------------------------


def notify(tag: str, number: int, line: str, state: str) -> bytes:
    extra = f"Event: refer\nSubscription-State: {state}"
    return request("NOTIFY", number, to_tag=tag, body=f"{line}\r\n", kind="message/sipfrag;version=2.0", extra=extra)


def test_a_cold_transfer() -> None:
    rig, call, tag = talking()
    refer = only(rig.take(rig.ua.transfer(call, "sip:sales@pbx.example", rig.now)))
    assert refer.method == "REFER"
    assert refer.headers.get("refer-to") == "<sip:sales@pbx.example>"
    assert refer.headers.get("referred-by") == "<sip:agent@192.0.2.1:5060>"
    rig.send(reply(refer, 202))
    assert rig.status(notify(tag, 2, "SIP/2.0 180 Ringing", "active;expires=60")) == 200
    assert rig.status(notify(tag, 3, "SIP/2.0 200 OK", "terminated;reason=noresource")) == 200
    progress = [(one.status, one.final) for one in rig.events if isinstance(one, TransferProgress)]
    assert progress == [(202, False), (180, False), (200, True)]
    assert rig.status(request("BYE", 4, to_tag=tag)) == 200


def test_a_transfer_that_is_refused_or_never_ends() -> None:
    rig, call, _ = talking()
    rig.send(reply(only(rig.take(rig.ua.transfer(call, "tel:+15550100", rig.now))), 603))
    assert rig.event(TransferProgress) == TransferProgress(call, 603, True)
    rig.events.clear()
    rig.send(reply(only(rig.take(rig.ua.transfer(call, "sip:a@b", rig.now))), 202))
    rig.events.clear()
    rig.wait(91)
    assert rig.event(TransferProgress) == TransferProgress(call, 408, True)
    assert rig.ua.calls == 1


def test_a_transfer_that_cannot_be_asked_for_says_so_at_once() -> None:
    rig = Rig()
    gone = TransferProgress("x", 481, True)
    assert rig.ua.transfer("x", "sip:a@b", 1) == rig.ua.transfer_to_call("x", "y", 1) == [gone]
    call, _ = rig.answered(invite())
    rig.take(rig.ua.transfer(call, "sip:a@b", rig.now))
    assert rig.ua.transfer(call, "sip:c@d", rig.now) == [TransferProgress(call, 491, True)]


@pytest.mark.parametrize(
    ("contact", "wanted"),
    [
        ("<sip:ann@127.0.0.1:5070>", "<sip:200@127.0.0.1:5070>"),
        ("<sip:ann@[2001:db8::1]:5080;transport=tcp>", "<sip:200@[2001:db8::1]:5080;transport=tcp>"),
    ],
)
def test_a_plain_number_is_one_of_the_peers_own(contact: str, wanted: str) -> None:
    rig = Rig()
    call, _ = rig.answered(invite().replace(b"<sip:ann@127.0.0.1:5070>", contact.encode()))
    refer = only(rig.take(rig.ua.transfer(call, "200", rig.now)))
    assert refer.headers.get("refer-to") == wanted


def test_an_attended_transfer_names_the_other_dialog() -> None:
    rig, call, _ = talking()
    other, _ = rig.answered(invite(call_id="se;cond@phone", branch="o", from_tag="of"), ack=None)
    rig.send(request("ACK", 1, call_id="se;cond@phone", from_tag="of", to_tag=other, branch="oa"))
    refer = only(rig.take(rig.ua.transfer_to_call(call, other, rig.now)))
    assert refer.headers.get("refer-to") == (
        f"<sip:ann@127.0.0.1:5070?Replaces=se%3Bcond%40phone%3Bto-tag%3Dof%3Bfrom-tag%3D{other}>"
    )


def test_notifies_of_other_things_are_refused() -> None:
    rig, _, tag = talking()
    assert rig.status(request("NOTIFY", 2, to_tag=tag, extra="Event: presence")) == 489
    assert rig.status(request("NOTIFY", 3, extra="Event: refer")) == 481


def test_a_change_that_stays_at_100_is_given_up_after_a_minute() -> None:
    rig, call, _ = talking()
    asked = only(rig.take(rig.ua.change_media(call, rig.now, hold=True)))
    rig.send(reply(asked, 100))
    rig.wait(61)
    assert rig.event(CallEnded).reason == "timeout"
    rig.wait(40)
    assert (rig.ua.transactions, rig.ua.calls, rig.ua.next_timeout()) == (0, 0, None)


def test_another_users_password_does_not_move_a_call() -> None:
    from tests.connectors.sip.test_digest import Phone, challenged, rig_of

    rig, ann, bob = rig_of(), Phone(), Phone("bob", "hidden")
    ann.learn(challenged(rig))
    _, ok = rig.answered(invite(number=2, extra=ann.proof()), ack=None)
    bob.learn(challenged(rig, 9))
    assert rig.status(invite(number=3, to_tag=ok.to.tag, extra=bob.proof())) == 403


def test_a_peer_that_asks_for_a_password_within_a_call_is_not_answered_without_one() -> None:
    rig, call, _ = talking()
    asked = only(rig.take(rig.ua.change_media(call, rig.now, hold=True)))
    rig.send(reply(asked, 401, extra='WWW-Authenticate: Digest realm="x", nonce="n", qop="auth"'))
    assert rig.event(ChangeDone).status == 401


def test_an_answer_that_makes_no_sense_ends_the_call() -> None:
    rig, call, _ = talking()
    asked = only(rig.take(rig.ua.change_media(call, rig.now, hold=True)))
    found = rig.send(reply(asked, 200, body="rubbish"))
    assert [one.method for one in found if isinstance(one, Request)] == ["ACK", "BYE"]
    assert rig.event(CallEnded).reason == "protocol_error"


def test_commands_for_calls_that_are_not_there_say_nothing() -> None:
    rig = Rig()
    assert rig.ua.ring("x", 1) == rig.ua.accept("x", LOCAL, 1) == rig.ua.reject("x", 486, 1) == []
    assert rig.ua.hang_up("x", 1) == []
    assert rig.ua.change_media("x", 1) == [ChangeDone("x", 481)]
    assert rig.ua.send_dtmf("x", "1", 1) == rig.ua.unregister("x", 1) == []
    assert rig.ua.media("x") is None


def test_options_within_a_call_and_what_has_no_meaning_there() -> None:
    rig, _, tag = talking()
    assert rig.status(request("OPTIONS", 2, to_tag=tag)) == 200
    assert rig.status(request("REGISTER", 3, to_tag=tag)) == 481


def test_a_timer_that_is_too_short_is_refused_in_a_call_too() -> None:
    rig, _, tag = talking()
    (answer,) = rig.responses(request("UPDATE", 2, to_tag=tag, extra="Session-Expires: 10"))
    assert (answer.status, answer.headers.get("min-se")) == (422, "90")


def test_without_a_via_there_is_nobody_to_tell() -> None:
    rig = Rig()
    assert rig.send(request("OPTIONS").replace(b"Via:", b"X-Via:")) == []
    assert rig.ua.dropped == {"malformed": 1}


def test_a_description_that_is_none_is_a_bad_request() -> None:
    assert Rig().status(invite("v=1")) == 400
    rig, _, tag = talking()
    assert rig.status(invite("v=1", 2, to_tag=tag)) == 400


def test_a_refused_change_is_refused_alike_when_it_is_repeated() -> None:
    rig, _, tag = talking()
    bad = invite(SDP.replace("RTP/AVP 0 8 101", "RTP/AVP 18"), 2, to_tag=tag)
    assert [rig.status(bad), rig.status(bad)] == [488, 488]
    assert [at for at, _ in rig.wait(2)] == [0.5, 1.5]
    assert rig.send(request("ACK", 2, to_tag=tag, branch="INVITE2")) == []
    assert rig.wait(10) == []
    assert rig.ua.refused == {488: 1}


# -- our changes have one end ------------------------------------------------------------------------------------------


def test_a_change_that_changes_nothing_is_done_all_the_same() -> None:
    rig, call, _ = talking()
    for hold in (True, True, False):
        asked = only(rig.take(rig.ua.change_media(call, rig.now, hold=hold)))
        rig.send(reply(asked, 200, body=SDP + ("a=recvonly\r\n" if hold else "")))
    assert [one for one in rig.events if isinstance(one, ChangeDone)] == [ChangeDone(call, 200)] * 3


def test_a_resume_that_the_peer_answers_with_a_hold_of_its_own_is_done_and_we_are_held() -> None:
    rig, call, _ = talking()
    asked = only(rig.take(rig.ua.change_media(call, rig.now, hold=True)))
    rig.send(reply(asked, 200, body=SDP + "a=inactive\r\n"))
    asked = only(rig.take(rig.ua.change_media(call, rig.now, hold=False)))
    rig.send(reply(asked, 200, body=SDP + "a=sendonly\r\n"))
    assert rig.events[-1] == ChangeDone(call, 200)
    assert (media := rig.ua.media(call)) is not None
    assert media.direction == "recvonly"


def test_changes_that_go_on_crossing_are_given_up() -> None:
    rig, call, _ = talking()
    asked = only(rig.take(rig.ua.change_media(call, rig.now, hold=True)))
    for _ in range(3):
        rig.send(reply(asked, 491))
        _, asked = rig.next(2.1)
    assert not rig.has(ChangeDone)
    rig.send(reply(asked, 491))
    assert rig.event(ChangeDone) == ChangeDone(call, 491)
    assert rig.wait(60) == []


def test_a_change_of_theirs_in_between_is_no_answer_to_ours_and_ours_comes_after_it() -> None:
    rig, call, tag = talking()
    asked = only(rig.take(rig.ua.change_media(call, rig.now, hold=True)))
    rig.send(reply(asked, 491))
    assert rig.status(invite(UPDATED, 2, to_tag=tag)) == 200
    rig.event(MediaChanged)
    assert not rig.has(ChangeDone)
    found = [one for _, one in rig.wait(5)]
    assert not any(isinstance(one, Request) for one in found), "their 200 is not acknowledged yet"
    rig.send(request("ACK", 2, to_tag=tag))
    _, asked = rig.next(1)
    assert b"a=sendonly" in asked.body
    rig.send(reply(asked, 200, body=UPDATED + "a=recvonly\r\n"))
    assert rig.event(ChangeDone) == ChangeDone(call, 200)


def test_a_change_while_theirs_is_on_its_way_waits_for_it() -> None:
    rig, call, tag = talking()
    rig.send(invite(UPDATED, 2, to_tag=tag))
    assert rig.take(rig.ua.change_media(call, rig.now, hold=True)) == []
    assert rig.take(rig.ua.change_media(call, rig.now, hold=False)) == []
    assert rig.event(ChangeDone) == ChangeDone(call, 491), "the second one"
    rig.send(request("ACK", 2, to_tag=tag))
    assert b"a=sendonly" in rig.next(1)[1].body


# -- refreshes ---------------------------------------------------------------------------------------------------------

TIMED = "Supported: timer\nSession-Expires: 1800;refresher=uas\nAllow: INVITE, ACK, BYE, UPDATE"


def refreshing() -> tuple[Rig, Request]:
    rig = Rig()
    rig.answered(invite(extra=TIMED))
    at, asked = rig.next(901)
    assert (at, asked.method) == (900, "UPDATE")
    return rig, asked


@pytest.mark.parametrize("status", [491, 500, 503])
def test_a_refresh_that_is_refused_for_now_is_tried_again(status: int) -> None:
    rig, asked = refreshing()
    rig.send(reply(asked, status))
    at, again = rig.next(11)
    assert (again.method, at) == ("UPDATE", 10)
    rig.send(reply(again, 200, extra="Session-Expires: 1800;refresher=uac"))
    assert rig.wait(890) == []
    assert not rig.has(CallEnded)


@pytest.mark.parametrize("status", [405, 488, 501])
def test_who_takes_no_update_is_refreshed_by_an_invite(status: int) -> None:
    rig, asked = refreshing()
    again = only(rig.send(reply(asked, status)))
    assert again.method == "INVITE"
    rig.send(reply(again, 200, body=SDP, extra="Session-Expires: 1800;refresher=uac"))
    assert rig.wait(890) == []
    assert not rig.has(ChangeDone), "nobody asked for a change"


def test_a_refresh_with_an_interval_that_is_too_short_asks_for_a_longer_one() -> None:
    rig, asked = refreshing()
    again = only(rig.send(reply(asked, 422, extra="Min-SE: 3600")))
    assert (again.headers.get("session-expires") or "").startswith("3600;")


def test_a_session_that_nobody_refreshes_ends_at_its_time() -> None:
    rig, asked = refreshing()
    rig.send(reply(asked, 500))
    while not rig.has(CallEnded):
        _, again = rig.next(100)
        rig.send(reply(again, 500))
    assert rig.event(CallEnded).reason == "timeout"
    assert rig.now - 100 == pytest.approx(1768, abs=12)


def test_a_phone_without_timers_is_not_made_to_refresh() -> None:
    rig = Rig()
    _, ok = rig.answered(invite(extra=TIMED))
    (again,) = rig.responses(invite(UPDATED, 2, to_tag=ok.to.tag))
    assert again.headers.get("require") is None
    assert again.headers.get("session-expires") == "1800;refresher=uas"


def test_a_refresh_of_theirs_is_answered_while_a_change_of_ours_is_on_its_way() -> None:
    rig, call, tag = talking()
    only(rig.take(rig.ua.change_media(call, rig.now, hold=True)))
    assert rig.status(request("UPDATE", 2, to_tag=tag)) == 200
    assert rig.status(request("UPDATE", 3, to_tag=tag, body=UPDATED)) == 491


# -- a trunk that asks for our password, in its own calls ------------------------------------------------------------


@pytest.mark.parametrize("stale", ["", ", stale=true"])
def test_a_trunk_is_told_our_password_and_not_for_ever(stale: str) -> None:
    credentials = Credentials("700", "secret")
    rig = Rig(changed(trusted=(), credentials=credentials), source=("203.0.113.9", 5060))
    rig.ua.trust({"203.0.113.9"})
    call, _ = rig.answered(invite(body=SDP))
    asked = only(rig.take(rig.ua.hang_up(call, rig.now)))
    seen = 0
    while asked is not None and seen < 20:
        challenge = f'WWW-Authenticate: Digest realm="pbx", nonce="n{seen}", qop="auth"{stale}'
        found = rig.send(reply(asked, 401, extra=challenge))
        asked = only(found) if found else None  # type: ignore[assignment]
        seen += 1
        if asked is not None:
            assert f'nonce="n{seen - 1}"' in (asked.headers.get("authorization") or "")
    assert seen == (5 if stale else 3)


# -- connections -------------------------------------------------------------------------------------------------------


def test_a_connection_that_a_call_lives_on_is_told_and_when_it_is_gone_the_contact_is_used() -> None:
    rig = Rig(transport="tcp", source=("127.0.0.1", 33333))
    call, _ = rig.answered(invite(via="SIP/2.0/TCP 127.0.0.1:5070"))
    flow = Address("127.0.0.1", 33333, "tcp")
    assert rig.ua.places() == {flow}
    rig.take(rig.ua.transport_failed(flow, rig.now))
    only(rig.take(rig.ua.hang_up(call, rig.now)))
    assert rig.sent[-1].to == Address("127.0.0.1", 5070)


def test_an_answer_may_go_where_its_sender_listens() -> None:
    rig = Rig(transport="tcp", source=("127.0.0.1", 33333))
    rig.send(invite(via="SIP/2.0/TCP 127.0.0.1:5071"))
    assert rig.sent[-1].otherwise == Address("127.0.0.1", 5071, "tcp")


def test_a_sips_call_has_a_sips_contact() -> None:
    rig = Rig(transport="tls", source=("127.0.0.1", 33333))
    _, ok = rig.answered(invite(uri="sips:desk@192.0.2.1", via="SIP/2.0/TLS 127.0.0.1:5071"))
    assert ok.headers.get("contact") == "<sips:agent@192.0.2.1:5061>"


def test_a_cancel_of_a_refused_call_has_the_refusals_tag() -> None:
    from tests.connectors.sip.test_digest import Phone, challenged

    rig = Rig(changed(users={"ann": "secret"}, trusted=(), max_calls=0), source=("203.0.113.9", 5070))
    phone = Phone()
    phone.learn(challenged(rig))
    (refused,) = rig.responses(invite(number=2, extra=phone.proof()))
    (ok,) = rig.responses(request("CANCEL", 2, branch="INVITE2"))
    assert (refused.status, ok.status, ok.to.tag) == (503, 200, refused.to.tag)


def test_a_hold_that_waits_for_a_refresh_comes_after_it() -> None:
    rig = Rig()
    call, _ = rig.answered(invite(extra=TIMED.replace(", UPDATE", "")))
    at, refresh = rig.next(901)
    assert (at, refresh.method) == (900, "INVITE")
    assert rig.take(rig.ua.change_media(call, rig.now, hold=True)) == []
    found = rig.send(reply(refresh, 200, body=SDP, extra="Session-Expires: 1800;refresher=uac"))
    assert not rig.has(ChangeDone)
    ack, asked = found
    assert isinstance(asked, Request)
    assert (ack.method, b"a=sendonly" in asked.body) == ("ACK", True)  # type: ignore[union-attr]
    rig.send(reply(asked, 200, body=SDP + "a=recvonly\r\n"))
    assert rig.event(ChangeDone) == ChangeDone(call, 200)


def test_a_peer_that_finds_every_interval_too_short_is_not_asked_for_ever() -> None:
    rig, asked = refreshing()
    for n in range(3):
        asked = only(rig.send(reply(asked, 422, extra=f"Min-SE: {3600 + n}")))
    assert rig.send(reply(asked, 422, extra="Min-SE: 4000")) == []


def test_the_parts_of_a_call_are_heard_beyond_the_limits_of_their_source() -> None:
    rig = Rig(changed(anyone=True), source=("203.0.113.9", 5070))
    rig.send(invite())
    call = rig.event(CallOffered).call
    rig.take(rig.ua.ring(call, rig.now))
    while rig.status(request("OPTIONS", 1, branch=f"o{rig.ua.dropped.total()}{len(rig.sent)}", call_id="o")):
        pass
    assert rig.ua.dropped["source_rate"] == 1
    assert [one.status for one in rig.responses(request("CANCEL", 1, branch="INVITE1"))] == [200, 487]
    rig.send(request("ACK", 1, to_tag=call, branch="INVITE1"))
    assert rig.wait(20) == [], "the ACK of the refusal was heard, too"


def test_lists_that_nobody_needs_are_not_read() -> None:
    rig = Rig()
    assert rig.status(invite(extra="Contact: " + ",".join(["sip:a"] * 1200))) == 400
    assert rig.status(invite(extra="Route: " + ", ".join(["<sip:p;lr>"] * 20))) == 100


def test_a_via_that_cannot_be_read_is_refused_before_anything_has_changed() -> None:
    rig, call, tag = talking()
    before = rig.ua.media(call)
    broken = invite(UPDATED, 2, to_tag=tag).replace(b"Max-Forwards", b'Via: SIP/2.0/UDP x;a="b\r\nMax-Forwards')
    assert [rig.status(broken), rig.status(broken)] == [400, 400]
    assert rig.ua.media(call) == before


def test_a_connection_of_our_own_is_opened_anew() -> None:
    rig = Rig()
    to = Address("trunk.example", 0, "tls")
    call, _, actions = rig.ua.call(
        destination("sip:bob@trunk.example", NameAddr.parse("<sip:us@192.0.2.1>"), to), LOCAL, rig.now
    )
    (asked,) = rig.take(actions)
    assert isinstance(asked, Request)
    rig.send(
        reply(asked, 200, body=SDP.replace(" 0 8 101", " 0 101"), extra="Contact: <sip:b@203.0.113.5;transport=tls>")
    )
    rig.take(rig.ua.transport_failed(to, rig.now))
    rig.take(rig.ua.hang_up(call, rig.now))
    assert rig.sent[-1].to == to


def test_a_change_on_a_connection_that_breaks_is_ended_at_the_contact() -> None:
    rig = Rig(transport="tcp", source=("127.0.0.1", 33333))
    call, _ = rig.answered(invite(via="SIP/2.0/TCP 127.0.0.1:5070"))
    rig.take(rig.ua.change_media(call, rig.now, hold=True))
    (bye,) = rig.take(rig.ua.transport_failed(Address("127.0.0.1", 33333, "tcp"), rig.now))
    assert isinstance(bye, Request)
    assert (bye.method, rig.sent[-1].to) == ("BYE", Address("127.0.0.1", 5070))


def test_a_hold_that_has_waited_for_a_refresh_is_as_patient_as_any() -> None:
    rig = Rig()
    call, _ = rig.answered(invite(extra=TIMED.replace(", UPDATE", "")))
    _, refresh = rig.next(901)
    rig.take(rig.ua.change_media(call, rig.now, hold=True))
    rig.wait(1)
    _, asked = rig.send(reply(refresh, 200, body=SDP, extra="Session-Expires: 1800;refresher=uac"))
    assert isinstance(asked, Request)
    rig.send(reply(asked, 100))
    rig.wait(50)
    assert not rig.has(ChangeDone)
    rig.send(reply(asked, 200, body=SDP + "a=recvonly\r\n"))
    assert rig.event(ChangeDone) == ChangeDone(call, 200)
