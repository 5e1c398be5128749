"""A real browser calls the real gateway: Chromium's fake microphone speaks, embedded speech understands."""

import asyncio
from pathlib import Path

import aiohttp
import numpy as np
import pytest

from fastagent.media.resample import resample_block
from fastagent.media.wav import write_wav
from tests.support.chromium import chromium
from tests.support.process import serve
from tests.support.voices import spoken


def click(name: str) -> str:
    return f"document.getElementById('{name}').click() || true"


@pytest.mark.real
@pytest.mark.timeout(120)
async def test_a_browser_calls_speaks_types_and_hangs_up(tmp_path: Path) -> None:
    voice = resample_block(await spoken("My name is Anna."), 24000, 48000)
    quiet = np.zeros(48000, np.int16)
    write_wav(tmp_path / "microphone.wav", [np.concatenate([*[quiet] * 6, voice, *[quiet] * 40])], 48000)
    async with serve() as served:
        await served.until("/readyz", 200)
        async with chromium(f"{served.url}/phone", tmp_path / "microphone.wav") as page:
            await page.until("document.getElementById('keypad')?.children.length === 12")  # its script has run
            await page.run(click("dial"))
            assert await page.until("document.getElementById('status').textContent === 'Connected.'")
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
            await page.run("document.querySelectorAll('#keypad button')[0].click()")
            await page.run(click("hangup"))
            await page.until("document.getElementById('status').textContent === 'You have hung up.'")
            assert page.errors == []
        async with aiohttp.ClientSession() as http, asyncio.timeout(10):
            left = 1
            while left:
                async with http.get(f"{served.url}/sessions") as answer:
                    left = (await answer.json())["total_count"]
                await asyncio.sleep(0.2)
