"""RTP and RTCP on the wire, with literal bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastagent.media.rtp import packet, rtcp
from fastagent.media.rtp.packet import RtpPacket
from fastagent.media.rtp.rtcp import Bye, Cname, Report, ReportBlock, RtcpPacket, SenderInfo

PLAIN = bytes.fromhex("80800001000000a012345678") + b"\xff\xfe"


def test_a_packet_reads_and_writes() -> None:
    one = packet.parse(PLAIN)
    assert one == RtpPacket(0, 1, 160, 0x12345678, b"\xff\xfe", marker=True)
    assert bytes(one) == PLAIN


@pytest.mark.parametrize(
    ("data", "payload"),
    [
        pytest.param("81000001000000a012345678" + "00000001" + "aabb", b"\xaa\xbb", id="contributing source"),
        pytest.param("90000001000000a012345678" + "bede0001" + "01020304" + "aabb", b"\xaa\xbb", id="extension"),
        pytest.param("a0000001000000a012345678" + "aabb" + "0002", b"\xaa\xbb", id="padding"),
        pytest.param("a0000001000000a012345678", b"", id="padding of nothing"),
        pytest.param("80000001000000a012345678", b"", id="empty"),
    ],
)
def test_what_stands_around_a_payload_is_left_out(data: str, payload: bytes) -> None:
    one = packet.parse(bytes.fromhex(data))
    assert one is not None
    assert one.payload == payload


@pytest.mark.parametrize(
    "data",
    [
        pytest.param("", id="nothing"),
        pytest.param("80000001000000a0123456", id="short"),
        pytest.param("40000001000000a012345678", id="version 1"),
        pytest.param("8f000001000000a012345678", id="sources that are not there"),
        pytest.param("90000001000000a012345678beff", id="half an extension"),
        pytest.param("90000001000000a012345678bede0009", id="an extension beyond the end"),
        pytest.param("a0000001000000a012345678" + "aa09", id="more padding than packet"),
        pytest.param("a0000001000000a012345678" + "aa00", id="no padding at all"),
    ],
)
def test_what_lies_about_its_lengths_is_none(data: str) -> None:
    assert packet.parse(bytes.fromhex(data)) is None


@given(st.binary(max_size=200))
def test_nothing_raises(data: bytes) -> None:
    packet.parse(data)
    packet.is_rtcp(data)
    rtcp.parse(data)


@given(
    st.integers(0, 127), st.integers(0, 0xFFFF), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.binary(),
    st.booleans(),
)  # fmt: skip
def test_what_is_written_reads_back(kind: int, number: int, time: int, ssrc: int, payload: bytes, mark: bool) -> None:
    one = RtpPacket(kind, number, time, ssrc, payload[:1400], mark)
    assert packet.parse(bytes(one)) == one


def test_rtcp_is_told_from_rtp() -> None:
    assert packet.is_rtcp(bytes(Bye(1)))
    assert not packet.is_rtcp(PLAIN)


def test_a_compound_packet_reads_back() -> None:
    block = ReportBlock(7, 12, -3, 70000, 55, 0x11112222, 0x3333)
    sent: list[RtcpPacket] = [Report(9, SenderInfo(1 << 40, 160, 5, 800), (block,)), Cname(9, "me@here"), Bye(9)]
    assert rtcp.parse(b"".join(bytes(one) for one in sent)) == sent


def test_a_report_is_the_rfcs() -> None:
    data = bytes(Report(1, None, (ReportBlock(2, 255, 0x123456, 3, 4, 5, 6),)))
    assert (
        data.hex() == "81c90007" + "00000001" + "00000002" + "ff123456" + "00000003" + "00000004" + "0000000500000006"
    )


def test_the_round_trip_is_what_is_left_of_the_way() -> None:
    then = 1_700_000_000.0
    lsr = rtcp.middle(rtcp.ntp_time(then))
    block = ReportBlock(1, 0, 0, 0, 0, lsr, round(1.5 * 65536))
    assert rtcp.round_trip_s(block, then + 1.62) == pytest.approx(0.12, abs=0.001)
    assert rtcp.round_trip_s(ReportBlock(1, 0, 0, 0, 0, 0, 0), then) is None
    assert rtcp.round_trip_s(block, then) is None  # a clock that went back
