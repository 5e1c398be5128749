"""RFC 4475, the torture tests: messages of our own that have what each section describes, and the answers it asks for.

Acceptance point 17. The names in the parametrisation are the RFC's; the messages are not its own.
"""

import pytest

from fastagent.connectors.sip.actions import CallOffered
from fastagent.connectors.sip.framer import StreamFramer
from fastagent.connectors.sip.grammar import Malformed
from fastagent.connectors.sip.headers import NameAddr, Via
from fastagent.connectors.sip.message import Request, Response, parse
from fastagent.connectors.sip.uri import Uri
from tests.connectors.sip.rig import SDP, Rig, changed, request

HEAD = "Max-Forwards: 70\r\nCall-ID: torture@a.example\r\nCSeq: 7 {method}\r\n"
FROM = "From: <sip:ann@a.example>;tag=ta\r\n"
TO = "To: <sip:desk@192.0.2.1>\r\n"
VIA = "Via: SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bKtorture\r\n"
CONTACT = "Contact: <sip:ann@127.0.0.1:5070>\r\n"
BODY = f"Content-Type: application/sdp\r\nContent-Length: {len(SDP)}\r\n\r\n{SDP}"
EMPTY = "Content-Length: 0\r\n\r\n"


def asked(
    method: str = "OPTIONS",
    *,
    line: str = "",
    via: str = VIA,
    from_: str = FROM,
    to: str = TO,
    head: str = HEAD,
    rest: str = "",
    end: str = EMPTY,
) -> bytes:
    start = line or f"{method} sip:desk@192.0.2.1 SIP/2.0"
    return (f"{start}\r\n" + via + from_ + to + head.format(method=method) + rest + end).encode(
        "utf-8", "surrogateescape"
    )


def invited(**changes: str) -> bytes:
    return asked("INVITE", **{"rest": CONTACT, "end": BODY, **changes})


def answer_to(data: bytes) -> int | None:
    """Return the status of the answer; afterwards an OPTIONS must still get 200."""
    rig = Rig()
    answers = rig.responses(data)
    assert rig.status(request("OPTIONS", 99, call_id="after")) == 200
    return answers[0].status if answers else None


# -- 3.1.1 Valid messages --------------------------------------------------------------------------------------------


def test_wsinv_a_tortuous_invite_is_understood() -> None:
    data = (
        b"INVITE sip:desk@192.0.2.1;unknown SIP/2.0\r\n"
        b"TO :\r\n sip:desk@192.0.2.1 ;   tag    = 42n\r\n"
        b'from   : "A Name \\\\\\""       <sip:ann@a.example>\r\n  ;\r\n  tag = 98\r\n'
        b"MaX-fOrWaRdS: 0068\r\nCall-ID: w@a.example\r\nContent-Length   : 0\r\n"
        b"cseq: 0009\r\n  INVITE\r\n"
        b"Via  : SIP  /   2.0\r\n /UDP\r\n    192.0.2.2;branch=390\r\n"
        b"s :\r\nNew:   a value\r\n continued here\r\nOdd: ;;,,;;,;\r\n"
        b"Route:\r\n <sip:services.example;lr;with=value;without>\r\n"
        b"v:  SIP  / 2.0  / TCP     spindle.example   ;\r\n  branch  =   z9hG4bK9  ,\r\n"
        b" SIP  /    2.0   / UDP  192.168.255.111   ; branch=\r\n z9hG4bK30\r\n"
        b'm:"Quoted \\"\\"" <sip:ann@a.example> ; new =\r\n      value ;\r\n  second ; q = 0.33\r\n\r\n'
    )
    message = parse(data)
    assert isinstance(message, Request)
    assert message.fault == ""
    assert message.to.tag == "42n"
    assert (message.from_.display, message.from_.tag) == ('A Name \\"', "98")
    assert (message.cseq.number, message.cseq.method) == (9, "INVITE")
    vias = [Via.parse(one) for one in message.headers.listed("via")]
    assert [(one.transport, one.host, one.branch) for one in vias] == [
        ("UDP", "192.0.2.2", "390"),
        ("TCP", "spindle.example", "z9hG4bK9"),
        ("UDP", "192.168.255.111", "z9hG4bK30"),
    ]
    assert message.headers.get("subject") == ""
    assert message.headers.get("new") == "a value continued here"
    contact = NameAddr.parse(message.headers.get("contact") or "")
    assert (contact.display, contact.param("new"), contact.param("second"), contact.param("q")) == (
        'Quoted ""',
        "value",
        "",
        "0.33",
    )
    assert answer_to(data) == 481  # it has a To-tag, and we have no such dialog


def test_intmeth_a_wide_range_of_characters() -> None:
    method = "!odd-Method0123456789_*+`.%indeed'~"
    data = asked(
        method,
        line=f"{method} sip:1_odd.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1,$wo~d.(no-it)@a.example SIP/2.0",
        via="Via: SIP/2.0/TCP h.example;branch=z9hG4bK-.!%66*_+`'~\r\n",
        to='To: "BEL:\\\x07 NUL:\\\x00 DEL:\\\x7f" <sip:1_odd.URI~(to-be!sure)&isn\'t+it$/crazy?,/;;*@a.example>\r\n',
        from_="From: token1~` token2'+_ token3*%!.- <sip:b@a.example>;p''~+*_.-%=\"\u0440\u0430\";tag=_t~1'+`*%!-.\r\n",
        rest="x-!.%*+_`'~:\ufeff\u5927\r\n",
    )
    message = parse(data)
    assert isinstance(message, Request)
    assert message.method == method
    assert message.to.display == "BEL:\x07 NUL:\x00 DEL:\x7f"
    assert message.from_.display == "token1~` token2'+_ token3*%!.-"
    assert message.from_.tag == "_t~1'+`*%!-."
    uri = Uri.parse(message.uri)
    assert (uri.user, uri.host) == ("1_odd.URI~(to-be!sure)&isn't+it$/crazy?,/;;*", "a.example")
    assert answer_to(data) == 501


def test_esc01_escapes_are_read_once_and_only_where_they_are_read() -> None:
    contact = "Contact:\r\n  <sip:ca%6Cler@127.0.0.1:5070;%6C%72;n%61me=v%61lue%25%34%31>\r\n"
    data = invited(line="INVITE sip:sips%3Auser%40a.example@192.0.2.1 SIP/2.0", rest=contact)
    rig = Rig()
    assert rig.status(data) == 100
    offered = rig.event(CallOffered)
    assert offered.to_user == "sips:user@a.example"
    uri = NameAddr.parse(offered.headers.get("contact") or "").uri
    assert uri.user_text == "caller"
    assert uri.param("lr") is None  # an escaped name is another name to us, and to most


def test_escnull_an_escaped_nul_is_a_character() -> None:
    contacts = "Contact: <sip:%00@a.example>\r\nContact: <sip:%00%00@a.example>\r\n"
    data = asked(
        "REGISTER", to="To: sip:n-%00-n@a.example\r\n", from_="From: sip:n-%00-n@a.example;tag=1\r\n", rest=contacts
    )
    rig = Rig()
    (answer,) = rig.responses(data)
    assert answer.status == 200
    assert answer.headers.get_all("contact") == [
        "<sip:%00@a.example>;expires=3600",
        "<sip:%00%00@a.example>;expires=3600",
    ]


def test_esc02_a_percent_sign_that_escapes_nothing() -> None:
    assert answer_to(asked("RE%47IST%45R", to='To: "%Z%45" <sip:r@a.example>\r\n')) == 501


@pytest.mark.parametrize(
    ("name", "data", "status"),
    [
        ("lwsdisp", asked(from_="From: ann<sip:ann@a.example>;tag=1\r\n"), 200),
        ("semiuri", asked(line="OPTIONS sip:user;par=u%40b.example@192.0.2.1 SIP/2.0"), 200),
        (
            "transports",
            asked(rest="Via: SIP/2.0/SCTP b;branch=z9hG4bK1\r\nVia: SIP/2.0/UNKNOWN c;branch=z9hG4bK2\r\n"),
            200,
        ),
        (
            "mpart01",
            asked(
                "MESSAGE",
                rest="Content-Type: multipart/mixed;boundary=x\r\nContent-Transfer-Encoding: binary\r\n",
                end="Content-Length: 12\r\n\r\n--x\r\n\x00\udcff--x--",
            ),
            405,
        ),
    ],
)
def test_valid_requests(name: str, data: bytes, status: int) -> None:
    assert answer_to(data) == status


def test_longreq_long_values_are_read() -> None:
    long = "long" * 60
    vias = "".join(f"V{' ' * (n % 3)}: SIP/2.0/TCP sip{n}.example\r\n" for n in range(33))
    data = invited(
        via=f"{vias}Via: SIP/2.0/TCP h.example;received=192.0.2.5;branch={long}\r\n",
        to=f'To: "A user {long}"<sip:desk@192.0.2.1:6000;p={long};{long}={long}>\r\n',
        from_=f"F: sip:{long}@a.example;tag={long};unknown={long}\r\n",
        rest=f"Unknown-{long}: {long}; {long} = {long}\r\n{CONTACT}",
    )
    rig = Rig()
    (answer,) = rig.responses(data)
    assert answer.status == 100
    assert len(answer.headers.get_all("via")) == 34
    assert rig.event(CallOffered).from_user == long[:256]


def test_dblreq_the_rest_of_a_datagram_is_not_ours() -> None:
    first, second = asked("REGISTER", rest=CONTACT), invited()
    rig = Rig()
    assert rig.status(first + b"\r\n" + second) == 200
    assert not rig.has(CallOffered)
    assert StreamFramer().feed(first + b"\r\n" + second) == [first, second]


def test_unreason_and_noreason_the_words_of_a_status_line_are_nobodys_business() -> None:
    tail = VIA + FROM + TO + HEAD.format(method="INVITE") + EMPTY
    message = parse(f"SIP/2.0 200 = 2**3 * 5**2 \u043d\u043e\r\n{tail}".encode())
    assert isinstance(message, Response)
    assert message.reason == "= 2**3 * 5**2 \u043d\u043e"
    message = parse(f"SIP/2.0 100 \r\n{tail}".encode())
    assert isinstance(message, Response)
    assert (message.status, message.reason) == (100, "")


# -- 3.1.2 Invalid messages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data", "status"),
    [
        ("badinv01", invited(via="Via: SIP/2.0/UDP 127.0.0.1;;,;,,\r\n"), 400),
        ("badinv01, Contact", invited(rest='Contact: "Joe <sip:joe@a.example>;;;;\r\n'), 400),
        ("clerr", invited(end=BODY.replace("Length: ", "Length: 9")), 400),
        ("ncl", invited(end=BODY.replace("Length: ", "Length: -")), 400),
        ("scalar02", asked("REGISTER", head="Call-ID: a\r\nCSeq: 36893488147419103232 REGISTER\r\n"), 400),
        ("quotbal", invited(to='To: "Mr. User <sip:desk@192.0.2.1>\r\n'), 400),
        ("ltgtruri", invited(line="INVITE <sip:desk@192.0.2.1> SIP/2.0"), 400),
        ("lwsruri", invited(line="INVITE sip:desk@192.0.2.1; lr SIP/2.0"), 400),
        ("lwsstart", invited(line="INVITE  sip:desk@192.0.2.1  SIP/2.0"), 400),
        ("trws", asked(line="OPTIONS sip:desk@192.0.2.1 SIP/2.0  "), 400),
        ("escruri", invited(line="INVITE sip:desk@192.0.2.1?Route=%3Csip:a.example%3E SIP/2.0"), 400),
        ("baddate", invited(rest="Date: Fri, 01 Jan 2010 16:00:00 EST\r\n" + CONTACT), 100),
        ("regbadct", asked("REGISTER", rest="Contact: sip:u@a.example?Route=%3Csip:b.example%3E\r\n"), 400),
        ("badaspec", asked(to='To: "Watson, T" < sip:t@a.example >\r\n'), 400),
        ("baddn", asked(from_="From: Bell, A <sip:a@a.example>;tag=43\r\n"), 400),
        ("badvers", asked(line="OPTIONS sip:desk@192.0.2.1 SIP/7.0", via=VIA.replace("2.0", "7.0")), 505),
        ("mismatch01", asked(head="Call-ID: a\r\nCSeq: 8 INVITE\r\n"), 400),
        ("mismatch02", asked("NEWMETHOD", head="Call-ID: a\r\nCSeq: 8 INVITE\r\n"), 400),
    ],
)
def test_invalid_requests(name: str, data: bytes, status: int) -> None:
    assert answer_to(data) == status


def test_badaspec_the_answer_has_the_headers_as_they_came() -> None:
    (answer,) = Rig().responses(asked(to='To: "Watson, T" < sip:t@a.example >\r\n'))
    assert answer.headers.get("to") == '"Watson, T" < sip:t@a.example >'


@pytest.mark.parametrize(
    "data",
    [
        f"SIP/2.0 4294967301 better not\r\n{VIA}{FROM}{TO}{HEAD}{EMPTY}",
        f"SIP/2.0 503 No\r\n{VIA}{FROM}{TO}Call-ID: a\r\nCSeq: 9292394834772304023312 OPTIONS\r\n{EMPTY}",
    ],
    ids=["bigcode", "scalarlg"],
)
def test_invalid_responses_are_dropped(data: str) -> None:
    rig = Rig()
    assert rig.send(data.format(method="INVITE").encode()) == []
    assert rig.ua.dropped == {"malformed": 1}
    with pytest.raises(Malformed):
        assert parse(data.encode()).cseq


# -- 3.2 Transactions, 3.3 Application -------------------------------------------------------------------------------


def test_badbranch_nothing_but_the_cookie_names_no_transaction() -> None:
    rig = Rig()
    via = "Via: SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bK\r\n"
    assert rig.status(asked("REGISTER", via=via)) == 200
    assert rig.status(asked("REGISTER", via=via, head="Call-ID: other\r\nCSeq: 8 REGISTER\r\n")) == 200
    assert rig.ua.transactions == 2


def test_unksm2_a_registrar_wants_a_sip_address() -> None:
    data = asked(
        "REGISTER",
        to="To: isbn:2983792873\r\n",
        from_="From: <http://a.example>;tag=3\r\n",
        rest="Contact: <name:J_S>\r\n",
    )
    assert answer_to(data) == 400


@pytest.mark.parametrize(
    ("name", "data", "status"),
    [
        ("insuf", invited(from_="", to="", head="CSeq: 7 INVITE\r\n"), 400),
        ("unkscm", asked(line="OPTIONS nobodyKnowsThis:opaque SIP/2.0"), 416),
        ("novelsc", asked(line="OPTIONS soap.beep://192.0.2.103:3002 SIP/2.0"), 416),
        ("bext01", asked(rest="Require: nothing, nobody\r\nProxy-Require: x\r\n"), 420),
        ("invut", invited(end="Content-Type: application/unknown\r\nContent-Length: 4\r\n\r\n<x/>"), 415),
        ("regaut01", asked("REGISTER", rest="Authorization: NoSuchScheme opaque-data=here\r\n"), 200),
        (
            "multi01",
            invited(head="CSeq: 5 INVITE\r\nCall-ID: a\r\nCSeq: 59 INVITE\r\nCall-ID: b\r\nTo: <sip:x@a.example>\r\n"),
            400,
        ),
        ("mcl01", asked(end="Content-Length: 13\r\nContent-Length: 5\r\n\r\nno way to know"), 400),
        ("bcast", f"SIP/2.0 200 OK\r\n{VIA}{VIA}{FROM}{TO}{HEAD}{BODY}".format(method="INVITE").encode(), None),
        ("zeromf", asked(head="Max-Forwards: 0\r\nCall-ID: a\r\nCSeq: 7 OPTIONS\r\n"), 200),
        ("sdp01", invited(rest=f"Accept: text/nobodyKnows\r\n{CONTACT}"), 406),
    ],
)
def test_application(name: str, data: bytes, status: int | None) -> None:
    assert answer_to(data) == status


def test_regaut01_a_scheme_that_nobody_knows_proves_nothing() -> None:
    rig = Rig(changed(users={"ann": "secret"}, trusted=()))
    (answer,) = rig.responses(asked("REGISTER", rest="Authorization: NoSuchScheme opaque-data=here\r\n"))
    assert answer.status == 401
    assert "www-authenticate" in answer.headers


@pytest.mark.parametrize(
    ("contact", "bound"),
    [
        ("sip:+1972@gw.example;unknown", "<sip:+1972@gw.example>;unknown;expires=3600"),
        ("<sip:+1972@gw.example;unknown>", "<sip:+1972@gw.example;unknown>;expires=3600"),
        ("<sip:u@a.example?Route=%3Csip:b.example%3E>", "<sip:u@a.example?Route=%3Csip:b.example%3E>;expires=3600"),
    ],
    ids=["cparam01", "cparam02", "regescrt"],
)
def test_parameters_of_the_header_and_of_the_address(contact: str, bound: str) -> None:
    (answer,) = Rig().responses(asked("REGISTER", rest=f"Contact: {contact}\r\n"))
    assert answer.headers.get_all("contact") == [bound]


def test_inv2543_a_phone_of_the_old_standard_can_call() -> None:
    rig = Rig()
    data = (
        b"INVITE sip:desk@192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/UDP gw.example\r\n"
        b"From: <sip:+1303@gw.example;user=phone>\r\nRecord-Route: <sip:desk@a.example;maddr=127.0.0.1>\r\n"
        b"To: sip:+1650@b.example;user=phone\r\nCall-ID: old@gw.example\r\nCSeq: 56 INVITE\r\n"
        b"Content-Type: application/sdp\r\n\r\n"
    ) + SDP.encode()
    call, ok = rig.answered(data, ack=None)
    assert ok.headers.get("record-route") == "<sip:desk@a.example;maddr=127.0.0.1>"
    ack = (
        data.split(b"\r\nContent-Type")[0]
        .replace(b"INVITE", b"ACK")
        .replace(b"user=phone\r\nCall", f"user=phone;tag={ok.to.tag}\r\nCall".encode())
    )
    assert rig.send(ack + b"\r\n\r\n") == []
    assert rig.wait(1) == []
    (bye,) = rig.take(rig.ua.hang_up(call, rig.now))
    assert isinstance(bye, Request)
    # No `lr`: an old router wants itself in the Request-URI, and the target last.
    assert bye.uri == "sip:desk@a.example;maddr=127.0.0.1"
    assert bye.headers.get_all("route") == ["<sip:+1303@gw.example;user=phone>"]
    assert rig.sent[-1].to.host == "127.0.0.1"
