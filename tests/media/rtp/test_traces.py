"""Golden traces: what the jitter buffer made of some bad networks, slot by slot.

Each file of `tests/transcripts/rtp` has the arrivals of PCMU packets (milliseconds, sequence number, timestamp in
frames of 20 ms) and what each tick of 20 ms played: `P` a packet, `L` a lost one that was made up, `-` a pause that the
sender made, `.` nothing there, `d` a packet and a dropped one before it, `r` a repeated quiet frame. A change of the
buffer shows here before anybody hears it.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from fastagent.media.rtp.codecs import G711
from fastagent.media.rtp.inbound import RtpInbound
from fastagent.media.rtp.packet import RtpPacket

TRACES = Path(__file__).parents[2] / "transcripts" / "rtp"
_TONE, _QUIET = bytes((0x10,)) * 80 + bytes((0x90,)) * 80, b"\xff" * 160


def played(arrivals: list[list[int]], ticks: int) -> str:
    """Return a letter for each tick."""
    inbound = RtpInbound({0: G711("PCMU")})
    pending, out = list(arrivals), ""
    before = inbound.stats
    lost = pauses = 0
    for tick in range(ticks):
        while pending and pending[0][0] <= tick * 20:
            at_ms, sequence, frame = pending.pop(0)
            payload = _TONE if frame % 75 < 50 else _QUIET  # a second of sound, half a second of none
            packet = RtpPacket(0, sequence & 0xFFFF, frame * 160 & 0xFFFFFFFF, 7, payload)
            inbound.push(packet, at_ms / 1000)
        inbound.tick(tick / 50)
        now, counts = inbound.stats, inbound.buffer.stats
        if now.dropped_frames > before.dropped_frames:
            out += "d"
        elif now.repeated_frames > before.repeated_frames:
            out += "r"
        elif now.played_frames > before.played_frames:
            out += "P"
        elif counts.lost > lost:
            out += "L"
        else:
            out += "." if counts.dry > pauses else "-"
        before, lost, pauses = now, counts.lost, counts.dry
    return out


@pytest.mark.parametrize("path", sorted(TRACES.glob("*.json")), ids=lambda path: path.stem)
def test_a_bad_network_is_heard_as_its_trace_says(path: Path) -> None:
    trace: dict[str, Any] = json.loads(path.read_text())
    assert played(trace["arrivals"], len(trace["played"])) == trace["played"]


def test_the_traces_that_must_be_there_are_there() -> None:
    assert {path.stem for path in TRACES.glob("*.json")} >= {
        "loss_5_jitter_40",
        "bursts",
        "reordered",
        "drift",
        "talkspurts",
    }
