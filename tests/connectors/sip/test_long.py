"""Long rows of one character, wherever they stand: reading them takes time in proportion to their length, no more.

What took the square of it would take minutes here; the limit is the test's own patience.
"""

import pytest

from fastagent.connectors.sip.framer import StreamFramer
from tests.connectors.sip.rig import SDP, Rig, invite

ROW = 60_000
SIGNS = [bytes((one,)) for one in b';,"<>=:@%\\/?()[]-']
CHARACTERS = [b" ", b"\t", b"\r", b"\n", b"\r\n", b" \n", b"\n ", b"0", b"a", *SIGNS]


def places(row: bytes) -> list[bytes]:
    """Messages with the row in each place that is read."""
    good = invite()
    head, blank, body = good.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    found = [row, b"A" + row + b"x\r\n" + b"\r\n".join(lines) + blank + body, first + row + blank]
    found += [first.replace(b" ", b" " + row, 1) + head[len(first) :] + blank + body]
    for at, line in enumerate(lines):
        name, _, value = line.partition(b":")
        for changed in (
            name + row + b":" + value, name + b":" + row + value, name + b":" + value + row,
            name + b":" + value[:6] + row + value[6:], name + b":" + value + b";x=" + row, name + b": x" + row + b"y",
        ):  # fmt: skip
            found.append(b"\r\n".join([first, *lines[:at], changed, *lines[at + 1 :]]) + blank + body)
    for kind in (b"multipart/mixed;boundary=x", b"application/dtmf-relay", b"application/sdp"):
        found.append(invite(body=SDP).replace(b"application/sdp", kind).replace(b"m=audio", row + b"m=audio"))
    return found


@pytest.mark.timeout(120)
@pytest.mark.parametrize("row", CHARACTERS, ids=repr)
def test_a_row_is_read_in_its_length(row: bytes) -> None:
    whole = row * (ROW // len(row))
    for size in (len(whole), 8000, 1400):
        for message in places(whole[:size]):
            rig = Rig()
            rig.send(message)
            StreamFramer().feed(message)


def test_a_number_of_nothing_but_zeros_is_a_number() -> None:
    rig = Rig()
    rig.send(invite().replace(b"CSeq: 1", b"CSeq: " + b"0" * 5000 + b"1"))
    assert rig.ua.calls == 1
