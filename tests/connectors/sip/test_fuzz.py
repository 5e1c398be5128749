"""Whatever comes, nothing is raised and the agent lives (acceptance 17)."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastagent.connectors.sip.actions import CallOffered
from tests.connectors.sip.rig import LOCAL, SDP, Rig, changed, invite, request

STRICT = changed(users={"ann": "secret"}, trusted=())
GOOD = [
    invite(),
    request("OPTIONS"),
    request("REGISTER"),
    request("INFO", 2, to_tag="x", body="Signal=1", kind="application/dtmf-relay"),
]
PARTS = st.sampled_from(
    [
        b"\r\n",
        b" ",
        b";",
        b",",
        b'"',
        b"<",
        b">",
        b"=",
        b":",
        b"@",
        b"\x00",
        b"\xff",
        b"%",
        b"9" * 30,
        b"-1",
        b"tag",
        b"",
        b"SIP/2.0",
    ]
)


def alive(rig: Rig) -> None:
    rig.now += 10
    assert rig.status(request("OPTIONS", 4242, call_id="alive", branch="alive")) == 200
    rig.wait(200)


@given(st.binary(max_size=400), st.sampled_from(["udp", "tcp"]))
def test_any_bytes(data: bytes, transport: str) -> None:
    rig = Rig(transport="tcp" if transport == "tcp" else "udp")
    rig.send(data)
    alive(rig)


@settings(max_examples=300)
@given(
    st.sampled_from(GOOD), st.lists(st.tuples(st.integers(0, 900), st.integers(0, 12), PARTS), min_size=1, max_size=4)
)
def test_broken_requests(good: bytes, breaks: list[tuple[int, int, bytes]]) -> None:
    for at, size, part in breaks:
        good = good[:at] + part + good[at + size :]
    for config in (None, STRICT):
        rig = Rig() if config is None else Rig(config)
        rig.send(good)
        for offered in [one for one in rig.events if isinstance(one, CallOffered)]:
            rig.take(rig.ua.accept(offered.call, LOCAL, rig.now))
        alive(rig)


@settings(max_examples=200)
@given(
    st.sampled_from(["INVITE", "UPDATE", "INFO", "NOTIFY", "BYE", "ACK", "OPTIONS", "CANCEL"]),
    st.lists(st.tuples(st.integers(0, 900), st.integers(0, 12), PARTS), max_size=4),
)
@example("INVITE", [(172, 0, b"\r\n")])  # without the tag it is a call of its own
def test_broken_requests_in_a_call(method: str, breaks: list[tuple[int, int, bytes]]) -> None:
    rig = Rig()
    _, ok = rig.answered(invite())
    data = request(method, 2, to_tag=ok.to.tag, body=SDP)
    for at, size, part in breaks:
        data = data[:at] + part + data[at + size :]
    rig.send(data)
    for offered in [one for one in rig.events if isinstance(one, CallOffered)]:
        rig.take(rig.ua.hang_up(offered.call, rig.now))
    alive(rig)
    assert rig.ua.transactions == 0


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 900), st.integers(0, 12), PARTS), min_size=1, max_size=4),
    st.sampled_from([180, 200, 401]),
)
def test_broken_answers_to_our_call(breaks: list[tuple[int, int, bytes]], status: int) -> None:
    from tests.connectors.sip.test_outbound import calling

    rig, call, asked = calling()
    from tests.connectors.sip.rig import reply

    data = reply(asked, status, body=SDP, extra='WWW-Authenticate: Digest realm="x", nonce="y", qop="auth"')
    for at, size, part in breaks:
        data = data[:at] + part + data[at + size :]
    rig.send(data)
    rig.take(rig.ua.hang_up(call, rig.now))
    alive(rig)
    assert (rig.ua.transactions, rig.ua.calls) == (0, 0)
