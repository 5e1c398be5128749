"""`fastagent call` as a user runs it, against a gateway process."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from fastagent.media.wav import read_wav, write_wav
from tests.support.audio import tone
from tests.support.process import Served, free_port, serve

pytestmark = [pytest.mark.real, pytest.mark.call, pytest.mark.timeout(120)]

SCRIPTED = {"FASTAGENT_SPEECH": "scripted", "FASTAGENT_DEFAULT_AGENT": "bench"}
QUESTION = Path(__file__).parents[2] / "bench/speech/question.wav"


async def run(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Run the command; return its exit code and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fastagent", "call", *arguments),
        env={**os.environ, "COLUMNS": "120", **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(90):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def report(gateway: Served, *arguments: str, **environment: str) -> dict[str, Any]:
    code, out, err = await run("--url", gateway.webhook, "--json", *arguments, **environment)
    assert code == 0, err
    document: dict[str, Any] = json.loads(out)
    assert document["wire"]["violations"] == []
    return document


async def test_a_wav_is_answered_recorded_and_reported(tmp_path: Path) -> None:
    async with serve(**SCRIPTED) as gateway:
        await gateway.until("/readyz", 200)
        record = tmp_path / "call.wav"
        document = await report(gateway, "--wav", str(QUESTION), "--record", str(record))
    assert document["ended_by"] == "caller"
    assert len(document["response_ms"]) == 1
    assert document["wire"]["agent_audio_s"] == 6.0  # the greeting and one answer, three seconds each
    assert document["session"]["end_reason"] == "caller_hung_up"
    assert [turn["cause"] for turn in document["session"]["turns"]] == ["opening", "speech"]
    assert abs(read_wav(record).duration_s - document["duration_s"]) < 0.03


async def test_barging_in_clears_and_the_next_answer_comes(tmp_path: Path) -> None:
    async with serve(**SCRIPTED) as gateway:
        await gateway.until("/readyz", 200)
        document = await report(gateway, "--wav", str(QUESTION), "--barge-in-after", "800")
    assert document["wire"]["clears"] == 1
    assert len(document["onset_to_clear_ms"]) == 1
    opening, answer = document["session"]["turns"]
    assert opening["interrupted"]
    assert not answer["interrupted"]
    assert document["session"]["barge_ins"] == {"pause": 1, "interrupt": 1}
    assert document["holes_ms"] == []


async def test_the_transcript_and_the_waterfall_are_in_the_terminal() -> None:
    async with serve(**SCRIPTED) as gateway:
        await gateway.until("/readyz", 200)
        code, out, _ = await run("--url", gateway.webhook, "--wav", str(QUESTION))
    assert code == 0
    assert "caller  (question.wav)" in out
    assert " agent  This is an answer of exactly eight words." in out
    assert "endpointing" in out
    assert "hung up" in out


async def test_actions_happen_in_the_order_given(tmp_path: Path) -> None:
    async with serve(FASTAGENT_SPEECH="scripted") as gateway:
        await gateway.until("/readyz", 200)
        document = await report(gateway, "--dtmf", "1", "--wav", str(QUESTION), "--dtmf", "1")
    assert [turn["cause"] for turn in document["session"]["turns"]] == ["opening", "dtmf", "speech", "dtmf"]


async def test_a_signed_call_over_a_public_address() -> None:
    public = {"TWILIO_AUTH_TOKEN": "12345", "PUBLIC_BASE_URL": "https://gw.example.com"}
    async with serve(**SCRIPTED, **public) as gateway:
        await gateway.until("/readyz", 200)
        signed = ("--auth-token", "12345", "--public-url", "https://gw.example.com/twilio/webhook")
        document = await report(gateway, *signed)
        assert document["wire"]["agent_audio_s"] == 3.0
        code, out, _ = await run("--url", gateway.webhook, "--json", "--auth-token", "wrong", *signed[2:])
        assert code == 1
        assert json.loads(out) == {"refused": "the webhook answered 403"}


async def test_nobody_there_is_a_clear_line() -> None:
    code, _, err = await run("--url", f"http://127.0.0.1:{free_port()}/twilio/webhook")
    assert code == 1
    assert "cannot reach" in err
    assert "Traceback" not in err


async def test_a_file_that_is_no_wav_is_a_usage_error(tmp_path: Path) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"RIFFnonsense")
    code, _, err = await run("--wav", str(bad))
    assert code == 2
    assert "bad.wav" in err


async def test_a_wav_of_another_rate_is_resampled(tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    write_wav(path, [tone(0.5, rate_hz=44100)], 44100)
    async with serve(**SCRIPTED) as gateway:
        await gateway.until("/readyz", 200)
        record = tmp_path / "call.wav"
        await report(gateway, "--wav", str(path), "--record", str(record))


async def sip_report(port: int, gateway: Served, *arguments: str) -> dict[str, Any]:
    code, out, err = await run(
        *("--wire", "sip", "--url", f"sip:bench@127.0.0.1:{port}", "--api", gateway.url, "--json", *arguments)
    )
    assert code == 0, err
    document: dict[str, Any] = json.loads(out)
    return document


async def test_a_call_by_sip_is_answered_recorded_and_reported(tmp_path: Path) -> None:
    port, record = free_port(), tmp_path / "call.wav"
    async with serve(SIP_PORT=str(port), **SCRIPTED) as gateway:
        await gateway.until("/readyz", 200)
        document = await sip_report(port, gateway, "--wav", str(QUESTION), "--dtmf", "1", "--record", str(record))
        turns = document["session"]["turns"]
        assert [turn["cause"] for turn in turns] == ["opening", "speech", "dtmf"]
        assert all(turn["heard"] for turn in turns)
        assert (document["ended_by"], document["session"]["end_reason"]) == ("caller", "caller_hung_up")
        wire = document["wire"]
        assert (wire["codec"], wire["lost"], wire["violations"]) == ("PCMU", 0, [])
        assert wire["mos"] > 4
        assert document["session"]["quality"]["received"] > 100
        heard = read_wav(record)
        assert abs(heard.duration_s - document["duration_s"]) < 0.03
        code, out, _ = await run("--wire", "sip", "--url", f"sip:bench@127.0.0.1:{port}", "--wav", str(QUESTION))
        assert code == 0
        assert "what the phone heard" in out


async def test_barging_in_by_sip_silences_the_agent_and_encrypted_wideband_works(tmp_path: Path) -> None:
    port = free_port()
    async with serve(SIP_PORT=str(port), **SCRIPTED) as gateway:
        await gateway.until("/readyz", 200)
        options = ("--wav", str(QUESTION), "--barge-in-after", "800", "--codec", "opus", "--srtp")
        document = await sip_report(port, gateway, *options)
    assert document["session"]["turns"][0]["interrupted"]
    assert len(document["onset_to_clear_ms"]) == 1
    assert document["wire"]["codec"] == "opus"


async def test_a_bad_network_is_made_by_a_seed_on_every_wire() -> None:
    port = free_port()
    network = ("--loss", "0.1", "--jitter", "40", "--reorder", "0.05", "--duplicate", "0.05", "--seed", "7")
    async with serve(SIP_PORT=str(port), **SCRIPTED) as gateway:
        await gateway.until("/readyz", 200)
        document = await sip_report(port, gateway, "--wav", str(QUESTION), *network)
        quality = document["session"]["quality"]
        assert 0.04 < quality["lost"] / (quality["lost"] + quality["received"]) < 0.18
        assert min(quality["duplicates"], quality["reordered"], document["wire"]["concealed_frames"]) > 0
        assert document["session"]["turns"][1]["heard"]
        document = await report(gateway, "--wav", str(QUESTION), *network)
        assert document["session"]["turns"][1]["heard"]


async def test_a_gateway_that_takes_no_call_by_sip_is_a_clear_line() -> None:
    code, out, _ = await run("--wire", "sip", "--json", "--url", f"sip:bench@127.0.0.1:{free_port()};transport=tcp")
    assert (code, json.loads(out)) == (1, {"refused": "unreachable"})
    code, out, _ = await run("--wire", "sip", "--json", "--url", "sip:")
    assert code == 1
    assert "no SIP address" in json.loads(out)["refused"]
    code, _, err = await run("--wire", "sip", "--codec", "g729")
    assert code == 2
    assert "g729" in err
