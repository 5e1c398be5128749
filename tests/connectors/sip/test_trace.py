"""Messages in the log."""

import logging

import pytest

from fastagent.connectors.sip.actions import Address
from fastagent.connectors.sip.trace import Trace, shown
from tests.support.sip_end import HOST, call, end, trunk_to, until

PEER = Address("192.0.2.1", 5060)
REGISTER = b"\r\n".join(
    (
        b"REGISTER sip:ann:topsecret@pbx.example.com SIP/2.0",
        b"Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1",
        b"i:\r\n 42@192.0.2.1",
        b'Authorization:\r\n Digest username="ann",\r\n\tresponse="6629fae49393a05397450978507c4ef1"',
        b"proxy-authorization : Basic c2VjcmV0",
        b'Authentication-Info: rspauth="6629fae49393a05397450978507c4ef1"',
        "Subject: \x1b[2J\x07 Jürgen \u202e\u2028SIP sent to".encode(),
        b"Accept: application/sdp, application/dtmf-relay",
        b"c : application / SDP;charset=utf-8",
        b"",
        b"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj",
        b"a=crypto:inline:d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj",
        b"a=key-mgmt:mikey AQAFgM0XflABAAAAAAAAAAAAAAsAyONQ6gAAAAAGEEoo",
        b"k=clear:topsecret",
        b"",
    )
)


def test_what_others_could_use_is_left_out_and_nothing_passes_for_a_line_of_the_log() -> None:
    assert shown(REGISTER).splitlines() == [
        "REGISTER sip:ann:***@pbx.example.com SIP/2.0",
        "Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1",
        "i: 42@192.0.2.1",
        "Authorization: ***",
        "proxy-authorization : ***",
        "Authentication-Info: ***",
        "Subject: ?[2J? Jürgen ??SIP sent to",
        "Accept: application/sdp, application/dtmf-relay",
        "c : application / SDP;charset=utf-8",
        "",
        "a=crypto:1 AES_CM_128_HMAC_SHA1_80 ***",
        "a=crypto: ***",
        "a=key-mgmt: ***",
        "k= ***",
    ]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (b"application/dtmf-relay", b"Signal=7\r\nDuration=160\r\n"),
        (b"Application/DTMF", b"7"),
        (b"application / dtmf-relay", b"Signal=7"),
        (b"application/vnd.nortelnetworks.digits", b"d=7"),
        (b"application/kpml-response+xml", b'<kpml-response digits="7"/>'),
        (b"multipart/mixed;boundary=x", b"--x\r\nContent-Type: application/dtmf\r\n\r\n7\r\n--x--"),
        (b"application/sdp-like", b"7"),
        (b"text/plain", b" 7\r\n\r\n 7"),
        (b"", b"7"),
    ],
)
def test_bodies_that_may_have_keys_in_them_are_left_out(kind: bytes, body: bytes) -> None:
    text = shown(b"INFO sip:a@192.0.2.1 SIP/2.0\r\nContent-Type: " + kind + b"\r\n\r\n" + body)
    assert text.endswith("\n\n***")
    assert "7" not in text


def test_a_message_in_a_message_keeps_its_secrets_too() -> None:
    inner = b"INVITE sip:b:pw@192.0.2.1 SIP/2.0\r\nAuthorization: Digest\r\n response=7\r\n\r\nk=clear:7\r\n"
    text = shown(b"\r\n\r\nNOTIFY sip:a@192.0.2.1 SIP/2.0\r\nc: message/sipfrag\r\n\r\n" + inner)
    assert text.startswith("NOTIFY sip:a@192.0.2.1 SIP/2.0\nc: message/sipfrag\n\nINVITE sip:b:***@192.0.2.1")
    assert text.endswith("\nAuthorization: ***\n\nk= ***")


def test_a_notification_of_a_transfer_is_shown() -> None:
    message = (
        b"NOTIFY sip:a@192.0.2.1 SIP/2.0\r\nContent-Type: message/sipfrag;version=2.0\r\n\r\nSIP/2.0 486 Busy Here\r\n"
    )
    assert shown(message).endswith("\n\nSIP/2.0 486 Busy Here")


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xfe\x00",
        b"i" * 70_000,
        b"Authorization:" * 5000,
        b"i:" + b" " * 70_000,
        b"sip:" * 20_000,
        b"\n " * 40_000,
    ],
)
def test_anything_can_be_shown(data: bytes) -> None:
    text = shown(data)
    assert len(text) < 9000
    assert text.endswith("\n(cut)") is (len(data) > 8192)


def test_a_flood_is_counted_and_keep_alives_are_nothing(caplog: pytest.LogCaptureFixture) -> None:
    trace = Trace()
    with caplog.at_level(logging.INFO):
        for _ in range(300):
            trace.received(REGISTER, PEER, 0.0)
            trace.received(b"\r\n\r\n", PEER, 0.0)
        trace.sent(b"SIP/2.0 200 OK\r\nCall-ID: 42\r\n\r\n", PEER, 1.0)
    assert len(caplog.records) == 201
    assert [vars(one)["call_id"] for one in caplog.records[::200]] == ["42@192.0.2.1", "42"]
    assert vars(caplog.records[-1])["left_out"] == 100
    assert caplog.messages[-1] == "SIP sent to udp:192.0.2.1:5060\n    SIP/2.0 200 OK\n    Call-ID: 42"
    assert all(line.startswith("    ") for line in caplog.messages[0].splitlines()[1:])


async def test_only_what_is_sent_is_said_to_be_and_to_whom(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        async with end(trace=True) as caller:
            caller.dial(f"sip:agent@{HOST}:9;transport=tcp")
            await until(lambda: caller.progress)
        assert not [one for one in caplog.records if one.name.endswith(".trace")]
        async with call({"trace": True}, to="agent") as (_, mine, callee, _):
            port = callee.sip.ports["udp"]
    assert {vars(one)["call_id"] for one in caplog.records if one.name.endswith(".trace")} == {mine.leg.info.call_id}
    assert f"SIP sent to udp:{HOST}:{port}" in caplog.text


async def test_a_call_can_be_read_in_the_log_of_whoever_asked_for_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        async with call({"trace": True}) as (_, mine, _, _):
            call_id = mine.leg.info.call_id
    lines = [one for one in caplog.records if one.name.endswith(".trace")]
    assert {vars(one)["call_id"] for one in lines} == {call_id}
    starts = [one.getMessage().split("\n")[1].strip() for one in lines]
    assert [text.split("@")[0] for text in starts[:4]] == [
        "INVITE sip:agent",
        "SIP/2.0 100 Trying",
        "SIP/2.0 200 OK",
        "ACK sip:agent",
    ]


async def test_a_password_is_not_in_the_log_but_the_refusal_is(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        async with (
            end(users={"ann": "secret"}, trust_loopback=False) as desk,
            end(trunk=trunk_to(desk, password="secret"), trace=True) as pbx,
        ):
            await until(lambda: pbx.registered)
    text = "".join(one for one in caplog.messages)
    assert f"SIP sent to udp:{HOST}" in text
    assert "401 Unauthorized" in text
    assert "Authorization: ***" in text
    assert "response=" not in text
