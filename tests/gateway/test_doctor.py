"""`fastagent doctor`, as an operator runs it: against real ports, a real server, and nothing at all."""

import asyncio
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.support.process import free_port, serve
from tests.support.sip_end import certificate

pytestmark = pytest.mark.real


async def doctor(*arguments: str, **environment: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """Run it without speech; return its exit code, and what it found by name."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FASTAGENT_", "TWILIO_", "OPENAI_", "REDIS_", "SIP_"))
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "fastagent", "doctor", "--json", *arguments,
        env={**kept, "PORT": str(free_port()), "SIP_PORT": str(free_port()), **environment},
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    found: list[dict[str, Any]] = json.loads(out)
    assert process.returncode is not None
    return process.returncode, {one["name"]: (one["verdict"], one["text"]) for one in found}


async def test_a_fresh_machine_is_well_and_its_speech_speaks() -> None:
    code, found = await doctor()
    assert code == 0
    assert {name: verdict for name, (verdict, _) in found.items()} == {
        "PORT": "note",
        "SIP_PORT": "note",
        "API keys": "note",
        "port": "ok",
        "default agent": "ok",
        "Redis": "note",
        "model endpoint": "note",
        "Twilio": "note",
        "SIP": "ok",
        "SIP address": "ok",
        "RTP ports": "ok",
        "speech": "ok",
    }


async def test_what_is_wrong_is_named_and_no_secret_is_shown(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("initial_state: a\nstates: [{name: b}]\n")
    (tmp_path / "good.yaml").write_text("initial_state: a\nstates: [{name: a, say: Bye, terminal: true}]\n")
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        code, found = await doctor(
            "--no-speak",
            PORT=str(taken.getsockname()[1]),
            FASTAGENT_AGENTS=str(tmp_path),
            FASTAGENT_DEFAULT_AGENT="nobody",
            FASTAGENT_API_KEYS="topsecret1,topsecret2",
            REDIS_URL=f"redis://:topsecret3@127.0.0.1:{free_port()}/0",
            OPENAI_API_KEY="topsecret4",
            OPENAI_BASE_URL=f"http://127.0.0.1:{free_port()}/v1",
            TWILIO_AUTH_TOKEN="topsecret5",
            SIP_USERS="me:topsecret6",
            SIP_TRUNK=f"sip:127.0.0.1:{free_port()};transport=tcp",
            SIP_TRUNK_USER="me",
            SIP_TRUNK_PASSWORD="topsecret7",
            SIP_HOLD_MUSIC=str(tmp_path / "bad.yaml"),
            RTP_PORTS="20000-20009",
        )
    assert code == 1
    assert "topsecret" not in str(found)
    assert found["API keys"] == ("ok", "2 configured")
    assert found["port"][0] == "warning"
    assert found["agent bad"][0] == "error"
    assert found["agent good"][0] == "ok"
    assert found["default agent"][0] == "error"
    assert found["Redis"] == ("warning", "does not answer: connection")
    assert found["model endpoint"][0] == "error"
    assert found["Twilio"][0] == "warning"
    assert found["SIP"][1].endswith("calls from this machine, the trunk, 1 users with passwords")
    assert found["SIP trunk"][0] == "error"
    assert found["SIP hold music"][0] == "error"
    assert found["RTP ports"][0] == "warning"


async def test_a_sip_that_would_be_open_to_everybody_is_an_error() -> None:
    code, found = await doctor("--no-speak", SIP_HOST="0.0.0.0")
    assert (code, found["SIP"][0]) == (1, "error")


@pytest.mark.parametrize("transport", ["udp", "tcp", "tls"])
async def test_a_trunk_is_asked_how_it_is(tmp_path: Path, transport: str) -> None:
    """The trunk is a gateway."""
    files, port, tls = certificate(tmp_path), free_port(), free_port()
    own = {"SIP_TLS_CERT": str(files.certificate), "SIP_TLS_KEY": str(files.key)}
    async with serve(FASTAGENT_SPEECH="scripted", SIP_PORT=str(port), SIP_TLS_PORT=str(tls), **own) as served:
        await served.until("/readyz", 200)
        trunk = f"sip:127.0.0.1:{tls if transport == 'tls' else port};transport={transport}"
        _, found = await doctor("--no-speak", SIP_TRUNK=trunk, SIP_TLS_CA=str(files.certificate), **own)
    assert found["SIP trunk"] == ("ok", f"{transport}:{trunk.split(';')[0][4:]} answers (200)")
    assert found["SIP TLS"][0] == "warning", "its two days are soon over"
    if transport == "tls":
        _, found = await doctor("--no-speak", SIP_TRUNK=trunk)
        assert found["SIP trunk"][0] == "error"


async def test_a_wrong_setting_is_an_error_at_its_name() -> None:
    code, found = await doctor("--no-speak", FASTAGENT_AUTH="sometimes")
    assert code == 1
    assert found["FASTAGENT_AUTH"][0] == "error"


@pytest.mark.parametrize(("status", "verdict"), [(200, "ok"), (401, "error"), (404, "warning")])
async def test_the_endpoint_is_asked_for_its_models(status: int, verdict: str) -> None:
    async def models(request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer k"
        return web.json_response({"object": "list", "data": [{"id": "m", "object": "model"}]}, status=status)

    app = web.Application()
    app.router.add_get("/v1/models", models)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        _, found = await doctor("--no-speak", OPENAI_API_KEY="k", OPENAI_BASE_URL=base_url)
    finally:
        await runner.cleanup()
    assert found["model endpoint"][0] == verdict


async def test_a_webhook_is_looked_at_as_its_carrier_would() -> None:
    async with serve(FASTAGENT_SPEECH="scripted", TWILIO_AUTH_TOKEN="t") as served:
        await served.until("/livez", 200)
        _, found = await doctor("--no-speak", "--url", served.webhook)
        assert found["webhook"][0] == "ok"
        _, found = await doctor("--no-speak", "--url", f"{served.url}/nothing")
        assert found["webhook"][0] == "error"
    _, found = await doctor("--no-speak", "--url", served.webhook)
    assert found["webhook"] == ("error", f"{served.webhook} cannot be reached: ClientConnectorError")
