"""sipp: many calls at once with media, calls that end at once, and more calls than there are places."""

import asyncio
import re
import shutil
import socket
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from fastagent.gateway.cli.phone import line_noise
from tests.support.process import Served, free_port, serve
from tests.support.softphones import ended, pjsua, qualities

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

SCENARIO = Path(__file__).parent / "sipp/caller.xml"
SCRIPTED = {"FASTAGENT_SPEECH": "scripted", "FASTAGENT_DEFAULT_AGENT": "bench"}


SCAN = (
    b"INVITE sip:00441234@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.2:5070;branch=z9hG4bKNUMBER;rport\r\n"
    b"Max-Forwards: 70\r\nFrom: <sip:100@127.0.0.1>;tag=1\r\nTo: <sip:00441234@127.0.0.1>\r\nCall-ID: NUMBER\r\n"
    b"CSeq: 1 INVITE\r\nContact: <sip:100@127.0.0.2:5070>\r\nContent-Length: 0\r\n\r\n"
)


async def sipp(folder: Path, port: int, *arguments: str) -> tuple[int | None, str]:
    """Run it; return its exit code (0: all calls were as they should be) and its last screen."""
    assert shutil.which("sipp"), "the sipp peer is missing: run deploy/setup.sh test"
    (folder / "speech.ulaw").write_bytes(line_noise(20.0))
    process = await asyncio.create_subprocess_exec(
        *("sipp", f"127.0.0.1:{port}", "-i", "127.0.0.1", "-mi", "127.0.0.1", "-p", str(free_port())),
        *("-s", "bench", "-timeout", "60", "-timeout_error", *arguments),
        cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    return process.returncode, out.decode(errors="replace")[-6000:]


def descriptors(served: Served) -> int:
    """How many files and sockets the gateway has open."""
    return len(list(Path(f"/proc/{served.process.pid}/fd").iterdir()))


async def metrics(url: str) -> str:
    async with aiohttp.ClientSession() as http, http.get(f"{url}/metrics") as answer:
        return await answer.text()


async def test_twenty_calls_at_once_hear_and_are_heard(tmp_path: Path) -> None:
    port = free_port()
    async with serve(SIP_PORT=str(port), **SCRIPTED) as served:
        await served.until("/readyz", 200)
        code, screen = await sipp(tmp_path, port, "-sf", str(SCENARIO), "-m", "40", "-l", "20", "-r", "10")
        assert code == 0, screen
        async with aiohttp.ClientSession() as http, http.get(f"{served.url}/sessions") as answer:
            assert (await answer.json())["total_count"] == 0
        log = await ended(served)
    calls = qualities(log)
    assert len(calls) == 40
    assert all(one["received"] > 200 and one["lost"] == 0 and one["one_way"] is None for one in calls)
    assert Counter(one["reason"] for one in log if one["message"] == "Session ended") == {"caller_hung_up": 40}


async def test_two_hundred_calls_that_end_at_once_leave_nothing(tmp_path: Path) -> None:
    port = free_port()
    async with serve(SIP_PORT=str(port), **SCRIPTED) as served:
        await served.until("/readyz", 200)
        before = descriptors(served)
        code, screen = await sipp(tmp_path, port, "-sn", "uac", "-m", "200", "-r", "50")
        assert code == 0, screen
        code, screen = await sipp(tmp_path, port, "-sn", "uac", "-t", "t1", "-m", "50", "-r", "50")
        assert code == 0, screen
        async with asyncio.timeout(10):
            while 'direction="inbound",result="caller_hung_up"} 250.0' not in await metrics(served.url):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        async with aiohttp.ClientSession() as http, http.get(f"{served.url}/sessions") as answer:
            assert (await answer.json())["total_count"] == 0
        async with asyncio.timeout(10):
            while descriptors(served) > before + 2:  # noqa: ASYNC110 - the two that ask
                await asyncio.sleep(0.1)
        log = await ended(served)
    assert sum(one["message"] == "Session ended" for one in log) == 250
    assert not [one for one in log if one["level"] == "ERROR"]


async def test_who_is_one_too_many_hears_503_and_the_others_do_not_notice(tmp_path: Path) -> None:
    port = free_port()
    async with serve(SIP_PORT=str(port), MAX_SESSIONS="5", **SCRIPTED) as served:
        await served.until("/readyz", 200)
        code, screen = await sipp(tmp_path, port, "-sf", str(SCENARIO), "-m", "10", "-l", "10", "-r", "50")
        assert code == 1, screen
        assert 'fastagent_calls_rejected_total{reason="capacity"} 5.0' in await metrics(served.url)
        log = await ended(served)
    calls = qualities(log)
    assert len(calls) == 5
    assert all(one["received"] > 200 and one["lost"] == 0 for one in calls)


async def test_a_flood_of_strangers_is_not_noticed_in_a_call(tmp_path: Path) -> None:
    """Nearly 500 datagrams a second from an address that is not trusted: scans, which are asked for a password, and
    rubbish (S17). It is one of this machine: to addresses from elsewhere the gateway is shorter."""
    port = free_port()
    settings = {"SIP_PORT": str(port), "SIP_HOST": "0.0.0.0", "SIP_PUBLIC_HOST": "127.0.0.1", "SIP_TRUST_LOOPBACK": "0"}
    async with serve(**settings, SIP_USERS="ann:secret", SIP_TRUSTED="127.0.0.1/32", **SCRIPTED) as served:
        await served.until("/readyz", 200)
        record = ("--record", str(tmp_path / "out.wav"))
        calling = asyncio.create_task(
            pjsua(free_port(), "--call", f"sip:bench@127.0.0.1:{port}", *record, "wait:6", "hangup")
        )
        await asyncio.sleep(2)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.bind(("127.0.0.2", 0))
            for n in range(1500):
                request = SCAN.replace(b"NUMBER", b"%d" % n) if n % 2 else bytes((n % 256,)) * (n % 1400)
                stranger.sendto(request, ("127.0.0.1", port))
                await asyncio.sleep(0.002)
        (phone,) = await calling
        text = await metrics(served.url)
        log = await ended(served)
    assert phone["states"][-2:] == ["CONFIRMED", "DISCONNECTED"]
    assert phone["lost"] == 0
    (quality,) = qualities(log)
    assert (quality["lost"], quality["late"], quality["one_way"]) == (0, 0, None)
    (dropped,) = re.findall(r'protocol_errors_total{kind="malformed",surface="sip"} ([0-9.]+)', text)
    assert float(dropped) > 600
