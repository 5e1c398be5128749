"""Golden transcripts: whole calls on the wire, replayed against the cores in virtual time.

Each line of `tests/transcripts/twilio/*.jsonl` is `{"at_ms", "dir", "msg"}`: `in` comes from Twilio (a string is text
that is sent as it is), `out` is expected from us, and nothing else; `{"close": code}` is our close of the socket, and
`$TICKET` stands for the ticket of the call.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastagent.connectors.errors import PeerError
from fastagent.connectors.leg import DtmfReceived, LegEnded, MarkReached
from fastagent.connectors.twilio.protocol import AudioReceived, ProtocolEvent, StreamStarted, TwilioProtocol
from fastagent.connectors.twilio.tickets import Announced, TicketBox
from fastagent.media.frame import FRAME_MS, PCMU_8K
from fastagent.media.playout import Playout, RenderedSpeech, SendAudio

TRANSCRIPTS = Path(__file__).parents[2] / "transcripts" / "twilio"
CALL = "CA0123456789abcdef0123456789abcdef"

# Messages that were dropped, by kind; none in all other transcripts.
DROPPED = {
    "malformed_message": {"malformed": 6, "payload_size": 1, "digit": 1},
    "peer_ends": {"after_stop": 3},
    "peer_ends_while_we_end": {"after_stop": 1},
    "unknown_message": {"unknown_event": 3, "foreign_track": 1},
    "wrong_order": {"second_start": 1, "out_of_place": 1},
}


class Line:
    """The smallest session on the cores: greets for 600 ms, answers key n with n times 200 ms, falls silent for a loud
    caller, and ends after 200 ms of goodbye for `#`. It says one byte over and over: the key, 6 for the greeting."""

    def __init__(self) -> None:
        self.protocol = TwilioProtocol()
        self.playout = Playout(PCMU_8K)
        self.out: list[Any] = []
        self.over = self._ending = self._closed = False
        self._tickets = TicketBox()
        call = Announced(CALL, "agent", "+1", "+2", "inbound", lambda: None)
        self.ticket = self._tickets.issue(call, 0.0)

    def receive(self, text: str, now: float) -> None:
        if self._closed:
            return
        try:
            self._happened(self.protocol.receive(text.replace("$TICKET", self.ticket)), now)
        except PeerError:
            self._close(1008)

    def _happened(self, event: ProtocolEvent | None, now: float) -> None:
        match event:
            case StreamStarted():
                if self._tickets.redeem(event.call_sid, event.parameters.get("token", ""), now) is None:
                    self._close(1008)
                else:
                    self._say(6, 600, now)
            case AudioReceived(payload) if max(payload) < 0x80:
                self._silence(now)
            case DtmfReceived(digit):
                self._silence(now)
                count = int({"*": "0", "#": "1"}.get(digit, digit))
                if count:
                    self._say(count, 200 * count, now)
                self._ending = digit == "#"
            case MarkReached(name):
                self.playout.mark_reached(name, now)
            case LegEnded():
                self.over = True

    def _say(self, value: int, ms: int, now: float) -> None:
        self.playout.begin()
        levels = np.full(ms // FRAME_MS, -20.0, np.float32)
        self.playout.write(RenderedSpeech("word", bytes((value,)) * (ms * 8), levels))
        self.playout.flush()
        self.tick(now)

    def _silence(self, now: float) -> None:
        if self.playout.speaking:
            self.playout.pause(now)
            self.out.append(json.loads(self.protocol.clear()))

    def _close(self, code: int) -> None:
        self.out.append({"close": code})
        self.over = self._closed = True

    def tick(self, now: float) -> None:
        if self.over:
            return
        for action in self.playout.tick(now):
            if isinstance(action, SendAudio):
                self.out.append(json.loads(self.protocol.audio(action.payload)))
            else:
                self.out.append(json.loads(self.protocol.mark(action.name)))
        if self._ending and self.playout.finished:
            self._close(1000)


def replay(lines: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], Line]:
    """Return what we send, and the line at the end of it."""
    line, sent = Line(), list[dict[str, Any]]()
    inbound = [one for one in lines if one["dir"] == "in"]
    for at_ms in range(0, lines[-1]["at_ms"] + 1000, 5):
        now = 1.0 + at_ms / 1000
        for one in inbound:
            if one["at_ms"] == at_ms:
                line.receive(one["msg"] if isinstance(one["msg"], str) else json.dumps(one["msg"]), now)
        if at_ms % FRAME_MS == 0:
            line.tick(now)
        sent += [{"at_ms": at_ms, "dir": "out", "msg": message} for message in line.out]
        line.out.clear()
    return sent, line


def test_the_transcripts_that_must_be_there_are_there() -> None:
    assert {path.stem for path in TRANSCRIPTS.glob("*.jsonl")} >= {
        "plain_call",
        "dtmf",
        "barge_in",
        "peer_ends",
        "we_end",
        "malformed_message",
        "unknown_message",
        "wrong_media_format",
        "wrong_order",
        "wrong_token",
    }


@pytest.mark.parametrize("path", sorted(TRANSCRIPTS.glob("*.jsonl")), ids=lambda path: path.stem)
def test_a_call_goes_as_its_transcript_says(path: Path) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(set(one) == {"at_ms", "dir", "msg"} and one["at_ms"] % 5 == 0 for one in lines)
    sent, line = replay(lines)
    assert sent == [one for one in lines if one["dir"] == "out"]
    assert line.protocol.dropped == Counter(DROPPED.get(path.stem, {}))
