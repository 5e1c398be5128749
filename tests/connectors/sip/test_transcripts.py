"""Golden transcripts: whole calls on the wire, replayed against the core in virtual time.

Each line of `tests/transcripts/sip/*.jsonl` is `{"at_ms", "dir", "msg"}`, a message being the list of its lines: `in`
comes from a phone at 127.0.0.1:5070 (192.0.2.7 in those whose name begins with `stranger`), `out` is expected from us,
byte for byte, and nothing else.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from fastagent.connectors.sip.actions import Action, CallOffered, DtmfInfo, Send
from fastagent.connectors.sip.media import ALL_CODECS, Capabilities
from fastagent.connectors.sip.stack import AgentConfig
from fastagent.connectors.sip.user_agent import UserAgent
from tests.connectors.sip.rig import tokens

TRANSCRIPTS = Path(__file__).parents[2] / "transcripts" / "sip"
LOCAL = ("192.0.2.1", 10000)


class Desk:
    """The smallest gateway on the core: rings for 100 ms where the caller insists on hearing it, answers every call,
    and does what keys say: `#` hangs up, `*` transfers, `0` puts on hold."""

    def __init__(self, source: tuple[str, int]) -> None:
        media = Capabilities(ALL_CODECS, srtp="optional")
        users = {"ann": "secret"}
        ports = {"udp": 5060, "tcp": 5060}
        self.agent = UserAgent(AgentConfig("192.0.2.1", ports, media=media, users=users), token=tokens())  # type: ignore[arg-type]
        self.source = source
        self.now = 1.0
        self.sent: list[dict[str, Any]] = []
        self._ringing: list[tuple[float, str]] = []

    def receive(self, data: bytes) -> None:
        self._do(self.agent.receive(data, self.source, "udp", self.now))

    def until(self, end: float) -> None:
        """Let time pass."""
        while True:
            due = [at for at in (self.agent.next_timeout(), *(at for at, _ in self._ringing)) if at is not None]
            if not due or min(due) > end:
                break
            self.now = max(self.now, min(due))
            for at, call in [one for one in self._ringing if one[0] <= self.now]:
                self._ringing.remove((at, call))
                self._do(self.agent.accept(call, LOCAL, self.now))
            self._do(self.agent.handle_timeout(self.now))
        self.now = end

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Send(data, _):
                    text = data.decode()
                    at_ms = round((self.now - 1.0) * 1000)
                    self.sent.append({"at_ms": at_ms, "dir": "out", "msg": text.split("\r\n")})
                case CallOffered(call):
                    if "100rel" in action.headers.tokens("require"):
                        self._do(self.agent.ring(call, self.now))
                        self._ringing.append((self.now + 0.1, call))
                    else:
                        self._do(self.agent.accept(call, LOCAL, self.now))
                case DtmfInfo(call, "#"):
                    self._do(self.agent.hang_up(call, self.now))
                case DtmfInfo(call, "*"):
                    self._do(self.agent.transfer(call, "200", self.now))
                case DtmfInfo(call, "0"):
                    self._do(self.agent.change_media(call, self.now, hold=True))


def replay(name: str, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what we send."""
    desk = Desk(("192.0.2.7", 5070) if name.startswith("stranger") else ("127.0.0.1", 5070))
    for line in lines:
        if line["dir"] == "in":
            desk.until(1.0 + line["at_ms"] / 1000)
            desk.receive("\r\n".join(line["msg"]).encode())
    desk.until(1.0 + lines[-1]["at_ms"] / 1000 + 0.4)
    return desk.sent


def test_the_transcripts_that_must_be_there_are_there() -> None:
    assert {path.stem for path in TRANSCRIPTS.glob("*.jsonl")} >= {
        "plain_call",
        "dtmf",
        "peer_ends",
        "we_end",
        "cancel",
        "hold",
        "hold_by_us",
        "transfer",
        "late_offer",
        "codec_change",
        "reliable_ringing",
        "repeats",
        "malformed_message",
        "unknown_message",
        "stranger_wrong_password",
    }


@pytest.mark.parametrize("path", sorted(TRANSCRIPTS.glob("*.jsonl")), ids=lambda path: path.stem)
def test_a_call_goes_as_its_transcript_says(path: Path) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(set(one) == {"at_ms", "dir", "msg"} for one in lines)
    assert replay(path.stem, lines) == [one for one in lines if one["dir"] == "out"]
