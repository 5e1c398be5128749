"""`fastagent call --wire audiocodes` as a user runs it, against a gateway process."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from fastagent.media.wav import read_wav
from tests.support.process import Served, free_port, serve

pytestmark = [pytest.mark.real, pytest.mark.call, pytest.mark.timeout(120)]

SCRIPTED = {"FASTAGENT_SPEECH": "scripted", "FASTAGENT_DEFAULT_AGENT": "bench", "AUDIOCODES_API_KEY": "secret"}
QUESTION = Path(__file__).parents[3] / "bench/speech/question.wav"


async def run(*arguments: str) -> tuple[int, str, str]:
    """Run the command; return its exit code and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fastagent", "call", "--wire", "audiocodes", *arguments),
        env={**os.environ, "COLUMNS": "120"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(90):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def report(gateway: Served, *arguments: str, token: str = "secret") -> dict[str, Any]:
    url = f"{gateway.url}/audiocodes/webhook"
    code, out, err = await run("--url", url, "--json", "--token", token, *arguments)
    assert code == 0, out + err
    document: dict[str, Any] = json.loads(out)
    assert document["wire"]["violations"] == []
    return document


async def test_a_wav_is_answered_recorded_and_reported(tmp_path: Path) -> None:
    async with serve(**SCRIPTED) as gateway:
        await gateway.until("/readyz", 200)
        record = tmp_path / "call.wav"
        document = await report(gateway, "--wav", str(QUESTION), "--record", str(record))
        code, out, _ = await run("--url", f"{gateway.url}/audiocodes/webhook", "--json", "--token", "wrong")
        assert code == 1
        assert json.loads(out) == {"refused": "the handshake was answered 401"}
    assert document["ended_by"] == "caller"
    assert document["wire"]["format"] == "raw/lpcm16_8"
    assert document["wire"]["agent_audio_s"] == 6.0  # the greeting and one answer, three seconds each
    assert document["wire"]["streams"] == 2
    assert document["wire"]["recognised"] == ["Hello there."]
    assert document["wire"]["max_lead_ms"] <= 600
    assert len(document["response_ms"]) == 1
    assert document["session"]["end_reason"] == "caller_hung_up"
    assert [turn["cause"] for turn in document["session"]["turns"]] == ["opening", "speech"]
    assert abs(read_wav(record).duration_s - document["duration_s"]) < 0.03


async def test_barging_in_silences_and_a_lost_connection_is_resumed() -> None:
    async with serve(**SCRIPTED) as gateway:
        await gateway.until("/readyz", 200)
        interrupted, cut = await asyncio.gather(
            report(gateway, "--wav", str(QUESTION), "--barge-in-after", "800"),
            report(gateway, "--wav", str(QUESTION), "--cut-after", "1.0"),
        )
    assert interrupted["wire"]["clears"] == 1
    assert len(interrupted["onset_to_clear_ms"]) == 1
    opening, answer = interrupted["session"]["turns"]
    assert opening["interrupted"]
    assert not answer["interrupted"]
    assert cut["wire"]["resumed"] == 1
    assert [turn["cause"] for turn in cut["session"]["turns"]] == ["opening", "speech"]
    assert cut["session"]["turns"][0]["heard"] == cut["session"]["turns"][0]["agent"]


async def test_with_barge_in_off_the_agent_speaks_on() -> None:
    async with serve(**SCRIPTED, AUDIOCODES_BARGE_IN="false") as gateway:
        await gateway.until("/readyz", 200)
        document = await report(gateway, "--wav", str(QUESTION), "--barge-in-after", "800")
    assert document["wire"]["clears"] == 0
    assert not document["session"]["turns"][0]["interrupted"]


async def test_nobody_there_is_a_clear_line() -> None:
    code, _, err = await run("--url", f"http://127.0.0.1:{free_port()}/audiocodes/webhook")
    assert code == 1
    assert "cannot reach" in err
    assert "Traceback" not in err
