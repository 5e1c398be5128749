"""A real softphone (baresip) dials the real gateway: codecs, keys, hold, TLS, passwords, transfers, both ends of a
call."""

import asyncio
from pathlib import Path

import pytest

from tests.support.process import free_port, serve
from tests.support.sip_end import certificate
from tests.support.softphones import baresip, ended, first_sound_s, loud_s, pjsua, speaks, turns

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

KEYS = """
initial_state: pin
no_input_timeout: 30
states:
  - name: pin
    slots: [{name: pin, type: digits, min_digits: 3, max_digits: 3, ask: Key in your number.}]
    transitions: [{to: done, when: {slots: [pin]}, say: "Thank you."}]
    no_input: Please key in your number.
  - {name: done, say: "You are done, {{ caller_name }} {{ x_order }} order {{ pin }}. Goodbye.", terminal: true}
"""
THROUGH = """
initial_state: desk
states:
  - name: desk
    on_enter: Whom do you want?
    dtmf: {{menu: {{"1": through}}}}
    no_input: {{prompts: ["Still there?"]}}
  - name: through
    say: One moment.
    terminal: {{action: transfer, to: "sip:colleague@127.0.0.1:{port}"}}
"""


def agents(folder: Path, **documents: str) -> str:
    """Write agents; return where they are."""
    place = folder / "agents"
    place.mkdir()
    for name, text in documents.items():
        (place / f"{name}.yaml").write_text(text)
    return str(place)


@pytest.mark.parametrize(("codec", "rate_hz"), [("pcmu", 8000), ("pcma", 8000), ("g722", 16000), ("opus", 48000)])
async def test_a_conversation_in_every_codec(tmp_path: Path, codec: str, rate_hz: int) -> None:
    await speaks(tmp_path, "My name is Anna.", after_s=4, rate_hz=rate_hz)
    port = free_port()
    async with serve(SIP_PORT=str(port), FASTAGENT_LOG_TRANSCRIPTS="1") as served:
        await served.until("/readyz", 200)
        phone = await baresip(f"sip:front_desk@127.0.0.1:{port}", tmp_path, "--codec", codec, "wait:13")
        assert phone["ended"] == "by the phone"
        assert "rx_lost=0" in phone["stats"]
        said = turns(await ended(served))
    assert said[0] == ("", "Hello, this is the front desk. May I have your name?")
    assert "anna" in said[1][0].lower()
    assert said[1][1].startswith("Thanks, Anna.")
    assert first_sound_s(tmp_path / "out.wav") < 1.0
    assert loud_s(tmp_path / "out.wav") > 3.0


async def test_keys_hold_and_the_agents_own_hang_up(tmp_path: Path) -> None:
    await speaks(tmp_path, "", after_s=1)
    port = free_port()
    settings = {
        "SIP_PORT": str(port),
        "FASTAGENT_LOG_TRANSCRIPTS": "1",
        "FASTAGENT_AGENTS": agents(tmp_path, keys=KEYS),
    }
    async with serve(**settings) as served:
        await served.until("/readyz", 200)
        actions = ("wait:3", "hold:2", "wait:1", "dtmf:120", "wait:9")
        phone = await baresip(f"sip:keys@127.0.0.1:{port}", tmp_path, *actions)
        assert phone["ended"] == "by the agent"
        said = turns(await ended(served))
    assert said[-1][1].startswith("Thank you. You are done")
    assert "42 order 120" in said[-1][1]


async def test_a_call_over_tls_with_a_password(tmp_path: Path) -> None:
    await speaks(tmp_path, "", after_s=1)
    files, tls = certificate(tmp_path), free_port()
    settings = {
        "SIP_PORT": str(free_port()), "SIP_TLS_PORT": str(tls), "SIP_TLS_CERT": str(files.certificate),
        "SIP_TLS_KEY": str(files.key), "SIP_USERS": "ann:secret", "SIP_TRUST_LOOPBACK": "0",
        "FASTAGENT_SPEECH": "scripted", "FASTAGENT_DEFAULT_AGENT": "bench",
    }  # fmt: skip
    async with serve(**settings) as served:
        await served.until("/readyz", 200)
        address, verify = f"sip:bench@127.0.0.1:{tls};transport=tls", ("--ca", str(files.certificate))
        right = ("--user", "ann", "--password", "secret")
        phone = await baresip(address, tmp_path, *verify, *right, "wait:6")
        assert phone["ended"] == "by the phone"
        assert loud_s(tmp_path / "out.wav") > 1.5
        wrong = await baresip(address, tmp_path, *verify, "--user", "ann", "--password", "wrong")
        assert wrong["ended"].startswith("not answered")


@pytest.mark.parametrize("how", ["blind", "attended"])
async def test_a_transfer_from_phone_to_phone(tmp_path: Path, how: str) -> None:
    """baresip is put through to a phone on PJSIP, and they talk to each other."""
    await speaks(tmp_path, "Hello.", after_s=1)
    port, other = free_port(), free_port()
    settings = {
        "SIP_PORT": str(port), "SIP_TRANSFER": how, "FASTAGENT_TRANSFER_TO": "sip:*@127.0.0.1:*",
        "FASTAGENT_AGENTS": agents(tmp_path, through=THROUGH.format(port=other)),
    }  # fmt: skip
    async with serve(**settings) as served:
        await served.until("/readyz", 200)
        colleague = asyncio.create_task(pjsua(other, "--play", str(tmp_path / "in.wav"), "answered:15", "stay:6"))
        phone = await baresip(f"sip:through@127.0.0.1:{port}", tmp_path, "wait:2", "dtmf:1", "follow:10")
        assert phone.get("followed", phone["ended"]).startswith("sip:")
        (seen,) = await colleague
        assert seen["received"] > 50
        assert seen["states"].count("CONFIRMED") == (1 if how == "blind" else 2)  # the agent, then the caller
        log = await ended(served)
    (over,) = [one for one in log if one["message"] == "Session ended"]
    assert over["reason"] == "transferred"


async def test_an_attended_transfer_to_nobody_gives_the_caller_back(tmp_path: Path) -> None:
    await speaks(tmp_path, "", after_s=1)
    port = free_port()
    settings = {
        "SIP_PORT": str(port), "SIP_TRANSFER": "attended", "FASTAGENT_TRANSFER_TO": "sip:*@127.0.0.1:*",
        "FASTAGENT_AGENTS": agents(tmp_path, through=THROUGH.replace(":{port}", ":{port};transport=tcp").format(
            port=free_port())), "FASTAGENT_LOG_TRANSCRIPTS": "1",
    }  # fmt: skip
    async with serve(**settings) as served:
        await served.until("/readyz", 200)
        phone = await baresip(f"sip:through@127.0.0.1:{port}", tmp_path, "wait:2", "dtmf:1", "wait:12")
        assert phone["ended"] == "by the agent"
        log = await ended(served)
    assert any(one["message"].startswith("no transfer") for one in log)
    assert "sorry" in turns(log)[-1][1].lower() or turns(log)[-1][1]


async def test_who_would_be_open_to_everybody_does_not_start() -> None:
    async with serve(SIP_HOST="0.0.0.0", SIP_PORT=str(free_port())) as served:
        code, log = await served.exited()
    assert code == 1
    assert "SIP_USERS, SIP_TRUSTED or SIP_TRUNK" in log
