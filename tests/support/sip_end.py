"""A SIP connector as one side of a call, over real sockets: its sessions are plain objects that listen and speak."""

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fastagent.connectors.host import Recalled, Release
from fastagent.connectors.leg import CallLeg, DtmfReceived, HoldBegan, HoldEnded, LegEnded, LegEvent
from fastagent.connectors.sip.config import SipConfig, TlsFiles, Trunk
from fastagent.connectors.sip.connector import SipConnection
from fastagent.connectors.sip.dial import Dial, Unanswered
from fastagent.connectors.sip.names import Lookup, services
from fastagent.connectors.sip.uri import Uri
from fastagent.media.g711 import Int16Array
from fastagent.media.ticker import Ticker
from tests.support.no_host import NoHost

HOST = "127.0.0.1"


class Talk:
    """One session: what it heard and what happened."""

    def __init__(self, leg: CallLeg, agent_id: str) -> None:
        self.leg, self.agent_id = leg, agent_id
        self.heard: list[Int16Array] = []
        self.events: list[LegEvent] = []
        self.over = asyncio.Event()
        leg.attach(self)

    def push(self, payload: bytes, timestamp_ms: int | None, now: float) -> bool:
        self.heard.append(np.frombuffer(payload, "<i2"))
        return True

    def quiet(self, seconds: float, now: float) -> None:
        raise AssertionError("a datagram leg has no rhythm")

    @property
    def loud_s(self) -> float:
        return sum(float(np.abs(one).max()) > 3000 for one in self.heard) * 0.02

    @property
    def keys(self) -> str:
        return "".join(one.digit for one in self.events if isinstance(one, DtmfReceived))

    @property
    def holds(self) -> list[bool]:
        return [isinstance(one, HoldBegan) for one in self.events if isinstance(one, HoldBegan | HoldEnded)]

    @property
    def ended(self) -> str | None:
        return next((one.reason.value for one in self.events if isinstance(one, LegEnded)), None)

    def speak(self, seconds: float = 0.5, hz: float = 500.0) -> None:
        rate = self.leg.info.audio.rate_hz
        at = np.arange(round(seconds * rate)) / rate
        self.leg.send_audio((8000 * np.sin(2 * np.pi * hz * at)).astype("<i2").tobytes())

    async def run(self) -> None:
        async for event in self.leg.events():
            self.events.append(event)
        self.over.set()


class End(NoHost):
    """The connector and its sessions."""

    def __init__(self, config: SipConfig, **parts: Any) -> None:
        self.talks: list[Talk] = []
        self.places = 0
        self.full = False
        self.taking = True
        self.errors: dict[str, int] = {}
        self.failures: list[str] = []
        self.progress: list[tuple[str, str | None]] = []
        self.why: Unanswered | None = None
        self.registered: list[bool] = []
        self.probed: list[bool] = []
        registered, probed = self.registered.append, self.probed.append
        self.sip = SipConnection(config, self, Ticker(), on_registered=registered, on_probed=probed, **parts)

    def has_agent(self, agent_id: str) -> bool:
        return agent_id.startswith("agent")

    def accepts_calls(self) -> bool:
        return self.taking

    def reserve(self, connector: str) -> Release | None:
        if self.full:
            return None
        self.places += 1

        def release() -> None:
            self.places -= 1

        return release

    async def converse(self, leg: CallLeg, agent_id: str, *, recalled: Recalled | None = None) -> None:
        talk = Talk(leg, agent_id)
        self.talks.append(talk)
        await talk.run()

    def protocol_error(self, surface: str, kind: str, count: int = 1) -> None:
        self.errors[kind] = self.errors.get(kind, 0) + count

    def auth_failed(self, surface: str) -> None:
        self.failures.append(surface)

    @property
    def uri(self) -> str:
        return f"sip:{HOST}:{self.sip.ports['udp']}"

    def dial(self, to: str, **more: Any) -> str:
        def progress(what: str, why: Unanswered | None) -> None:
            self.progress.append((what, why.outcome if why else None))
            self.why = why

        return self.sip.dial(Dial(to, "agent", "sess_1", on_progress=progress, **more))

    async def talk(self, number: int = 0) -> Talk:
        await until(lambda: len(self.talks) > number)
        return self.talks[number]


def trunk_to(desk: End, **more: Any) -> Trunk:
    """The settings of one that is registered at another."""
    return Trunk(Uri.parse(desk.uri), **{"user": "ann", "password": "secret", "register": True, **more})


def certificate(folder: Path, name: str = "server") -> TlsFiles:
    """One for this machine, signed by itself."""
    files = TlsFiles(folder / f"{name}.pem", folder / f"{name}.key")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:pbx.test",
         "-keyout", str(files.key), "-out", str(files.certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    return files


async def until(condition: Callable[[], object], patience_s: float = 10.0) -> None:
    async with asyncio.timeout(patience_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def free_range(size: int = 40) -> tuple[int, int]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind((HOST, 0))
        low = one.getsockname()[1] // 2 * 2
    return low, low + size - 1


@asynccontextmanager
async def end(*, lookup: Lookup = services, **settings: Any) -> AsyncIterator[End]:
    """Start one on free ports; what it held must be given back at its stop."""
    one = End(SipConfig(**{"port": 0, "tls_port": 0, "rtp_ports": free_range(), **settings}), lookup=lookup)
    await one.sip.start()
    try:
        yield one
    finally:
        await one.sip.aclose()
        assert one.places == 0


@asynccontextmanager
async def call(
    phone: dict[str, Any] | None = None, desk: dict[str, Any] | None = None, *, to: str = "agent"
) -> AsyncIterator[tuple[End, Talk, End, Talk]]:
    """Two of them, in a call that the first has made."""
    async with end(**(desk or {})) as callee, end(**(phone or {})) as caller:
        caller.dial(callee.uri.replace("sip:", f"sip:{to}@"))
        mine, theirs = await asyncio.gather(caller.talk(), callee.talk())
        yield caller, mine, callee, theirs
