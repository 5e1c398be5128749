"""The gateway as an extension of a real PBX (Kamailio), with a real phone (PJSIP) on another one."""

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.kamailio import PASSWORD, USER, pbx
from tests.support.process import Served, free_port, serve
from tests.support.softphones import ended, loud_s, pjsua, qualities

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]


def settings(port: int, transport: str) -> dict[str, str]:
    return {
        "SIP_PORT": str(free_port()), "SIP_TRUNK": f"sip:127.0.0.1:{port};transport={transport}",
        "SIP_TRUNK_USER": USER, "SIP_TRUNK_PASSWORD": PASSWORD, "SIP_TRUST_LOOPBACK": "0",
        "SIP_ROUTES": f"{USER}=bench", "SIP_TRUNK_PROBE_S": "5",
        "FASTAGENT_CALL_TO": "2??", "FASTAGENT_SPEECH": "scripted", "FASTAGENT_LOG_TRANSCRIPTS": "1",
    }  # fmt: skip


async def registered(served: Served) -> None:
    """Return when the PBX knows the gateway, and the gateway that the PBX is there."""
    await served.until("/readyz", 200)
    async with asyncio.timeout(10), aiohttp.ClientSession() as http:
        while True:
            async with http.get(served.url + "/metrics") as answer:
                text = await answer.text()
                if "fastagent_sip_registered 1.0" in text and "fastagent_sip_trunk_up 1.0" in text:
                    return
            await asyncio.sleep(0.1)


@pytest.mark.parametrize(("transport", "algorithm"), [("udp", "MD5"), ("tcp", "SHA-256")])
async def test_an_extension_that_is_called_and_calls(tmp_path: Path, transport: str, algorithm: str) -> None:
    port, phone_port = free_port(), free_port()
    async with pbx(tmp_path, port=port, algorithm=algorithm), serve(**settings(port, transport)) as served:
        await registered(served)
        at = ("--user", "200", "--register", f"sip:127.0.0.1:{port}", "--record", str(tmp_path / "out.wav"))
        to_us = ("--call", f"sip:{USER}@127.0.0.1:{port}")
        (phone,) = await pjsua(phone_port, *at, *to_us, "wait:5", "dtmf:1", "hold:1", "wait:2", "hangup")
        assert phone["states"][-2:] == ["CONFIRMED", "DISCONNECTED"]
        assert (phone["lost"], phone["status"]) == (0, 200)
        assert loud_s(tmp_path / "out.wav") > 1.5

        waiting = asyncio.create_task(pjsua(phone_port, *at, "answered:20", "gone:20"))
        await asyncio.sleep(1.5)
        placed = await call(served, "200")
        assert (placed["status"], placed["outcome"]) == ("ended", "answered")
        (phone,) = await waiting
        assert phone["states"][-2:] == ["CONFIRMED", "DISCONNECTED"]
        assert loud_s(tmp_path / "out.wav") > 0.5

        nobody = await call(served, "299")
        assert (nobody["status"], nobody["outcome"], nobody["sip_status"]) == ("ended", "not_found", 404)

        log = await ended(served)
        assert len(qualities(log)) == 2
        (phone,) = await pjsua(phone_port, *at, *to_us, "gone:10")
        assert phone["status"] == 404, "a gateway that has gone is forgotten"


async def test_a_wrong_password_is_told_and_not_tried_again(tmp_path: Path) -> None:
    port = free_port()
    wrong = {**settings(port, "udp"), "SIP_TRUNK_PASSWORD": "wrong"}
    async with pbx(tmp_path, port=port, algorithm="MD5"), serve(**wrong) as served:
        await served.until("/readyz", 200)
        async with asyncio.timeout(10), aiohttp.ClientSession() as http:
            while True:
                async with http.get(served.url + "/health") as answer:
                    health = await answer.json()
                if health["status"] == "degraded":
                    break
                await asyncio.sleep(0.1)
        assert any("401" in one for one in health["reasons"])
        log = await ended(served)
    assert [one["status"] for one in log if one["message"] == "not registered at the trunk"] == [401]
    assert "wrong" not in json.dumps(log)


async def call(served: Served, to: str) -> dict[str, Any]:
    """Have the gateway call, hang up after some seconds, and return what it says became of it."""
    async with aiohttp.ClientSession() as http:
        async with http.post(served.url + "/calls", json={"to": to, "agent_id": "bench"}) as answer:
            assert answer.status == 202, await answer.text()
            where = f"{served.url}/calls/{(await answer.json())['call_id']}"
        async with asyncio.timeout(20):
            while True:
                async with http.get(where) as answer:
                    placed: dict[str, Any] = await answer.json()
                if placed["status"] == "answered":
                    await asyncio.sleep(3)
                    async with http.delete(where) as answer:
                        assert answer.status == 200
                elif placed["status"] == "ended":
                    return placed
                await asyncio.sleep(0.2)
