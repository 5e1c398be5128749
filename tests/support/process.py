"""A gateway as a process of its own, started as an operator would."""

import asyncio
import os
import secrets
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aiohttp


def free_port() -> int:
    """A port that nobody has right now, of UDP or TCP: below those that the system gives to whoever connects, and below
    the media's."""
    while True:
        port = 10_240 + secrets.randbelow(9_000)
        with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagrams, suppress(OSError):
            stream.bind(("127.0.0.1", port))
            datagrams.bind(("127.0.0.1", port))
            return port


class Served:
    """The process."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process, self.port = process, port
        assert process.stderr is not None
        self._log = asyncio.create_task(process.stderr.read())  # a pipe that nobody reads stops who writes
        self.url = f"http://127.0.0.1:{port}"
        self.webhook = f"{self.url}/twilio/webhook"

    async def status(self, path: str) -> int:
        """The status of a GET; 0 where nobody answers."""
        try:
            async with aiohttp.ClientSession() as http, http.get(self.url + path) as answer:
                return answer.status
        except aiohttp.ClientConnectionError:
            return 0

    async def until(self, path: str, status: int, *, patience_s: float = 60.0) -> None:
        """Return when a GET is answered like this."""
        async with asyncio.timeout(patience_s):
            while await self.status(path) != status:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def exited(self, *, patience_s: float = 30.0) -> tuple[int, str]:
        """Return the exit code and what was logged."""
        async with asyncio.timeout(patience_s):
            log = await self._log
            return await self.process.wait(), log.decode()


@asynccontextmanager
async def serve(**environment: str) -> AsyncIterator[Served]:
    """Start `fastagent serve` on loopback; end it hard if the test did not end it."""
    port = int(environment.setdefault("PORT", str(free_port())))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FASTAGENT_", "TWILIO_", "SIP_"))}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "fastagent",
        "serve",
        env={**kept, "HOST": "127.0.0.1", **environment},
        stderr=asyncio.subprocess.PIPE,
    )
    served = Served(process, port)
    try:
        yield served
    except BaseException:
        await _ended(process)
        _, log = await served.exited()
        print(log[-20_000:], file=sys.stderr)  # with the failed test's report
        raise
    finally:
        await _ended(process)


async def _ended(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()
