"""Messages: literal bytes in, literal meaning out, and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastagent.connectors.sip.grammar import Malformed, printable
from fastagent.connectors.sip.headers import CSeq, Headers, NameAddr, Via
from fastagent.connectors.sip.message import (
    MAX_HEADERS,
    MAX_LINE,
    MAX_MESSAGE,
    Message,
    Request,
    Response,
    parse,
    stamped,
)
from fastagent.connectors.sip.uri import Uri, sip_uri

PLAIN = (
    b"OPTIONS sip:desk@192.0.2.1 SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bK1\r\n"
    b"From: <sip:ann@127.0.0.1>;tag=1\r\n"
    b"To: <sip:desk@192.0.2.1>\r\n"
    b"Call-ID: 1\r\n"
    b"CSeq: 1 OPTIONS\r\n"
    b"Content-Length: 0\r\n\r\n"
)


def plain() -> Request:
    message = parse(PLAIN)
    assert isinstance(message, Request)
    return message


def test_a_request_is_read_and_written_to_the_byte() -> None:
    message = plain()
    assert (message.method, message.uri, message.version) == ("OPTIONS", "sip:desk@192.0.2.1", "SIP/2.0")
    assert bytes(message) == PLAIN


def test_a_response_is_read_and_written_to_the_byte() -> None:
    data = PLAIN.replace(b"OPTIONS sip:desk@192.0.2.1 SIP/2.0", b"SIP/2.0 200 All right")
    message = parse(data)
    assert isinstance(message, Response)
    assert (message.status, message.reason) == (200, "All right")
    assert bytes(message) == data


def test_names_are_found_in_any_case_and_in_their_compact_form() -> None:
    headers = Headers([("v", "a"), ("VIA", "b"), ("i", "1"), ("X-Odd", "y")])
    assert headers.get_all("Via") == ["a", "b"]
    assert headers.get("call-id") == "1"
    assert headers.get("x-odd") == "y"
    assert headers.get("To") is None
    assert "I" in headers


def test_commas_split_only_outside_quotes_and_brackets() -> None:
    headers = Headers([("Contact", '"A, B" <sip:a,b@c>, <sip:d@e>'), ("Contact", "sip:f@g")])
    assert headers.listed("contact") == ['"A, B" <sip:a,b@c>', "<sip:d@e>", "sip:f@g"]


def test_bytes_that_are_no_utf_8_come_back_as_they_were() -> None:
    data = PLAIN.replace(b"Call-ID: 1", b"Call-ID: \xff\xfe")
    assert bytes(parse(data)) == data
    assert printable("\udcff\r\nx") == "\ufffd  x"


@pytest.mark.parametrize("text", ["a\r\nb", "a\nb", "a\rb"])
def test_s13_a_line_break_never_reaches_a_header(text: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        Headers([("Subject", text)])
    with pytest.raises(ValueError, match="line break"):
        bytes(Request("OPTIONS", f"sip:{text}", Headers()))
    with pytest.raises(ValueError, match="line break"):
        bytes(Response(200, text, Headers()))


def test_s13_a_lone_cr_in_a_datagram_is_a_blank_in_an_answer() -> None:
    message = parse(PLAIN.replace(b"Call-ID: 1", b"Call-ID: 1\rX: 2"))
    assert message.headers.get("call-id") == "1 X: 2"


def test_bare_line_feeds_and_a_missing_end_are_read() -> None:
    assert parse(PLAIN.replace(b"\r\n", b"\n")) == plain()
    assert parse(PLAIN.removesuffix(b"\r\n\r\n")) == plain()


def test_lines_that_are_no_headers_are_passed_over() -> None:
    message = parse(PLAIN.replace(b"CSeq", b"Foobar roobar\r\nBad Name: x\r\nCSeq"))
    assert message == plain()


@pytest.mark.parametrize(
    "data",
    [
        PLAIN.replace(b"CSeq", b"X: 1\r\n" * MAX_HEADERS + b"CSeq"),
        PLAIN.replace(b"CSeq", b"X: " + b"y" * MAX_LINE + b"\r\nCSeq"),
    ],
)
def test_too_many_and_too_long_headers_are_a_fault(data: bytes) -> None:
    message = parse(data)
    assert isinstance(message, Request)
    assert message.fault


@pytest.mark.parametrize(
    "data", [b"", b"\x00" * 20, b"GET / HTTP/1.1\r\n\r\n", PLAIN + b"x" * MAX_MESSAGE, b"OPTIONS\r\n\r\n"]
)
def test_what_is_no_sip_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse(data)


def test_a_body_is_cut_at_content_length() -> None:
    assert parse(PLAIN.replace(b"Length: 0", b"Length: 3") + b"abcdef").body == b"abc"
    assert parse(PLAIN.replace(b"Content-Length: 0\r\n", b"") + b"abcdef").body == b"abcdef"


def test_stamping_believes_the_packet_and_not_the_header() -> None:
    message = parse(PLAIN.replace(b";branch", b";received=6.6.6.6;rport;branch"))
    assert isinstance(message, Request)
    assert stamped(message, "127.0.0.1", 4242).headers.get("via") == (
        "SIP/2.0/UDP 127.0.0.1:5070;rport=4242;branch=z9hG4bK1;received=127.0.0.1"
    )
    assert stamped(plain(), "127.0.0.1", 4242) == plain()


# -- typed headers ---------------------------------------------------------------------------------------------------


def test_via() -> None:
    via = Via.parse("SIP/2.0/TLS [2001:db8::1]:5061;branch=z9hG4bKx;rport")
    assert (via.transport, via.host, via.port, via.branch) == ("TLS", "[2001:db8::1]", 5061, "z9hG4bKx")
    assert str(via) == "SIP/2.0/TLS [2001:db8::1]:5061;branch=z9hG4bKx;rport"
    for text in ("", "SIP/2.0/UDP", "SIP/2.0/UDP a b", "SIP/2.0/UDP a;;", "SIP/2.0/UDP a:99999"):
        with pytest.raises(Malformed):
            Via.parse(text)


@pytest.mark.parametrize(
    ("text", "display", "uri", "tag"),
    [
        ('"A \\"B\\" C" <sip:a@b>;tag=1', 'A "B" C', "sip:a@b", "1"),
        ("Ann B <sip:a@b;lr>;x;tag=1", "Ann B", "sip:a@b;lr", "1"),
        ("sip:a@b;tag=1", "", "sip:a@b", "1"),
        ("<tel:+1;phone-context=x>", "", "tel:+1;phone-context=x", ""),
        ("<http://example.org/a?b>", "", "http://example.org/a?b", ""),
        ("Jürgen <sip:a@b>;tag=1", "Jürgen", "sip:a@b", "1"),
    ],
)
def test_name_addr(text: str, display: str, uri: str, tag: str) -> None:
    value = NameAddr.parse(text)
    assert (value.display, str(value.uri), value.tag) == (display, uri, tag)
    assert NameAddr.parse(str(value)) == value


@pytest.mark.parametrize("text", ["", "a@b", '"a <sip:a@b>', "<sip:a@b", "< sip:a@b>", "A, B <sip:a@b>", "sip:a@b?x=y"])
def test_bad_name_addr(text: str) -> None:
    with pytest.raises(Malformed):
        NameAddr.parse(text)


def test_uri() -> None:
    uri = Uri.parse("sips:us%20er:pw@[::1]:5061;transport=TCP;lr?Subject=x")
    assert (uri.scheme, uri.user_text, uri.password, uri.host, uri.port) == ("sips", "us er", "pw", "[::1]", 5061)
    assert (uri.param("transport"), uri.param("lr"), uri.param("no"), uri.headers) == ("TCP", "", None, "Subject=x")
    assert str(uri) == "sips:us%20er:pw@[::1]:5061;transport=TCP;lr?Subject=x"
    assert str(sip_uri("a b@c", "::1", 5060)) == "sip:a%20b%40c@[::1]:5060"
    assert Uri.parse("sip:%61@H.example;x").same_place(Uri.parse("sip:a@h.example"))
    assert not Uri.parse("sip:a@h.example").same_place(Uri.parse("sip:a@h.example:5060"))
    for text in ("", "sip:", "sip:@h", "sip:a@b@c", "sip:a@h:x", "sip:a b@c", "sip:a@h:70000", "sip:a@b/c"):
        with pytest.raises(Malformed):
            Uri.parse(text)


def test_cseq() -> None:
    assert CSeq.parse("0009   INVITE") == CSeq(9, "INVITE")
    for text in ("", "1", "INVITE", "-1 INVITE", "2147483648 INVITE", "1 IN VITE", "\u0661 INVITE", "1_0 INVITE"):
        with pytest.raises(Malformed):
            CSeq.parse(text)


# -- properties ------------------------------------------------------------------------------------------------------

TOKENS = st.from_regex(r"[A-Za-z0-9\-.!%*_+`'~]{1,12}", fullmatch=True)
VALUES = st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=30).map(
    lambda text: text.strip(" \t")
)
HEADERS = st.lists(
    st.tuples(TOKENS.filter(lambda name: name.lower() not in ("l", "content-length")), VALUES), max_size=8
).map(Headers)
REQUESTS = st.builds(
    Request, TOKENS, st.from_regex(r"sip:[a-z0-9@.;=]{1,20}", fullmatch=True), HEADERS, st.binary(max_size=50)
)
RESPONSES = st.builds(Response, st.integers(100, 699), VALUES, HEADERS, st.binary(max_size=50))


@given(REQUESTS | RESPONSES)
def test_what_is_written_is_read_again(message: Message) -> None:
    assert parse(bytes(message)) == message


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_malformed(data: bytes) -> None:
    for tried in (data, b"OPTIONS sip:a@b SIP/2.0\r\n" + data, PLAIN[:200] + data):
        try:
            message = parse(tried)
        except Malformed:
            continue
        assert len(bytes(message)) < len(tried) + 60  # nothing grows but by the length that is written


@given(st.text(max_size=60))
def test_any_text_is_a_typed_header_or_malformed(text: str) -> None:
    for kind in (Via, NameAddr, Uri, CSeq):
        try:
            value = kind.parse(text)
        except Malformed:
            continue
        assert kind.parse(str(value)) == value
