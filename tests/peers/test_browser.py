"""A real browser calls the real gateway: Chromium's fake microphone speaks, embedded speech understands."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import numpy as np
import pytest

from fastagent.media.resample import resample_block
from fastagent.media.wav import write_wav
from tests.support.chromium import ELSEWHERE, Page, chromium
from tests.support.process import Served, serve
from tests.support.voices import spoken

# The next call of a function waits, after what it does, until the test says `letGo()`.
HOLD = """(([owner, name]) => {
  const real = owner[name].bind(owner);
  owner[name] = async (...given) => {
    owner[name] = real;
    window.held = await real(...given);
    await new Promise((resolve) => { window.letGo = resolve; });
    return window.held;
  };
})"""
# The answer comes even to a request that was aborted: whoever awaits it must look whether it is still wanted.
STUBBORN = """(() => {
  const real = window.fetch;
  window.fetch = async (path, request) => new Response(await (await real(path, {...request, signal: null})).text());
})()"""
SENT = """(() => {
  const send = call.channel.send.bind(call.channel);
  window.sent = [];
  call.channel.send = (text) => { window.sent.push(text); send(text); };
})()"""
# Fifteen seconds are one.
SHORT = "(() => { const real = setTimeout; window.setTimeout = (what, ms) => real(what, ms / 15); })()"
TOLD = """(() => {
  const [peer, status] = [call.peer, document.getElementById('status')];
  window.told = [];
  const look = () => told.push(`${status.textContent} ${peer.connectionState}`);
  new MutationObserver(look).observe(status, {childList: true});
})()"""


def click(name: str) -> str:
    return f"document.getElementById('{name}').click() || true"


def says(status: str) -> str:
    return f"document.getElementById('status').textContent === {json.dumps(status)}"


async def loaded(page: Page) -> None:
    await page.until("document.getElementById('keypad')?.children.length === 12")  # its script has run


async def sessions(served: Served) -> int:
    async with aiohttp.ClientSession() as http, http.get(f"{served.url}/sessions") as answer:
        return int((await answer.json())["total_count"])


async def until_sessions(served: Served, count: int) -> None:
    async with asyncio.timeout(10):
        while await sessions(served) != count:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


@asynccontextmanager
async def phone(tmp_path: Path, host: str = "127.0.0.1") -> AsyncIterator[tuple[Served, Page]]:
    """A gateway whose speech is scripted, and its page with a silent microphone."""
    write_wav(tmp_path / "microphone.wav", [np.zeros(48000, np.int16)] * 60, 48000)
    async with serve(FASTAGENT_SPEECH="scripted", FASTAGENT_DEFAULT_AGENT="bench") as served:
        await served.until("/readyz", 200)
        async with chromium(f"http://{host}:{served.port}/phone", tmp_path / "microphone.wav") as page:
            await loaded(page)
            yield served, page
            assert page.errors == []


@pytest.mark.real
@pytest.mark.timeout(120)
async def test_a_browser_calls_speaks_types_and_hangs_up(tmp_path: Path) -> None:
    voice = resample_block(await spoken("My name is Anna."), 24000, 48000)
    quiet = np.zeros(48000, np.int16)
    write_wav(tmp_path / "microphone.wav", [np.concatenate([*[quiet] * 6, voice, *[quiet] * 40])], 48000)
    async with serve() as served:
        await served.until("/readyz", 200)
        async with chromium(f"{served.url}/phone", tmp_path / "microphone.wav") as page:
            await loaded(page)
            await page.run(click("dial"))
            assert await page.until(says("Connected."))
            await page.until("document.querySelector('#transcript .agent')?.textContent.includes('front desk')")
            assert await page.until("document.getElementById('them').value > 0.3")
            await page.until("document.getElementById('state').textContent === 'reason'", patience_s=40)
            said = await page.run("document.querySelector('#transcript .user').textContent")
            assert "anna" in said.lower()
            await page.until("document.getElementById('total').textContent.endsWith('ms')")
            assert (await page.screenshot()).startswith(b"\x89PNG")
            await page.run("document.getElementById('text').value = 'What are your opening hours?'")
            await page.run("document.getElementById('typing').requestSubmit()")
            await page.until(
                "[...document.querySelectorAll('.agent')].some((one) => one.textContent.includes('Monday'))"
            )
            await page.run(click("mute"))
            assert await page.run("call.stream.getAudioTracks()[0].enabled") is False
            await page.run(SENT)
            await page.run("document.querySelectorAll('#keypad button')[0].click()")
            await page.press("#")
            await page.run("document.getElementById('text').focus()")
            await page.press("5")  # is written, not pressed
            keys = [json.loads(one)["payload"]["digits"] for one in await page.run("sent")]
            assert keys == ["1", "#"]
            await page.run(click("hangup"))
            await page.until(says("You have hung up."))
            assert await page.run("document.getElementById('state').textContent") != "-"
            await page.run(click("dial"))
            assert await page.run("document.getElementById('state').textContent") == "-"
            await page.run(click("hangup"))
            assert page.errors == []
        await until_sessions(served, 0)


@pytest.mark.real
@pytest.mark.timeout(120)
async def test_hanging_up_while_dialling_leaves_nothing_and_the_next_call_lives(tmp_path: Path) -> None:
    async with phone(tmp_path) as (served, page):
        await page.run(f"{HOLD}([navigator.mediaDevices, 'getUserMedia'])")
        await page.run(click("dial"))
        await page.until("Boolean(window.letGo)")
        await page.run(click("hangup"))
        await page.run("letGo() || true")
        await page.until("held.getTracks().every((track) => track.readyState === 'ended')")
        assert await page.run(says("You have hung up."))
        assert await page.run("call === null")

        await page.run(f"{STUBBORN}; {HOLD}([window, 'fetch']); delete window.letGo")
        await page.run(click("dial"))
        await page.until("Boolean(window.letGo)")
        assert await page.run("['mute', 'text'].every((one) => document.getElementById(one).disabled)")
        await page.run(click("hangup"))
        await page.run(click("dial"))
        await page.until(says("Connected."))
        await page.run("letGo(); new Promise((resolve) => setTimeout(resolve, 500))")  # the first answer comes now
        assert await page.run(says("Connected."))
        assert await page.run("call.peer.connectionState") == "connected"
        await until_sessions(served, 1)
        await page.run("call.channel.close()")  # without its words the call is over, whoever closed it
        await page.until(says("The connection is lost."))
        await until_sessions(served, 0)


@pytest.mark.real
@pytest.mark.timeout(120)
async def test_a_connection_that_comes_back_goes_on_and_one_that_does_not_is_lost(tmp_path: Path) -> None:
    async with phone(tmp_path) as (served, page):
        await page.run(click("dial"))
        await page.until(says("Connected."))
        served.process.send_signal(signal.SIGSTOP)
        await page.until(says("Reconnecting\u2026"))
        served.process.send_signal(signal.SIGCONT)
        await page.until(says("Connected."))
        assert await sessions(served) == 1

        await page.run(SHORT)
        await page.run(TOLD)
        served.process.send_signal(signal.SIGSTOP)
        await page.until(says("The connection is lost."))
        assert await page.run("told") == ["Reconnecting\u2026 disconnected", "The connection is lost. disconnected"]
        assert await page.run("call === null && !document.getElementById('dial').disabled")


@pytest.mark.real
@pytest.mark.timeout(120)
async def test_what_stands_in_the_way_of_a_call_is_told_in_words(tmp_path: Path) -> None:
    async with phone(tmp_path) as (served, page):

        async def hears(words: str, prepared: str) -> None:
            await page.run(prepared)
            await page.run(click("dial"))
            await page.until(says(words))
            assert await page.run("call === null && !document.getElementById('dial').disabled")

        refused = "navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', '{}'))"
        await hears("The microphone was refused.", refused.format("NotAllowedError"))
        await hears("There is no microphone.", refused.format("NotFoundError"))
        await page.run("delete navigator.mediaDevices.getUserMedia")
        answered = "window.fetch = async () => new Response('<html>', {status: 502})"
        await hears("The gateway cannot be reached (502).", f"window.real = window.fetch; {answered}")
        await page.run("window.fetch = window.real")
        await hears("There is no agent 'nobody'", "document.getElementById('agent').value = 'nobody'")
        served.process.kill()
        await served.process.wait()
        await hears("The gateway cannot be reached.", "document.getElementById('agent').value = ''")


@pytest.mark.real
@pytest.mark.timeout(120)
async def test_a_page_without_https_says_why_it_has_no_microphone(tmp_path: Path) -> None:
    async with phone(tmp_path, ELSEWHERE) as (_, page):
        await page.run(click("dial"))
        await page.until(says("A microphone needs https, or localhost."))
