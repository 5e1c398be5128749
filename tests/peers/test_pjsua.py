"""A second stack (PJSIP) as caller and callee of the real gateway, in a process of its own."""

import asyncio
import sys
from pathlib import Path

import pytest

from tests.support.process import free_port, serve
from tests.support.softphones import ROOT, ended, first_sound_s, loud_s, pjsua, qualities, speaks, turns

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

SCRIPTED = {"FASTAGENT_SPEECH": "scripted", "FASTAGENT_DEFAULT_AGENT": "bench"}


@pytest.mark.parametrize(("codec", "more"), [("pcmu", "--vad"), ("pcma", "--srtp"), ("g722", "--require-100rel")])
async def test_a_conversation_with_keys_and_a_hold(tmp_path: Path, codec: str, more: str) -> None:
    """With silence suppression, encrypted media and provisional answers that must arrive, one each."""
    await speaks(tmp_path, "My name is Anna.", after_s=4)
    port = free_port()
    async with serve(SIP_PORT=str(port), SIP_RING_S="0.5", FASTAGENT_LOG_TRANSCRIPTS="1") as served:
        await served.until("/readyz", 200)
        (phone,) = await pjsua(
            free_port(), "--call", f"sip:front_desk@127.0.0.1:{port}", "--codec", codec, more,
            "--play", str(tmp_path / "in.wav"), "--record", str(tmp_path / "out.wav"),
            "wait:13", "hold:1", "dtmf:2", "wait:4", "hangup",
        )  # fmt: skip
        log = await ended(served)
    assert phone["states"][-2:] == ["CONFIRMED", "DISCONNECTED"]
    assert "EARLY" in phone["states"]
    assert (phone["codec"].lower(), phone["lost"]) == (codec, 0)
    said = turns(log)
    assert "anna" in said[1][0].lower()
    assert said[-1][0] == "[keys 1]"
    (quality,) = qualities(log)
    assert (quality["lost"], quality["late"], quality["one_way"]) == (0, 0, None)
    assert quality["jitter_p95_ms"] < 40
    assert quality["concealed_frames"] < 10
    assert loud_s(tmp_path / "out.wav") > 3.0


async def test_a_password_and_keys_by_info(tmp_path: Path) -> None:
    port = free_port()
    async with serve(SIP_PORT=str(port), SIP_USERS="ann:secret", SIP_TRUST_LOOPBACK="0", **SCRIPTED) as served:
        await served.until("/readyz", 200)
        call = ("--call", f"sip:bench@127.0.0.1:{port}", "--user", "ann")
        (phone,) = await pjsua(free_port(), *call, "--password", "secret", "wait:4", "info:1", "wait:2", "hangup")
        assert phone["states"][-2:] == ["CONFIRMED", "DISCONNECTED"]
        (phone,) = await pjsua(free_port(), *call, "--password", "wrong", "gone:10")
        assert (phone["states"][-1], phone["status"]) == ("DISCONNECTED", 401)
        (phone,) = await pjsua(free_port(), "--call", f"sip:bench@127.0.0.1:{port}", "gone:10")
        assert phone["status"] == 401
        log = await ended(served)
    assert len(qualities(log)) == 1


async def test_the_gateway_calls_a_phone_and_is_taken_at_its_word(tmp_path: Path) -> None:
    port, phone_port = free_port(), free_port()
    settings = {"SIP_PORT": str(port), "FASTAGENT_CALL_TO": "sip:*@127.0.0.1:*", **SCRIPTED}
    async with serve(**settings) as served:
        await served.until("/readyz", 200)

        async def dial(to: str, *more: str) -> tuple[int | None, str]:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "fastagent", "dial", to, "--url", served.url, *more),
                cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            out, _ = await process.communicate()
            return process.returncode, out.decode()

        waiting = asyncio.create_task(
            pjsua(phone_port, "--record", str(tmp_path / "out.wav"), "answered:15", "wait:5", "hangup")
        )
        await asyncio.sleep(2)
        code, out = await dial(f"sip:ann@127.0.0.1:{phone_port}", "--agent", "bench", "--metadata", "order=42")
        told = [word for word in out.split() if word != "ringing"]  # it may ring for less than we look
        assert (code, told) == (0, ["dialing", "answered", "ended:", "answered"])
        (phone,) = await waiting
        assert phone["states"][-2:] == ["CONFIRMED", "DISCONNECTED"]
        assert loud_s(tmp_path / "out.wav") > 1.5
        code, out = await dial(f"sip:ann@127.0.0.1:{free_port()};transport=tcp")
        assert (code, out.split()[-1]) == (1, "unreachable")
        code, out = await dial("sip:ann@192.0.2.1")
        assert (code, "FASTAGENT_CALL_TO" in out) == (2, True)


async def test_a_caller_who_interrupts_hears_the_agent_fall_silent(tmp_path: Path) -> None:
    """In mid-sentence; the phone adds its own two buffers to our quarter of a second."""
    await speaks(tmp_path, "I would like to speak to somebody please.", after_s=0.6)
    port = free_port()
    async with serve(SIP_PORT=str(port), FASTAGENT_LOG_TRANSCRIPTS="1") as served:
        await served.until("/readyz", 200)
        files = ("--play", str(tmp_path / "in.wav"), "--record", str(tmp_path / "out.wav"))
        (phone,) = await pjsua(free_port(), "--call", f"sip:front_desk@127.0.0.1:{port}", *files, "wait:8", "hangup")
        log = await ended(served)
    assert phone["lost"] == 0
    onset = first_sound_s(tmp_path / "in.wav")
    greeting = first_sound_s(tmp_path / "out.wav")
    assert greeting < 0.8
    recording = tmp_path / "out.wav"
    assert loud_s(recording, greeting, onset) > 0.5 * (onset - greeting)
    assert loud_s(recording, onset + 0.45, onset + 1.2) == 0
    assert loud_s(recording, onset + 1.2) > 0.5, "and is answered"
    assert "speak" in turns(log)[0][0].lower()
