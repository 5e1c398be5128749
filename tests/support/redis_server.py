"""A real redis-server of a test's own: on a free port, in a directory that goes with it, and open to every mischief."""

import asyncio
import json
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from tests.support.process import free_port

PREFIX = "fastagent:session:"
_PATIENCE_S = 10.0


class RedisServer:
    """The process, and what a test asks of it beside the gateway."""

    def __init__(self, directory: str, options: tuple[str, ...], *, tls: bool) -> None:
        self.port = free_port()
        self.url = f"redis{'s' if tls else ''}://127.0.0.1:{self.port}/0"
        listen = ("--port", "0", "--tls-port") if tls else ("--port",)
        self._arguments = (
            *listen, str(self.port), "--bind", "127.0.0.1", "--dir", directory, "--save", "", "--appendonly", "no",
            "--loglevel", "warning", *options,
        )  # fmt: skip
        self.process: asyncio.subprocess.Process

    async def start(self, admin_url: str | None = None) -> None:
        """Start it, again if it was killed, and return when it answers."""
        program = shutil.which("redis-server")
        assert program is not None, "redis-server is needed: deploy/setup.sh test installs it"
        self._admin = admin_url or self.url
        self.process = await asyncio.create_subprocess_exec(
            program, *self._arguments, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                assert self.process.returncode is None, "redis-server has ended"
                with suppress(RedisError, OSError):
                    await self.command("PING")
                    return
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """End it hard; may be called twice."""
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    kill = stop

    def freeze(self) -> None:
        """It is there, and does nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        self.process.send_signal(signal.SIGCONT)

    @property
    def frozen(self) -> bool:
        """Whether the system says so, too."""
        status = Path(f"/proc/{self.process.pid}/stat").read_text()
        return status.rpartition(")")[2].split()[0] == "T"

    async def command(self, *words: str) -> Any:
        """Ask it something; raises `RedisError`."""
        async with Redis.from_url(self._admin, decode_responses=True, protocol=2) as redis:
            return await redis.execute_command(*words)  # type: ignore[no-untyped-call]

    async def keys(self) -> list[str]:
        """All of them."""
        return sorted(await self.command("KEYS", "*"))

    async def document(self, session_id: str) -> dict[str, Any] | None:
        """What is stored of a session."""
        text = await self.command("GET", PREFIX + session_id)
        return None if text is None else dict(json.loads(text))


@asynccontextmanager
async def redis_server(*options: str, tls: bool = False, admin_url: str | None = None) -> AsyncIterator[RedisServer]:
    """Run one; `admin_url` is for a test's own questions, `{port}` in it for the port."""
    with tempfile.TemporaryDirectory() as directory:
        server = RedisServer(directory, options, tls=tls)
        try:
            await server.start(admin_url and admin_url.format(port=server.port))
            yield server
        finally:
            await server.stop()


class SlowWay:
    """A TCP proxy that holds answers back for `delay_s`."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.delay_s = 0.0
        self.delayed = 0
        """Answers that came late."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._to)
        back = asyncio.create_task(self._pass_on(there_reader, writer, answers=True))
        try:
            await self._pass_on(reader, there_writer, answers=False)
        except asyncio.CancelledError:
            pass
        finally:
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)
            for one in (writer, there_writer):
                one.close()
            self._tasks.discard(task)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                if answers and self.delay_s:
                    self.delayed += 1
                    await asyncio.sleep(self.delay_s)
                writer.write(data)

    async def aclose(self) -> None:
        """Cut all connections."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def slow_way(server: RedisServer) -> AsyncIterator[SlowWay]:
    """Run a proxy before a server."""
    way = SlowWay(server.port)
    listener = await asyncio.start_server(way._serve, "127.0.0.1", way.port)
    try:
        yield way
    finally:
        listener.close()
        await way.aclose()
        await listener.wait_closed()
