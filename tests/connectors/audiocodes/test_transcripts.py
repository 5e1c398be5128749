"""Golden transcripts: whole conversations on the wire, replayed in virtual time against core, leg and shell.

Each line of `tests/transcripts/audiocodes/*.jsonl` is `{"at_ms", "dir", "msg"}`: `in` comes from VoiceAI Connect (a
string is text that is sent as it is), `out` is expected from us, and nothing else. `{"dial": true}` opens another
socket, `{"drop": true}` loses the newest one, `{"close": code}` is our close of a socket.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.connectors.audiocodes.robot import Robot

TRANSCRIPTS = Path(__file__).parents[2] / "transcripts" / "audiocodes"

# What was counted; nothing in all other transcripts.
COUNTED: dict[str, dict[str, int]] = {
    "malformed": {"malformed": 6, "unknown_type": 2},
    "out_of_order": {"early_message": 3, "second_session": 2, "other_conversation": 1, "chunk_without_stream": 1},
    "no_common_format": {"no_common_media_format": 1},
    "resume": {"resumed_connection": 1},
    "resume_unknown": {"conversation_not_found": 1},
    "resume_while_open": {"resumed_connection": 1},
    "after_end": {"after_end": 3},
    "activities": {"unknown_activity": 2, "digit": 1, "repeated_activity": 1, "activity": 2},
}


async def replay(lines: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], Robot]:
    """Return what we send, and the robot at the end of it."""
    robot = Robot()
    sent = []
    inbound = [one for one in lines if one["dir"] == "in"]
    for at_ms in range(0, lines[-1]["at_ms"] + 1500, 5):
        for one in inbound:
            if one["at_ms"] == at_ms:
                message = one["msg"]
                if isinstance(message, dict) and message.get("dial"):
                    robot.dial()
                elif isinstance(message, dict) and message.get("drop"):
                    robot.socket.drop()
                else:
                    robot.socket.bring(message if isinstance(message, str) else json.dumps(message))
                await asyncio.sleep(0)
        for _ in range(8):  # whatever can be done at this moment is done
            await asyncio.sleep(0)
        sent += [{"at_ms": at_ms, "dir": "out", "msg": message} for message in robot.out]
        robot.out.clear()
        await asyncio.sleep(0.005)
    await robot.aclose()
    return sent, robot


def test_the_transcripts_that_must_be_there_are_there() -> None:
    assert {path.stem for path in TRANSCRIPTS.glob("*.jsonl")} >= {
        "plain_call", "dtmf", "barge_in", "peer_ends", "we_end", "malformed", "out_of_order", "validate",
        "no_common_format", "resume", "resume_unknown", "resume_while_open", "transfer", "transfer_fails", "text_only",
        "after_end", "activities",
    }  # fmt: skip


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("path", sorted(TRANSCRIPTS.glob("*.jsonl")), ids=lambda path: path.stem)
async def test_a_conversation_goes_as_its_transcript_says(path: Path) -> None:
    lines = read(path)
    assert all(set(one) == {"at_ms", "dir", "msg"} and one["at_ms"] % 5 == 0 for one in lines)
    sent, robot = await replay(lines)
    assert sent == [one for one in lines if one["dir"] == "out"]
    assert {kind: count for kind, count in robot.errors.items() if count} == {
        kind: count for kind, count in COUNTED.get(path.stem, {}).items() if count
    }
