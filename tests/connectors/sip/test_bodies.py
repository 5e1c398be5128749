"""Bodies: descriptions, keys, status lines."""

import pytest

from fastagent.connectors.sip.bodies import Unsupported, accepts_sdp, dtmf_of, sdp_of, sipfrag_status
from fastagent.connectors.sip.headers import Headers

PARTS = b"preamble\r\n--b\r\n\r\nplain\r\n--b\r\ncontent-type : Application/SDP\r\n\r\nv=0\r\n--b--\r\n"


def typed(kind: str, *more: tuple[str, str]) -> Headers:
    return Headers([("c", kind), *more])


def test_the_description_is_found() -> None:
    assert sdp_of(typed("application/sdp"), b"") is None
    assert sdp_of(typed("Application/SDP;charset=utf-8"), b"v=0") == b"v=0"
    assert sdp_of(typed("multipart/alternative; boundary=b"), PARTS) == b"v=0"
    assert sdp_of(typed("application/sdp", ("e", "identity")), b"v=0") == b"v=0"


@pytest.mark.parametrize(
    ("headers", "item"),
    [
        (Headers(), ("Accept", "application/sdp")),
        (typed("multipart/mixed"), ("Accept", "application/sdp")),
        (typed('multipart/mixed;boundary="b'), ("Accept", "application/sdp")),
        (typed("multipart/mixed;boundary=other"), ("Accept", "application/sdp")),
        (typed("application/sdp", ("Content-Encoding", "gzip")), ("Accept-Encoding", "identity")),
    ],
)
def test_what_is_not_ours_says_what_is(headers: Headers, item: tuple[str, str]) -> None:
    with pytest.raises(Unsupported) as refused:
        sdp_of(headers, PARTS)
    assert refused.value.item == item


@pytest.mark.parametrize(
    ("accept", "taken"),
    [
        ("application/sdp", True),
        ("text/plain, */*;q=0.1", True),
        ("application/*", True),
        ("text/plain", False),
        ("", False),
    ],
)
def test_accept(accept: str, taken: bool) -> None:
    assert accepts_sdp(Headers([("Accept", accept)])) is taken
    assert accepts_sdp(Headers())


def test_keys() -> None:
    assert dtmf_of(typed("application/dtmf-relay"), b"Signal=5\nDuration=100000") == ("5", 160)
    assert dtmf_of(typed("application/dtmf"), b" 10 \r\n") == ("*", 160)
    assert dtmf_of(typed("application/dtmf"), "\u0663".encode()) is None


def test_status_lines() -> None:
    kind = typed("message/sipfrag;version=2.0")
    assert sipfrag_status(kind, b"SIP/2.0 486 Busy Here\r\nTo: x") == 486
    assert sipfrag_status(kind, b"SIP/2.0 200") == 200
    assert sipfrag_status(kind, b"SIP/2.0 2000") is None
    assert sipfrag_status(typed("text/plain"), b"SIP/2.0 200 OK") is None
