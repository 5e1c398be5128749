"""Descriptions, offers and answers: literal text in, literal text out."""

from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastagent.connectors.sip.crypto import choose_crypto, parse_crypto
from fastagent.connectors.sip.grammar import Malformed
from fastagent.connectors.sip.media import ALL_CODECS, G722, L16_16K, OPUS, PCMA, PCMU, Capabilities, Crypto
from fastagent.connectors.sip.offer_answer import MediaSession, NotAcceptable
from fastagent.connectors.sip.plan import plan_of
from fastagent.connectors.sip.sdp import MAX_SDP, MediaLine, Origin, SessionDescription, parse_sdp, usable_host
from tests.connectors.sip.rig import tokens

LOCAL = ("192.0.2.1", 10000)
KEY = b64encode(bytes(range(30))).decode()


def sdp(*lines: str, host: str = "192.0.2.9") -> bytes:
    return "".join(
        f"{line}\r\n" for line in ("v=0", "o=p 1 1 IN IP4 192.0.2.9", "s=-", f"c=IN IP4 {host}", "t=0 0", *lines)
    ).encode()


def session(*codecs: Any, **changes: Any) -> MediaSession:
    one = MediaSession(Capabilities(codecs or (PCMU, PCMA), **changes), tokens())
    one.local = LOCAL
    return one


def audio(body: bytes) -> list[str]:
    return body.decode().split("t=0 0\r\n")[1].removesuffix("\r\n").split("\r\n")


def test_an_answer_to_the_letter() -> None:
    answer = session().take_offer(sdp("m=audio 4000 RTP/AVP 8 0 96", "a=rtpmap:96 telephone-event/8000", "a=ptime:30"))
    number = answer.decode().split("o=- ")[1].split(" ")[0]
    assert answer.decode() == (
        f"v=0\r\no=- {number} 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n"
        "m=audio 10000 RTP/AVP 8 96\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:96 telephone-event/8000\r\na=fmtp:96 0-15\r\n"
        "a=ptime:30\r\na=sendrecv\r\n"
    )


def test_what_is_agreed() -> None:
    one = session(OPUS, PCMU)
    one.take_offer(
        sdp(
            "m=audio 4000 RTP/AVP 96 0 97 98",
            "a=rtpmap:96 OPUS/48000/2",
            "a=fmtp:96 stereo=0;maxaveragebitrate=20000",
            "a=rtpmap:97 telephone-event/8000",
            "a=rtpmap:98 telephone-event/48000",
            "a=rtcp:4007 IN IP4 192.0.2.10",
        )
    )
    media = one.agreed
    assert media is not None
    assert (media.codec, media.payload_type, media.dtmf_payload_type) == (OPUS, 96, 98)
    assert (media.local, media.remote, media.remote_rtcp) == (LOCAL, ("192.0.2.9", 4000), ("192.0.2.10", 4007))
    assert media.fmtp == "stereo=0;maxaveragebitrate=20000"
    assert (media.receivable, media.dtmf_receivable, media.direction) == (((96, OPUS),), 98, "sendrecv")


@pytest.mark.parametrize(
    ("lines", "codec"),
    [
        (["m=audio 4000 RTP/AVP 9 0"], G722),
        (["m=audio 4000 RTP/AVP 99", "a=rtpmap:99 l16/16000"], L16_16K),
        (["m=audio 4000 RTP/AVP 99", "a=rtpmap:99 pcma/8000/1"], PCMA),
        (["m=audio 4000 RTP/AVP 99 0", "a=rtpmap:99 opus/48000"], PCMU),  # it says two channels, or it is not Opus
        (["m=audio 4000 RTP/AVP 8", "a=rtpmap:8 pcma/8000"], PCMA),
        (["m=audio 4000 RTP/AVPF 0"], PCMU),
        (["m=audio 0 RTP/AVP 0", "m=audio 4002 RTP/AVP 8"], PCMA),
    ],
)
def test_codecs_are_found_by_name_clock_and_channels(lines: list[str], codec: Any) -> None:
    one = session(*ALL_CODECS)
    one.take_offer(sdp(*lines))
    assert one.agreed is not None
    assert one.agreed.codec == codec


def test_our_order_where_a_setting_prefers_it() -> None:
    one = session(G722, PCMU, prefer_ours=True)
    assert audio(one.take_offer(sdp("m=audio 4000 RTP/AVP 0 9")))[0] == "m=audio 10000 RTP/AVP 9"


@pytest.mark.parametrize(
    ("lines", "host", "reason"),
    [
        ([], "192.0.2.9", "no audio was offered"),
        (["m=video 4000 RTP/AVP 31"], "192.0.2.9", "no audio was offered"),
        (["m=audio 0 RTP/AVP 0"], "192.0.2.9", "no audio was offered"),
        (["m=audio 4000 RTP/AVP 18"], "192.0.2.9", "no common codec"),
        (
            ["m=audio 4000 RTP/SAVP 0", f"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}"],
            "192.0.2.9",
            "incompatible transport protocol",
        ),
        (["m=audio 4000 UDP/TLS/RTP/SAVPF 0"], "192.0.2.9", "incompatible transport protocol"),
        (["m=audio 4000 RTP/AVP 0"], "224.1.1.1", "no usable address"),
    ],
)
def test_what_cannot_be_had_changes_nothing(lines: list[str], host: str, reason: str) -> None:
    one = session()
    one.take_offer(sdp("m=audio 4000 RTP/AVP 0"))
    before = one.agreed
    with pytest.raises(NotAcceptable, match=reason):
        one.take_offer(sdp(*lines, host=host))
    assert one.agreed is before


@pytest.mark.parametrize(
    ("told", "ptime"),
    [
        ([], 20),
        (["a=ptime:10"], 10),
        (["a=ptime:25"], 20),
        (["a=ptime:40", "a=maxptime:30"], 30),
        (["a=maxptime:5"], 10),
        (["a=ptime:x"], 20),
        (["a=maxptime:99999"], 20),
    ],
)
def test_ptime_is_a_wish(told: list[str], ptime: int) -> None:
    one = session()
    assert f"a=ptime:{ptime}" in audio(one.take_offer(sdp("m=audio 4000 RTP/AVP 0", *told)))
    assert one.agreed is not None
    assert one.agreed.ptime_ms == ptime


@pytest.mark.parametrize(
    ("host", "direction", "on_hold", "answered", "held"),
    [
        ("192.0.2.9", "", False, "sendrecv", False),
        ("192.0.2.9", "a=sendonly", False, "recvonly", True),
        ("192.0.2.9", "a=recvonly", False, "sendonly", False),
        ("192.0.2.9", "a=inactive", False, "inactive", True),
        ("0.0.0.0", "", False, "recvonly", True),
        ("0.0.0.0", "a=inactive", False, "inactive", True),
        ("192.0.2.9", "", True, "sendonly", False),
        ("192.0.2.9", "a=sendonly", True, "inactive", True),
    ],
)
def test_directions(host: str, direction: str, on_hold: bool, answered: str, held: bool) -> None:
    one = session()
    one.on_hold = on_hold
    lines = ["m=audio 4000 RTP/AVP 0", *([direction] if direction else [])]
    assert f"a={answered}" in audio(one.take_offer(sdp(*lines, host=host)))
    assert one.agreed is not None
    assert (one.agreed.direction, one.agreed.held) == (answered, held)


def test_a_direction_of_the_session_counts_for_its_streams() -> None:
    one = session()
    body = sdp("a=sendonly", "m=audio 4000 RTP/AVP 0")
    assert "a=recvonly" in audio(one.take_offer(body))


def test_the_version_rises_only_with_a_change() -> None:
    one = session()
    first = one.take_offer(sdp("m=audio 4000 RTP/AVP 0"))
    assert one.take_offer(sdp("m=audio 4444 RTP/AVP 0")) == first
    second = one.take_offer(sdp("m=audio 4444 RTP/AVP 8"))
    assert (parse_sdp(first).origin.version, parse_sdp(second).origin.version) == (1, 2)
    one.local = ("192.0.2.77", 10002)
    third = parse_sdp(one.take_offer(sdp("m=audio 4444 RTP/AVP 8")))
    assert (third.origin.version, third.origin.host, third.host) == (3, "192.0.2.1", "192.0.2.77")


def test_an_offer_of_ours_to_the_letter_and_its_answer() -> None:
    one = session(OPUS, PCMU)
    assert audio(one.make_offer()) == [
        "m=audio 10000 RTP/AVP 111 0 102 101",
        "a=rtpmap:111 opus/48000/2",
        "a=fmtp:111 minptime=10;useinbandfec=1",
        "a=rtpmap:0 PCMU/8000",
        "a=rtpmap:102 telephone-event/48000",
        "a=fmtp:102 0-15",
        "a=rtpmap:101 telephone-event/8000",
        "a=fmtp:101 0-15",
        "a=ptime:20",
        "a=sendrecv",
    ]
    one.take_answer(sdp("m=audio 4000 RTP/AVP 0 101", "a=rtpmap:101 telephone-event/8000"))
    media = one.agreed
    assert media is not None
    assert (media.codec, media.payload_type, media.dtmf_payload_type) == (PCMU, 0, 101)
    assert media.receivable == ((111, OPUS), (0, PCMU))


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["m=audio 0 RTP/AVP 0"],
        ["m=audio 4000 RTP/AVP 18"],
        ["m=audio 4000 RTP/SAVP 0"],
        ["m=audio 4000 RTP/AVP 0", "m=video 4002 RTP/AVP 31"],
    ],
)
def test_answers_that_take_nothing(lines: list[str]) -> None:
    one = session()
    one.make_offer()
    with pytest.raises(NotAcceptable):
        one.take_answer(sdp(*lines))
    assert one.agreed is None


def test_an_offer_in_mid_call_keeps_numbers_and_places() -> None:
    one = session(PCMU, OPUS)
    one.take_offer(
        sdp(
            "m=video 4002 RTP/AVP 31",
            "m=audio 4000 RTP/AVP 96 111",
            "a=rtpmap:96 opus/48000/2",
            "a=rtpmap:111 telephone-event/48000",
        )
    )
    assert audio(one.make_offer())[:2] == ["m=video 0 RTP/AVP 31", "m=audio 10000 RTP/AVP 96 0 111 101"]


def test_reports_have_a_port_of_their_own() -> None:
    assert "a=rtcp-mux" not in audio(session().take_offer(sdp("m=audio 4000 RTP/AVP 0", "a=rtcp-mux")))


# -- keys ------------------------------------------------------------------------------------------------------------


def test_sdes_the_chosen_tag_is_answered_with_our_own_key() -> None:
    one = session(srtp="optional")
    offer = sdp(
        "m=audio 4000 RTP/SAVP 0",
        f"a=crypto:1 AEAD_AES_128_GCM inline:{KEY}",
        f"a=crypto:2 AES_CM_128_HMAC_SHA1_32 inline:{KEY}|2^20|1:4",
        f"a=crypto:3 AES_CM_128_HMAC_SHA1_80 inline:{KEY}|2^31",
    )
    answer = audio(one.take_offer(offer))
    media = one.agreed
    assert media is not None
    assert media.crypto_receive == Crypto(3, "AES_CM_128_HMAC_SHA1_80", bytes(range(30)))
    assert media.crypto_send is not None
    assert answer[0] == "m=audio 10000 RTP/SAVP 0"
    ours = b64encode(media.crypto_send.key).decode()
    assert f"a=crypto:3 AES_CM_128_HMAC_SHA1_80 inline:{ours}" in answer
    assert ours != KEY
    assert audio(one.take_offer(offer)) == answer  # the key stays


def test_sdes_by_setting() -> None:
    plain = sdp("m=audio 4000 RTP/AVP 0", f"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}")
    both = sdp("m=audio 4000 RTP/AVP 0", "m=audio 4000 RTP/SAVP 0", f"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}")
    assert not [line for line in audio(session(srtp="optional").take_offer(plain)) if "crypto" in line]
    with pytest.raises(NotAcceptable):
        session(srtp="required").take_offer(plain)
    assert audio(session(srtp="optional").take_offer(both))[0] == "m=audio 0 RTP/AVP 0"


def test_sdes_offered_by_us() -> None:
    caller, callee = session(srtp="required"), session(srtp="optional")
    caller.take_answer(callee.take_offer(caller.make_offer()))
    assert caller.agreed is not None
    assert callee.agreed is not None
    assert caller.agreed.crypto_send == callee.agreed.crypto_receive
    assert caller.agreed.crypto_receive == callee.agreed.crypto_send
    again = caller.make_offer()
    callee.take_offer(again)
    assert callee.agreed.crypto_receive == caller.agreed.crypto_send


@pytest.mark.parametrize(
    "text",
    ["", "1 AES_CM_128_HMAC_SHA1_80 inline:AAAA", "x AES_CM_128_HMAC_SHA1_80 inline:" + KEY, "1 NULL inline:" + KEY],
)
def test_keys_that_cannot_be_used(text: str) -> None:
    assert parse_crypto(text) is None
    assert choose_crypto([text]) is None


# -- descriptions ----------------------------------------------------------------------------------------------------


def test_s13_a_line_break_never_reaches_a_description() -> None:
    line = MediaLine("audio", 1, "RTP/AVP", ("0",), None, (("note", "a\r\nm=audio 1"),))
    with pytest.raises(ValueError, match="line break"):
        bytes(SessionDescription(Origin(1, 1, "h"), (line,), "h"))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00\xff",
        b"m=audio 1 RTP/AVP 0\r\n",
        sdp("m=audio"),
        sdp("m=audio x RTP/AVP 0"),
        sdp("m=audio 70000 RTP/AVP 0"),
        sdp(*["m=audio 1 RTP/AVP 0"] * 9),
        sdp("a=" + "x" * MAX_SDP),
        sdp(host="a b"),
        sdp(host="<x>"),
    ],
)
def test_what_is_no_description_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        parse_sdp(body)


def test_odd_lines_are_passed_over() -> None:
    body = sdp("m=audio 4000 RTP/AVP 0", "m =video 3227 RTP/AVP 31", "rubbish", "a=", "c=IN IP4 192.0.2.44/127")
    parsed = parse_sdp(body.replace(b"\r\n", b"\n"))
    assert [parsed.host_of(media) for media in parsed.media] == ["192.0.2.44"]
    assert usable_host("192.0.2.9", ipv6=False)
    assert usable_host("2001:db8::9", ipv6=True)
    for host in ("pbx.example", "localhost", "2001:db8::9", "224.0.0.1", ""):
        assert not usable_host(host, ipv6=False)
    for host in ("192.0.2.9", "ff02::1"):
        assert not usable_host(host, ipv6=True)


LINES = st.sampled_from(
    [
        "m=audio 4000 RTP/AVP 0 8 96",
        "m=audio 1 RTP/SAVP 9",
        "m=video 1 RTP/AVP 31",
        "a=rtpmap:96 opus/48000/2",
        "a=sendonly",
        "a=rtpmap:96 telephone-event/8000",
        "a=ptime:",
        "a=rtcp:99999999999",
        "a=rtpmap:",
        "c=IN IP6 ::",
        "a=crypto:1",
        "a=fmtp:96",
        "a=maxptime:1",
    ]
) | st.text(max_size=30)


@pytest.mark.parametrize("number", ["x", "\u0663", "1000", "128", "-1"])
def test_a_payload_type_that_is_none_is_not_taken(number: str) -> None:
    one = session()
    answer = one.take_offer(sdp(f"m=audio 4000 RTP/AVP {number} 0", f"a=rtpmap:{number} telephone-event/8000"))
    assert audio(answer)[0] == "m=audio 10000 RTP/AVP 0"
    with pytest.raises(NotAcceptable):
        one.take_offer(sdp(f"m=audio 4000 RTP/AVP {number}", f"a=rtpmap:{number} PCMU/8000"))


@given(st.lists(LINES, max_size=12))
def test_any_description_is_answered_or_refused(lines: list[str]) -> None:
    one = session(*ALL_CODECS, srtp="optional")
    try:
        answer = one.take_offer("\r\n".join(["v=0", "c=IN IP4 192.0.2.9", *lines]).encode())
    except (NotAcceptable, Malformed):
        assert one.agreed is None
        return
    assert one.agreed is not None
    assert bytes(parse_sdp(answer)) == answer
    one.make_offer()


@given(st.lists(LINES, max_size=12))
def test_any_answer_is_taken_or_refused(lines: list[str]) -> None:
    one = session(*ALL_CODECS)
    one.make_offer()
    try:
        one.take_answer("\r\n".join(["v=0", "c=IN IP4 192.0.2.9", *lines]).encode())
    except (NotAcceptable, Malformed):
        assert one.agreed is None


def test_events_of_another_clock_are_taken_where_there_are_none_of_the_codecs() -> None:
    one = session(OPUS)
    answer = one.take_offer(
        sdp("m=audio 4000 RTP/AVP 96 101", "a=rtpmap:96 opus/48000/2", "a=rtpmap:101 telephone-event/8000")
    )
    assert b"a=rtpmap:101 telephone-event/8000\r\n" in answer
    assert one.agreed is not None
    assert (one.agreed.dtmf_payload_type, one.agreed.dtmf_receivable) == (101, 101)


def test_packets_go_to_this_machine_only_if_the_other_side_is_on_it_and_to_nobodys_ever() -> None:
    near, far = session(), MediaSession(Capabilities((PCMU,)), tokens(), nearby=False)
    far.local = LOCAL
    line = "m=audio 4000 RTP/AVP 0"
    near.take_offer(sdp(line, host="127.0.0.1"))
    for one, host in ((far, "127.0.0.1"), (near, "255.255.255.255"), (near, "224.0.0.1")):
        with pytest.raises(NotAcceptable, match="no usable address"):
            one.take_offer(sdp(line, host=host))


def test_an_address_is_written_as_sockets_write_it() -> None:
    one = session(ipv6=True)
    one.local = ("2001:db8::9", 10000)
    one.take_offer(sdp("m=audio 4000 RTP/AVP 0").replace(b"c=IN IP4 192.0.2.9", b"c=IN IP6 2001:DB8:0::1"))
    assert one.agreed is not None
    assert one.agreed.remote == ("2001:db8::1", 4000)


def test_the_last_port_has_no_next() -> None:
    one = session()
    one.take_offer(sdp("m=audio 65535 RTP/AVP 0"))
    assert one.agreed is not None
    assert one.agreed.remote_rtcp == ("192.0.2.9", 65535)


def crypto(tag: int, suite: str, key: str = KEY) -> str:
    return f"a=crypto:{tag} {suite} inline:{key}"


def test_a_key_outlives_its_tag_and_our_next_offer_has_the_tag_that_was_agreed_on() -> None:
    one = session(srtp="optional")
    offer = sdp("m=audio 4000 RTP/SAVP 0", crypto(1, "F8_128_HMAC_SHA1_80"), crypto(2, "AES_CM_128_HMAC_SHA1_80"))
    one.take_offer(offer)
    before = one.agreed
    assert before is not None
    body = one.make_offer().decode()
    assert "a=crypto:2 AES_CM_128_HMAC_SHA1_80 inline:" in body
    one.take_answer(sdp("m=audio 4000 RTP/SAVP 0", crypto(2, "AES_CM_128_HMAC_SHA1_80")))
    assert one.agreed is not None
    assert (one.agreed.crypto_send, one.agreed.crypto_receive) == (before.crypto_send, before.crypto_receive)
    one.take_offer(sdp("m=audio 4000 RTP/SAVP 0", crypto(7, "AES_CM_128_HMAC_SHA1_80")))
    assert (one.agreed.crypto_send, one.agreed.crypto_receive) == (before.crypto_send, before.crypto_receive)
    plan = plan_of(before)
    assert plan_of(one.agreed, (before, plan)).srtp_out is plan.srtp_out


def test_a_key_of_ours_that_was_given_up_never_comes_back() -> None:
    one = session(srtp="optional")
    suites = ["AES_CM_128_HMAC_SHA1_80", "AES_CM_128_HMAC_SHA1_32", "AES_CM_128_HMAC_SHA1_80"]
    keys = []
    for suite in suites:
        one.take_offer(sdp("m=audio 4000 RTP/SAVP 0", crypto(1, suite)))
        assert one.agreed is not None
        assert one.agreed.crypto_send is not None
        keys.append(one.agreed.crypto_send.key)
    assert len(set(keys)) == 3


def test_a_number_is_told_once_and_stays_what_it_was() -> None:
    one = session(*ALL_CODECS)
    lines = "m=audio 4000 RTP/AVP 96 101", "a=rtpmap:96 opus/48000/2", "a=rtpmap:101 telephone-event/8000"
    one.take_offer(sdp(*lines))
    offer = audio(one.make_offer())
    numbers = offer[0].split()[3:]
    assert len(numbers) == len(set(numbers))
    assert [line for line in offer if "rtpmap:101 " in line] == ["a=rtpmap:101 telephone-event/8000"]


@pytest.mark.parametrize("host", ["::ffff:127.0.0.1", "::ffff:224.0.0.1", "::ffff:192.0.2.9"])
def test_another_family_in_disguise_is_no_address(host: str) -> None:
    assert not usable_host(host, ipv6=True)
