"""Chromium without a screen, driven over its own debugging protocol; its microphone plays a WAV file."""

import asyncio
import base64
import itertools
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

_FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --remote-debugging-port=0 --window-size=1000,900 "
    "--use-fake-ui-for-media-stream --use-fake-device-for-media-stream --autoplay-policy=no-user-gesture-required "
    "--allow-loopback-in-peer-connection --disable-features=WebRtcHideLocalIpsWithMdns"
).split()
ELSEWHERE = "gateway.test"
"""A name of this host that is not secure: no page may use its microphone there without https."""


class Page:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.errors: list[str] = []

    async def command(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        while True:
            answer = json.loads((await self._socket.receive()).data)
            if answer.get("method") == "Runtime.exceptionThrown":
                self.errors.append(str(answer["params"]["exceptionDetails"])[:500])
            if answer.get("id") == number:
                return dict(answer.get("result", {}))

    async def run(self, script: str) -> Any:
        """Evaluate an expression in the page; a promise is waited for."""
        result = await self.command("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        return result.get("result", {}).get("value")

    async def until(self, script: str, *, patience_s: float = 30.0) -> Any:
        """Return the value of an expression as soon as it is true."""
        try:
            async with asyncio.timeout(patience_s):
                while not (value := await self.run(script)):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        except TimeoutError:
            shown = await self.run("document.body.innerText")
            raise AssertionError(f"{script} did not become true; {self.errors}; the page shows:\n{shown}") from None
        return value

    async def press(self, key: str) -> None:
        """Press and release a key of the keyboard."""
        await self.command("Input.dispatchKeyEvent", type="keyDown", key=key, text=key)
        await self.command("Input.dispatchKeyEvent", type="keyUp", key=key)

    async def screenshot(self) -> bytes:
        """Return what the page looks like, as PNG."""
        return base64.b64decode((await self.command("Page.captureScreenshot"))["data"])


@asynccontextmanager
async def chromium(url: str, microphone: Path) -> AsyncIterator[Page]:
    """Open a page; the fake microphone plays the file once."""
    home = tempfile.mkdtemp()
    process = await asyncio.create_subprocess_exec(
        "chromium", *_FLAGS, f"--user-data-dir={home}", f"--use-file-for-fake-audio-capture={microphone}%noloop",
        f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1", url,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        async with asyncio.timeout(30):
            while "DevTools listening on" not in (line := (await process.stderr.readline()).decode()):
                if not line:
                    raise RuntimeError("chromium did not start")
        address = line.split()[-1].replace("ws://", "http://").partition("/devtools")[0]
        draining = asyncio.create_task(process.stderr.read())
        async with aiohttp.ClientSession() as http:
            async with http.get(f"{address}/json") as answer:
                (tab,) = [one for one in await answer.json() if one["type"] == "page"]
            async with http.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                page = Page(socket)
                await page.command("Runtime.enable")
                yield page
        draining.cancel()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        shutil.rmtree(home, ignore_errors=True)
