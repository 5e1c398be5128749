"""Messages in the log."""

import logging

import pytest

from fastagent.connectors.sip.trace import Trace, shown
from tests.support.sip_end import HOST, call, end, trunk_to, until

REGISTER = b"\r\n".join(
    (
        b"REGISTER sip:pbx.example.com SIP/2.0",
        b"Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1",
        b"i: 42@192.0.2.1",
        b'Authorization:\r\n Digest username="ann",\r\n\tresponse="6629fae49393a05397450978507c4ef1"',
        b"proxy-authorization : Basic c2VjcmV0",
        b"Subject: \x1b[2J\x07",
        b"Content-Type: application/sdp",
        b"",
        b"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj",
        b"a=crypto:inline:d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj",
        b"k=clear:topsecret",
        b"",
    )
)


def test_what_others_could_use_is_left_out_and_nothing_passes_for_a_line_of_the_log() -> None:
    assert shown(REGISTER).split("\n") == [
        "    REGISTER sip:pbx.example.com SIP/2.0",
        "    Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1",
        "    i: 42@192.0.2.1",
        "    Authorization: ***",
        "    proxy-authorization : ***",
        "    Subject: ?[2J?",
        "    Content-Type: application/sdp",
        "    ",
        "    a=crypto:1 AES_CM_128_HMAC_SHA1_80 ***",
        "    a=crypto: ***",
        "    k= ***",
    ]


@pytest.mark.parametrize(
    ("kind", "body"),
    [(b"application/dtmf-relay", b"Signal=7\r\nDuration=160\r\n"), (b"Application/DTMF", b"7")],
)
def test_keys_are_left_out(kind: bytes, body: bytes) -> None:
    text = shown(b"INFO sip:a@192.0.2.1 SIP/2.0\r\nContent-Type: " + kind + b"\r\n\r\n" + body)
    assert text.endswith("    \n    ***")
    assert "7" not in text


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"i" * 70_000, b"Authorization:" * 5000, b"i:" + b" " * 70_000])
def test_anything_can_be_shown(data: bytes) -> None:
    assert len(shown(data)) < 9000


def test_a_flood_is_counted_and_keep_alives_are_nothing(caplog: pytest.LogCaptureFixture) -> None:
    trace = Trace()
    with caplog.at_level(logging.INFO):
        for _ in range(300):
            trace.received(REGISTER, ("192.0.2.1", 5060), "udp", 0.0)
            trace.received(b"\r\n\r\n", ("192.0.2.1", 5060), "udp", 0.0)
        trace.sent(b"SIP/2.0 200 OK\r\nCall-ID: 42\r\n\r\n", "tcp:192.0.2.1:5060", 1.0)
    assert len(caplog.records) == 201
    assert [vars(one)["call_id"] for one in caplog.records[::200]] == ["42@192.0.2.1", "42"]
    assert vars(caplog.records[-1])["left_out"] == 100
    assert caplog.messages[-1].startswith("SIP sent to tcp:192.0.2.1:5060\n    SIP/2.0 200 OK\n")


async def test_a_call_can_be_read_in_the_log_of_whoever_asked_for_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        async with call({"trace": True}, {"trace": False}) as (_, mine, _, _):
            await mine.leg.send_dtmf("5")
    mine_id = mine.leg.info.call_id
    lines = [one for one in caplog.records if one.name.endswith(".trace")]
    assert {vars(one)["call_id"] for one in lines} == {mine_id}
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
