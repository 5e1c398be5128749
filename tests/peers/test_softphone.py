"""A real softphone (baresip) dials the real gateway: codecs, keys, hold, both ends of a call."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastagent.media.resample import resample_block
from fastagent.media.wav import read_wav, write_wav
from tests.peers.test_browser import spoken
from tests.support.process import Served, free_port, serve

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[2]


async def dial(
    port: int, folder: Path, *actions: str, codec: str = "pcmu", agent: str = "front_desk"
) -> dict[str, Any]:
    """Let the phone call; return what its own stack says of the call."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.baresip_phone", f"sip:{agent}@127.0.0.1:{port}", codec,
        str(folder / "in.wav"), str(folder / "out.wav"), *actions,
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return dict(json.loads(out))


async def speaks(folder: Path, text: str, *, after_s: int, rate_hz: int = 8000) -> None:
    """What the phone's microphone will hear."""
    voice = resample_block(await spoken(text), 24000, rate_hz) if text else np.empty(0, np.int16)
    quiet = np.zeros(rate_hz, np.int16)
    write_wav(folder / "in.wav", [np.concatenate([*[quiet] * after_s, voice, *[quiet] * 60])], rate_hz)


async def turns(served: Served) -> list[tuple[str, str]]:
    """Stop the gateway; return what was said and heard, turn by turn, from its log."""
    served.process.terminate()
    code, log = await served.exited()
    assert code == 0
    lines = [json.loads(line) for line in log.splitlines()]
    return [(one["user"], one["heard"]) for one in lines if one["message"] == "turn"]


@pytest.mark.parametrize(("codec", "rate_hz"), [("pcmu", 8000), ("pcma", 8000), ("g722", 16000), ("opus", 48000)])
async def test_a_conversation_in_every_codec(tmp_path: Path, codec: str, rate_hz: int) -> None:
    await speaks(tmp_path, "My name is Anna.", after_s=4, rate_hz=rate_hz)
    port = free_port()
    async with serve(SIP_PORT=str(port), FASTAGENT_LOG_TRANSCRIPTS="1") as served:
        await served.until("/readyz", 200)
        phone = await dial(port, tmp_path, "wait:13", codec=codec)
        assert phone["ended"] == "by the phone"
        assert "rx_lost=0" in phone["stats"]
        said = await turns(served)
    assert said[0] == ("", "Hello, this is the front desk. May I have your name?")
    assert "anna" in said[1][0].lower()
    assert said[1][1].startswith("Thanks, Anna.")
    heard = read_wav(tmp_path / "out.wav")
    loud = np.abs(heard.samples.astype(np.int32)) > 1000
    assert np.argmax(loud) / heard.rate_hz < 1.0
    assert loud.sum() > heard.rate_hz // 10


async def test_keys_hold_and_the_agents_own_hang_up(tmp_path: Path) -> None:
    await speaks(tmp_path, "", after_s=1)
    agent = tmp_path / "agents" / "keys.yaml"
    agent.parent.mkdir()
    agent.write_text(
        "initial_state: pin\nno_input_timeout: 30\nstates:\n"
        "  - name: pin\n"
        "    slots: [{name: pin, type: digits, min_digits: 3, max_digits: 3, ask: Key in your number.}]\n"
        '    transitions: [{to: done, when: {slots: [pin]}, say: "Thank you."}]\n'
        "    no_input: Please key in your number.\n"
        '  - {name: done, say: "You are done, {{ caller_name }} order {{ pin }}. Goodbye.", terminal: true}\n'
    )
    port = free_port()
    settings = {"SIP_PORT": str(port), "FASTAGENT_LOG_TRANSCRIPTS": "1", "FASTAGENT_AGENTS": str(agent.parent)}
    async with serve(**settings) as served:
        await served.until("/readyz", 200)
        phone = await dial(port, tmp_path, "wait:3", "hold:2", "wait:1", "dtmf:120", "wait:9", agent="keys")
        assert phone["ended"] == "by the agent"
        said = await turns(served)
    assert said[-1][1].startswith("Thank you. You are done")
    assert "order 120" in said[-1][1]


async def test_strangers_and_wrong_passwords_are_refused(tmp_path: Path) -> None:
    async with serve(SIP_HOST="0.0.0.0", SIP_PORT=str(free_port())) as served:
        code, log = await served.exited()
    assert code == 1
    assert "SIP_USERS, SIP_TRUSTED or SIP_TRUNK" in log
