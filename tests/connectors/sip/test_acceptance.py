"""The signalling points of the acceptance list in the SIP sheet, by number."""

import re
from typing import Any

import pytest

from fastagent.connectors.sip.actions import (
    CallAnswered,
    CallConfirmed,
    CallEnded,
    CallOffered,
    DtmfInfo,
    Held,
    MediaChanged,
    Resumed,
    Send,
)
from fastagent.connectors.sip.framer import StreamFramer
from fastagent.connectors.sip.media import ALL_CODECS, PCMA, Capabilities
from fastagent.connectors.sip.message import Request, Response, parse
from tests.connectors.sip.rig import LOCAL, SDP, Rig, changed, invite, request


def offer(media: str = "m=audio 4000 RTP/AVP 0 8", *, host: str = "192.0.2.9", version: int = 1) -> str:
    lines = ["v=0", f"o=phone 1 {version} IN IP4 192.0.2.9", "s=-", f"c=IN IP4 {host}", "t=0 0", *media.split("\n")]
    return "".join(f"{line.strip()}\r\n" for line in lines)


def call_of(rig: Rig) -> str:
    return rig.event(CallOffered).call


def lines_of(response: Response) -> list[str]:
    return response.body.decode().split("\r\n")


def test_1_options_outside_a_dialog() -> None:
    (answer,) = Rig().responses(request("OPTIONS"))
    assert answer.status == 200
    assert answer.to.tag
    assert answer.headers.get("Allow") == "INVITE, ACK, BYE, CANCEL, OPTIONS, INFO, UPDATE, NOTIFY, PRACK"
    assert answer.headers.get("Accept") == "application/sdp"
    assert answer.headers.get("Supported") == "timer, 100rel"


def test_2_rport_is_honoured_and_written() -> None:
    rig = Rig(source=("127.0.0.1", 41000))
    rig.send(request("OPTIONS", via="SIP/2.0/UDP 10.1.1.1:5070;rport"))
    assert (rig.sent[0].to.host, rig.sent[0].to.port) == ("127.0.0.1", 41000)
    answer = parse(rig.sent[0].data)
    assert answer.headers.get("Via") == (
        "SIP/2.0/UDP 10.1.1.1:5070;rport=41000;branch=z9hG4bKOPTIONS1;received=127.0.0.1"
    )


def test_2_without_rport_the_answer_goes_to_the_port_in_via() -> None:
    rig = Rig(source=("127.0.0.1", 41000))
    rig.send(request("OPTIONS", via="SIP/2.0/UDP 10.1.1.1:5072"))
    assert (rig.sent[0].to.host, rig.sent[0].to.port) == ("127.0.0.1", 5072)


def test_3_from_call_id_cseq_and_every_via_come_back_unchanged() -> None:
    extra = "Via: SIP/2.0/TCP b.example ; branch = z9hG4bKb , SIP/2.0/UNKNOWN c.example;branch=z9hG4bKc"
    (answer,) = Rig().responses(request("OPTIONS", 77, extra=extra))
    assert answer.headers.get_all("Via") == [
        "SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bKOPTIONS77",
        "SIP/2.0/TCP b.example ; branch = z9hG4bKb , SIP/2.0/UNKNOWN c.example;branch=z9hG4bKc",
    ]
    assert answer.headers.get("From") == '"Ann" <sip:ann@127.0.0.1>;tag=ft'
    assert answer.headers.get("Call-ID") == "call-1@phone"
    assert answer.headers.get("CSeq") == "77 OPTIONS"


def test_4_the_first_thing_said_to_an_invite_is_100_before_anything_is_decided() -> None:
    rig = Rig()
    actions = rig.ua.receive(invite(), rig.source, "udp", rig.now)
    assert isinstance(actions[0], Send)
    assert actions[0].data.startswith(b"SIP/2.0 100 Trying\r\n")
    assert b";tag=" not in actions[0].data.split(b"\r\nTo:")[1].split(b"\r\n")[0]
    assert isinstance(actions[1], CallOffered)


def test_5_180_and_200_carry_one_tag_and_the_200_all_that_a_phone_needs() -> None:
    rig = Rig()
    rig.send(invite())
    (ringing,) = rig.take(rig.ua.ring(call_of(rig), rig.now))
    (ok,) = rig.take(rig.ua.accept(call_of(rig), LOCAL, rig.now))
    assert isinstance(ringing, Response)
    assert isinstance(ok, Response)
    assert (ringing.status, ok.status) == (180, 200)
    assert ringing.to.tag == ok.to.tag != ""
    assert ok.headers.get("Contact") == "<sip:agent@192.0.2.1:5060>"
    assert "INVITE" in (ok.headers.get("Allow") or "")
    assert ok.headers.get("Content-Type") == "application/sdp"
    told = re.search(rb"Content-Length: (\d+)\r\n\r\n(.*)", rig.sent[-1].data, re.DOTALL)
    assert told is not None
    assert int(told.group(1)) == len(told.group(2)) == len(ok.body) > 0


def test_6_three_copies_of_one_invite_make_one_call() -> None:
    rig = Rig()
    for _ in range(3):
        assert [one.status for one in rig.responses(invite())] == [100]
    rig.event(CallOffered)
    rig.take(rig.ua.accept(call_of(rig), LOCAL, rig.now))
    answer = rig.sent[-1].data
    rig.send(invite())
    assert rig.sent[-1].data == answer
    assert rig.ua.calls == 1


def test_7_the_200_is_repeated_until_the_ack() -> None:
    rig = Rig()
    _, ok = rig.answered(invite(), ack=None)
    assert [at for at, _ in rig.wait(8)] == [0.5, 1.5, 3.5, 7.5]
    rig.send(request("ACK", 1, to_tag=ok.to.tag, branch="ack"))
    assert rig.event(CallConfirmed)
    assert rig.wait(60) == []
    assert rig.ua.calls == 1


def test_7_without_an_ack_the_call_is_freed_after_32_s() -> None:
    rig = Rig()
    rig.answered(invite(), ack=None)
    said = rig.wait(32)
    assert [at for at, one in said if isinstance(one, Response)] == [
        0.5,
        1.5,
        3.5,
        7.5,
        11.5,
        15.5,
        19.5,
        23.5,
        27.5,
        31.5,
    ]
    assert [one.method for _, one in said if isinstance(one, Request)] == ["BYE"]
    assert rig.event(CallEnded).reason == "no_ack"
    rig.wait(64)
    assert (rig.ua.calls, rig.ua.transactions) == (0, 0)


def test_8_a_bye_its_repeat_and_another_one() -> None:
    rig = Rig()
    _, ok = rig.answered(invite())
    bye = request("BYE", 2, to_tag=ok.to.tag)
    assert rig.status(bye) == 200
    assert rig.status(bye) == 200
    assert rig.event(CallEnded).reason == "hung_up"
    assert rig.status(request("BYE", 3, to_tag=ok.to.tag)) == 481


@pytest.mark.parametrize("change", [{"to_tag": "wrong"}, {"from_tag": "wrong"}, {"call_id": "wrong"}])
def test_9_a_bye_for_another_dialog_leaves_the_call_alone(change: dict[str, Any]) -> None:
    rig = Rig()
    _, ok = rig.answered(invite())
    assert rig.status(request("BYE", 2, **{"to_tag": ok.to.tag, **change})) == 481
    assert rig.ua.calls == 1
    assert rig.status(request("BYE", 2, to_tag=ok.to.tag, branch="real")) == 200


def test_10_a_cancel_while_ringing() -> None:
    rig = Rig()
    rig.send(invite())
    rig.take(rig.ua.ring(call_of(rig), rig.now))
    answers = rig.responses(request("CANCEL", 1, branch="INVITE1"))
    assert [(one.status, one.cseq.method) for one in answers] == [(200, "CANCEL"), (487, "INVITE")]
    assert rig.event(CallEnded).reason == "cancelled"
    assert [at for at, _ in rig.wait(2)] == [0.5, 1.5]
    rig.send(request("ACK", 1, to_tag=answers[1].to.tag, branch="INVITE1"))
    assert rig.wait(60) == []
    assert rig.ua.transactions == 0


def test_10_a_cancel_without_an_invite_and_one_that_is_too_late() -> None:
    rig = Rig()
    assert rig.status(request("CANCEL", 1)) == 481
    rig.answered(invite(), ack=None)
    assert [one.status for one in rig.responses(request("CANCEL", 1, branch="INVITE1"))] == [200]
    assert rig.ua.calls == 1


@pytest.mark.parametrize(("method", "status"), [("FROBNICATE", 501), ("MESSAGE", 405), ("REFER", 405)])
def test_11_unknown_methods(method: str, status: int) -> None:
    (answer,) = Rig().responses(request(method))
    assert answer.status == status
    assert "INVITE" in (answer.headers.get("Allow") or "")


def test_11_an_ack_to_nothing_gets_silence() -> None:
    assert Rig().send(request("ACK", 1, to_tag="x")) == []
    assert Rig().send(request("ACK", 1)) == []


def test_12_unknown_extensions_are_named() -> None:
    (answer,) = Rig().responses(invite(extra="Require: timer, x, 100rel, y"))
    assert (answer.status, answer.headers.get("Unsupported")) == (420, "x, y")


def test_13_an_invite_of_no_dialog_and_a_number_that_falls() -> None:
    assert Rig().status(invite(to_tag="nobody")) == 481
    rig = Rig()
    _, ok = rig.answered(invite(number=5), ack=None)
    rig.send(request("ACK", 5, to_tag=ok.to.tag))
    assert rig.status(request("INFO", 4, to_tag=ok.to.tag)) == 500
    assert rig.status(request("INFO", 6, to_tag=ok.to.tag)) == 200


def test_14_a_wrong_type_and_a_wrong_version() -> None:
    (answer,) = Rig().responses(invite("<xml/>", kind="application/xml"))
    assert (answer.status, answer.headers.get("Accept")) == (415, "application/sdp")
    assert Rig().status(request("OPTIONS").replace(b"SIP/2.0\r\n", b"SIP/7.0\r\n", 1)) == 505
    (answer,) = Rig().responses(invite(extra="Content-Encoding: gzip"))
    assert (answer.status, answer.headers.get("Accept-Encoding")) == (415, "identity")


@pytest.mark.parametrize("name", ["From", "To", "Call-ID", "CSeq"])
def test_15_a_header_that_is_missing_or_repeated(name: str) -> None:
    lines = request("OPTIONS").split(b"\r\n")
    at = next(at for at, line in enumerate(lines) if line.startswith(name.encode() + b":"))
    assert Rig().status(b"\r\n".join(lines[:at] + lines[at + 1 :])) == 400
    assert Rig().status(b"\r\n".join([*lines[:at], lines[at], *lines[at:]])) == 400


@pytest.mark.parametrize("length", ["-1", "9999", "x", "1\r\nContent-Length: 2"])
def test_15_a_content_length_that_cannot_be(length: str) -> None:
    assert Rig().status(request("OPTIONS", extra=f"Content-Length: {length}")) == 400
    assert Rig().status(request("ACK", extra=f"Content-Length: {length}")) is None


def test_15_cseq_and_method_differ() -> None:
    assert Rig().status(request("OPTIONS", cseq_method="INVITE")) == 400


def test_16_record_route_is_copied_and_our_bye_follows_it() -> None:
    rig = Rig()
    extra = "Record-Route: <sip:p2.example;lr>, <sip:127.0.0.3:5080;lr>"
    call, ok = rig.answered(invite(extra=extra))
    assert ok.headers.get_all("Record-Route") == ["<sip:p2.example;lr>, <sip:127.0.0.3:5080;lr>"]
    (bye,) = rig.take(rig.ua.hang_up(call, rig.now))
    assert isinstance(bye, Request)
    assert bye.uri == "sip:ann@127.0.0.1:5070"
    assert bye.headers.get_all("Route") == ["<sip:p2.example;lr>", "<sip:127.0.0.3:5080;lr>"]
    assert str(rig.sent[-1].to) == "udp:p2.example"


def test_18_a_burst_of_200_invites_leaves_room_for_an_options() -> None:
    rig = Rig()
    for number in range(200):
        assert rig.status(invite(call_id=f"burst-{number}", branch=f"b{number}")) == 100
    assert rig.status(request("OPTIONS")) == 200
    assert rig.ua.calls == 200


def test_19_requests_on_a_stream() -> None:
    rig, framer = Rig(transport="tcp"), StreamFramer()
    two = b"\r\n" + request("OPTIONS", 1) + request("OPTIONS", 2)
    found = [*framer.feed(two[:40]), *framer.feed(two[40:500]), *framer.feed(two[500:])]
    assert [rig.status(one) for one in found] == [200, 200]
    assert [str(one.to) for one in rig.sent] == ["tcp:127.0.0.1:5070"] * 2
    rig.sent.clear()
    for ping in framer.feed(b"\r\n\r\n"):
        rig.ua.receive(ping, rig.source, "tcp", rig.now)
    assert rig.ua.receive(b"\r\n\r\n", rig.source, "tcp", rig.now)[0] == Send(b"\r\n", rig_address(rig))
    assert rig.ua.receive(b"\r\n\r\n", rig.source, "udp", rig.now) == []


def rig_address(rig: Rig) -> Any:
    from fastagent.connectors.sip.actions import Address

    return Address(*rig.source, rig.transport)


def test_21_session_timer() -> None:
    rig = Rig()
    (short,) = rig.responses(invite(extra="Supported: timer\nSession-Expires: 60"))
    assert (short.status, short.headers.get("Min-SE")) == (422, "90")
    _, ok = rig.answered(invite(number=2, extra="Supported: timer\nSession-Expires: 90;refresher=uac"), ack=None)
    rig.send(request("ACK", 2, to_tag=ok.to.tag))
    assert ok.headers.get("Session-Expires") == "90;refresher=uac"
    assert ok.headers.get("Require") == "timer"
    rig.wait(50)
    refresh = request("UPDATE", 3, to_tag=ok.to.tag, extra="Supported: timer\nSession-Expires: 90;refresher=uac")
    (answer,) = rig.responses(refresh)
    assert (answer.status, answer.headers.get("Session-Expires")) == (200, "90;refresher=uac")
    assert rig.wait(59) == []
    (bye,) = [one for _, one in rig.wait(1.2)]
    assert isinstance(bye, Request)
    assert (bye.method, rig.event(CallEnded).reason) == ("BYE", "timeout")


def test_22_no_common_codec() -> None:
    (answer,) = Rig().responses(invite(offer("m=audio 4000 RTP/AVP 18")))
    assert (answer.status, answer.headers.get("Warning")) == (488, '305 fastagent "no common codec"')
    for host in ("pbx.example", "2001:db8::9", "224.0.0.1"):
        (answer,) = Rig().responses(invite(offer(host=host)))
        assert (answer.status, answer.headers.get("Warning")) == (488, '305 fastagent "no usable address"')
    rig = Rig()
    call, ok = rig.answered(invite())
    before = rig.ua.media(call)
    assert rig.status(invite(offer("m=audio 4002 RTP/AVP 18"), 2, to_tag=ok.to.tag)) == 488
    assert rig.ua.media(call) == before
    assert rig.status(request("INFO", 3, to_tag=ok.to.tag)) == 200


def test_23_an_offer_in_the_200_and_its_answer_in_the_ack() -> None:
    rig = Rig()
    rig.send(request("INVITE"))
    assert rig.has(CallOffered)
    (ok,) = rig.take(rig.ua.accept(call_of(rig), LOCAL, rig.now))
    assert isinstance(ok, Response)
    assert "m=audio 10000 RTP/AVP 0 8 101" in lines_of(ok)
    assert not rig.has(CallAnswered)
    rig.send(
        request("ACK", 1, to_tag=ok.to.tag, body=offer("m=audio 4000 RTP/AVP 8 101\na=rtpmap:101 telephone-event/8000"))
    )
    media = rig.event(CallAnswered).media
    assert (media.codec, media.remote, media.dtmf_payload_type) == (PCMA, ("192.0.2.9", 4000), 101)


def test_23_an_ack_without_the_answer_ends_the_call() -> None:
    rig = Rig()
    _, ok = rig.answered(request("INVITE"), ack=None)
    (bye,) = rig.send(request("ACK", 1, to_tag=ok.to.tag))
    assert isinstance(bye, Request)
    assert bye.method == "BYE"
    assert rig.event(CallEnded).reason == "protocol_error"


@pytest.mark.parametrize(
    ("formats", "chosen"), [("8", "8"), ("8 0", "8"), ("0 8", "0"), ("18 3 8", "8"), ("9 0", "9"), ("96 0", "96")]
)
def test_24_the_offers_order_is_kept_and_nothing_else_answered(formats: str, chosen: str) -> None:
    rig = Rig(changed(media=Capabilities(ALL_CODECS)))
    _, ok = rig.answered(invite(offer(f"m=audio 4000 RTP/AVP {formats}\na=rtpmap:96 OPUS/48000/2")))
    assert f"m=audio 10000 RTP/AVP {chosen}" in lines_of(ok)


@pytest.mark.parametrize("number", [96, 101, 110])
def test_25_telephone_event_keeps_the_number_that_was_offered(number: int) -> None:
    rig = Rig()
    _, ok = rig.answered(invite(offer(f"m=audio 4000 RTP/AVP 0 {number}\na=rtpmap:{number} telephone-event/8000")))
    assert {
        f"m=audio 10000 RTP/AVP 0 {number}",
        f"a=rtpmap:{number} telephone-event/8000",
        f"a=fmtp:{number} 0-15",
    } <= set(lines_of(ok))
    assert rig.event(CallAnswered).media.dtmf_payload_type == number


def test_26_video_is_refused_in_its_place() -> None:
    rig = Rig()
    _, ok = rig.answered(invite(offer("m=video 4002 RTP/AVP 31 34\nm=audio 4000 RTP/AVP 0\nm=image 4004 udptl t38")))
    assert [line for line in lines_of(ok) if line.startswith("m=")] == [
        "m=video 0 RTP/AVP 31",
        "m=audio 10000 RTP/AVP 0",
        "m=image 0 udptl t38",
    ]


@pytest.mark.parametrize(
    ("kind", "body"),
    [("application/dtmf-relay", "Signal = 5\r\nDuration = 250\r\n"), ("application/dtmf", "5")],
)
def test_33_keys_by_info(kind: str, body: str) -> None:
    rig = Rig()
    call, ok = rig.answered(invite())
    info = request("INFO", 2, to_tag=ok.to.tag, body=body, kind=kind)
    assert rig.status(info) == 200
    assert rig.status(info) == 200
    assert rig.event(DtmfInfo) == DtmfInfo(call, "5", 250 if "Duration" in body else 160)
    assert Rig().status(info) == 481


@pytest.mark.parametrize(
    ("hold", "host", "answered"),
    [("sendonly", "192.0.2.9", "recvonly"), ("inactive", "192.0.2.9", "inactive"), ("sendrecv", "0.0.0.0", "recvonly")],
)
def test_34_hold_and_resume(hold: str, host: str, answered: str) -> None:
    rig = Rig()
    call, ok = rig.answered(invite())
    held = invite(offer(f"m=audio 4000 RTP/AVP 0 8\na={hold}", host=host, version=2), 2, to_tag=ok.to.tag)
    (answer,) = rig.responses(held)
    assert f"a={answered}" in lines_of(answer)
    assert "c=IN IP4 192.0.2.1" in lines_of(answer)
    assert rig.event(Held).media.held
    rig.send(request("ACK", 2, to_tag=ok.to.tag, branch="ack2"))
    (answer,) = rig.responses(invite(offer(version=3), 3, to_tag=ok.to.tag))
    assert "a=sendrecv" in lines_of(answer)
    assert not rig.event(Resumed).media.held
    assert rig.event(Resumed).call == call


def test_35_a_reinvite_moves_the_media() -> None:
    rig = Rig()
    _, ok = rig.answered(invite())
    (answer,) = rig.responses(invite(SDP.replace("audio 4000", "audio 4444"), 2, to_tag=ok.to.tag))
    assert answer.status == 200
    assert rig.event(MediaChanged).media.remote == ("192.0.2.9", 4444)
    assert answer.body == ok.body  # our own side is as it was: the same version, byte for byte


def test_39_our_bye_names_the_dialog_and_is_repeated() -> None:
    rig = Rig()
    call, ok = rig.answered(invite())
    (bye,) = rig.take(rig.ua.hang_up(call, rig.now, items=(("Reason", 'Q.850;cause=16;text="done"'),)))
    assert isinstance(bye, Request)
    assert (bye.method, bye.uri) == ("BYE", "sip:ann@127.0.0.1:5070")
    assert bye.headers.get("From") == f"<sip:desk@192.0.2.1>;tag={ok.to.tag}"
    assert bye.headers.get("To") == '"Ann" <sip:ann@127.0.0.1>;tag=ft'
    assert bye.headers.get("Reason") == 'Q.850;cause=16;text="done"'
    assert [at for at, _ in rig.wait(40)] == [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]
    assert (rig.event(CallEnded).reason, rig.ua.transactions, rig.ua.calls) == ("local", 0, 0)


def test_39_a_bye_that_crosses_ours_gets_200() -> None:
    rig = Rig()
    call, ok = rig.answered(invite())
    rig.take(rig.ua.hang_up(call, rig.now))
    assert rig.status(request("BYE", 2, to_tag=ok.to.tag)) == 200
    rig.event(CallEnded)
