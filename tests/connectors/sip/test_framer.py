"""Messages out of a stream, however it is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastagent.connectors.sip import framer
from fastagent.connectors.sip.framer import PING, StreamFramer
from fastagent.connectors.sip.message import MAX_MESSAGE

ONE = b"OPTIONS sip:a@b SIP/2.0\r\nCall-ID: 1\r\nContent-Length: 0\r\n\r\n"
TWO = b"INFO sip:a@b SIP/2.0\r\nl : 5\r\n\r\nab\r\n\r"
THREE = b"OPTIONS sip:a@b SIP/2.0\r\nCall-ID: 3\r\n\r\n"  # no length: no body
BAD = b"INFO sip:a@b SIP/2.0\r\nContent-Length: -1\r\n\r\n"


def cut(stream: bytes, at: list[int]) -> tuple[list[bytes], bool]:
    framer, found, begin = StreamFramer(), [], 0
    for end in [*sorted(at), len(stream)]:
        found += framer.feed(stream[begin:end])
        begin = end
    return found, framer.broken


@pytest.mark.parametrize(
    ("stream", "found", "broken"),
    [
        (ONE + TWO + THREE, [ONE, TWO, THREE], False),
        (b"\r\n" + ONE + b"\r\n\r\n" + TWO, [ONE, PING, TWO], False),
        (b"\r\n\r\n\r\n\r\n", [PING, PING], False),
        (ONE + TWO[:-1], [ONE], False),
        (ONE + BAD + TWO, [ONE, BAD], True),
        (ONE.replace(b": 0", b": 0\r\nl: 4"), [ONE.replace(b": 0", b": 0\r\nl: 4")], True),
        (ONE.replace(b": 0", b": 65536"), [ONE.replace(b": 0", b": 65536")], True),
        (ONE.replace(b": 0", b":\r\n 5") + b"12345", [ONE.replace(b": 0", b":\r\n 5") + b"12345"], False),
        (b"x" * (MAX_MESSAGE + 1), [], True),
    ],
)
def test_a_stream_gives_the_same_messages_however_it_is_cut(stream: bytes, found: list[bytes], broken: bool) -> None:
    assert cut(stream, []) == (found, broken)
    if len(stream) < 1000:
        assert cut(stream, list(range(len(stream)))) == (found, broken)


@given(
    st.lists(st.sampled_from([ONE, TWO, THREE, PING, b"\r\n", BAD, b"junk", b"\r", b"\n"]), max_size=8).map(b"".join),
    st.lists(st.integers(0, 600), max_size=12),
)
def test_cuts_change_nothing(stream: bytes, at: list[int]) -> None:
    assert cut(stream, [min(one, len(stream)) for one in at]) == cut(stream, [])


@given(st.lists(st.binary(max_size=200)))
def test_nothing_is_raised_and_nothing_made_up(pieces: list[bytes]) -> None:
    framer = StreamFramer()
    found = [message for piece in pieces for message in framer.feed(piece)]
    assert len(b"".join(found)) <= len(b"".join(pieces))


def test_the_head_is_read_once_however_the_body_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    size = framer._body_size

    def counted(head: bytes) -> int | None:
        read.append(len(head))
        return size(head)

    monkeypatch.setattr(framer, "_body_size", counted)
    one = StreamFramer()
    message = b"INFO sip:a SIP/2.0\r\nContent-Length: 500\r\n\r\n" + bytes(500)
    found = [whole for at in range(len(message)) for whole in one.feed(message[at : at + 1])]
    assert (found, len(read)) == ([message], 1)
