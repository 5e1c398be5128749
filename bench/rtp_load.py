"""Load: many SIP calls with RTP from one process, in real time.

    python -m bench.rtp_load --to 127.0.0.1:5060 --calls 50 --seconds 20 --pid PID

Each call listens to the greeting, asks a question, waits for the answer, and asks again. When a packet arrived is told
by the kernel, so that this process' own lateness does not count: `lateness_ms` is how much later than its place on the
20 ms grid of its stream each packet was. With `--floor` the ports are those of `bench.rtp_floor`, and there is no SIP.
"""

import argparse
import asyncio
import json
import random
import socket
import struct
import time
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from bench.load import Question, _cpu_seconds, _memory_bytes, _quantiles
from fastagent.connectors.rtp.ports import MediaPort, PortPool
from fastagent.connectors.sip.actions import Action, Address, CallAnswered, CallEnded, Send
from fastagent.connectors.sip.headers import NameAddr
from fastagent.connectors.sip.media import ALL_CODECS, PCMU, Capabilities
from fastagent.connectors.sip.names import Names
from fastagent.connectors.sip.outbound import destination
from fastagent.connectors.sip.stack import AgentConfig
from fastagent.connectors.sip.transports import Transports
from fastagent.connectors.sip.user_agent import UserAgent
from fastagent.gateway.cli.phone import line_noise
from fastagent.media.frame import PCMU_8K
from fastagent.media.rtp.codecs import codec

HOST = "127.0.0.1"
FLOOR_PORT, FLOOR_PEER = 33000, 36000
_FRAME, _PERIOD_S, _SLOTS, _QUIET_S = 160, 0.02, 10, 0.6
_SILENCE = b"\xff" * _FRAME
_ASK_EVERY_S = 8.0  # where silence cannot be told from speech by looking
_TIMESTAMPNS = 35  # SO_TIMESTAMPNS of Linux
_TIMESPEC = struct.Struct("@qq")
_HEADER = struct.Struct("!BBHII")


class Words:
    """What callers say, packet by packet, in one codec."""

    def __init__(self, clip: Path, name: str) -> None:
        self.codec = next(one for one in ALL_CODECS if one.name.lower() == name.lower())
        encoder = codec(self.codec.name, self.codec.clock_hz, 8000)
        question = Question(clip)
        noise = line_noise()
        said = [PCMU_8K.decode(b64decode(one)) for one in question.frames]
        quiet = [PCMU_8K.decode(noise[at : at + _FRAME]) for at in range(0, len(noise) // _FRAME * _FRAME, _FRAME)]
        self.question, self.noise = [encoder.encode(one) for one in said], [encoder.encode(one) for one in quiet]
        self.last = question.last
        self.ticks = self.codec.clock_hz // 50


class Call:
    """One call's media."""

    def __init__(self, port: MediaPort, words: Words) -> None:
        self.port, self._words = port, words
        self._pcmu, self._type = words.codec is PCMU, words.codec.payload_type
        self.to: tuple[str, int] | None = None
        self.arrivals: list[tuple[int, float]] = []
        self.responses: list[float] = []
        self.answers = self.received = 0
        self.measuring = False
        self._sequence, self._timestamp, self._ssrc = (
            random.getrandbits(16),
            random.getrandbits(32),
            random.getrandbits(32),
        )
        self._at: int | None = None
        self._spoke_at = self._asked_at = 0.0
        self._speaking = self._awaiting = False
        port.media.setsockopt(socket.SOL_SOCKET, _TIMESTAMPNS, 1)

    def send(self, now: float) -> None:
        """Send the next 20 ms; ask again once the agent has been quiet for a while."""
        if self.to is None:
            return
        words = self._words
        patience = _QUIET_S if self._pcmu else _ASK_EVERY_S
        quiet = self._spoke_at and now - self._spoke_at > patience
        if self._at is None and quiet and not self._awaiting:
            self._at, self._spoke_at = 0, 0.0 if self._pcmu else now
        payload = words.noise[self._sequence % len(words.noise)] if self._at is None else words.question[self._at]
        header = _HEADER.pack(0x80, self._type, self._sequence, self._timestamp, self._ssrc)
        self._sequence = (self._sequence + 1) & 0xFFFF
        self._timestamp = (self._timestamp + words.ticks) & 0xFFFFFFFF
        self.port.media.sendto(header + payload, self.to)
        if self._at is not None:
            if self._at == words.last:
                self._asked_at, self._awaiting = now, self._pcmu
            self._at = self._at + 1 if self._at < words.last else None

    def read(self) -> None:
        """Take what has arrived."""
        while True:
            try:
                data, control, _, _ = self.port.media.recvmsg(2048, 64)
            except (BlockingIOError, InterruptedError):
                return
            if len(data) < 12 or data[1] & 0x7F != self._type:
                continue
            self.received += 1
            seconds, nanoseconds = _TIMESPEC.unpack(control[0][2][:16])
            if self.measuring:
                self.arrivals.append((int.from_bytes(data[4:8], "big"), seconds + nanoseconds / 1e9))
            if (self._pcmu and data[12:] != _SILENCE) or not self._spoke_at:
                self._heard(time.perf_counter())

    def _heard(self, now: float) -> None:
        if self._awaiting and now > self._asked_at:
            if self.measuring:
                self.responses.append(now - self._asked_at)
            self._awaiting = False
            self.answers += 1
        self._spoke_at = now

    def lateness(self) -> list[float]:
        """How much later than its place each packet came, in seconds."""
        if not self.arrivals:
            return []
        first = self.arrivals[0][0]
        offsets = [at - ((ticks - first) & 0xFFFFFFFF) / self._words.codec.clock_hz for ticks, at in self.arrivals]
        least = min(offsets)
        return [offset - least for offset in offsets]


class Caller:
    """SIP for all of them."""

    def __init__(self, to: str, words: Words) -> None:
        self._to, self._codec = to, words.codec
        self._transports = Transports(self._received, lambda address: None, Names())
        self._agent: UserAgent | None = None
        self._answered: dict[str, Callable[[tuple[str, int]], None]] = {}
        self.lost = 0

    async def start(self) -> None:
        await self._transports.open(HOST, 0)
        self._agent = UserAgent(
            AgentConfig(HOST, self._transports.ports, "load", media=Capabilities((self._codec,)), overall=10**9)
        )

    def call(self, port: int, answered: Callable[[tuple[str, int]], None]) -> None:
        assert self._agent is not None
        host, _, number = self._to.partition(":")
        to = destination(f"sip:bench@{self._to}", NameAddr.parse("<sip:load@127.0.0.1>"), Address(host, int(number)))
        id_, _, actions = self._agent.call(to, (HOST, port), self._now())
        self._answered[id_] = answered
        self._perform(actions)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def _received(self, data: bytes, source: tuple[str, int], transport: Any) -> None:
        if self._agent is not None:
            self._perform(self._agent.receive(data, source, transport, self._now()))

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Send):
                self._transports.send(action.data, action.to)
            elif isinstance(action, CallAnswered):
                self._answered[action.call](action.media.remote)
            elif isinstance(action, CallEnded):
                self.lost += 1

    async def hang_up(self) -> None:
        assert self._agent is not None
        for call in self._answered:
            self._perform(self._agent.hang_up(call, self._now()))
            await asyncio.sleep(0.002)
        await asyncio.sleep(0.5)
        await self._transports.aclose()


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Start, settle, measure, stop."""
    words = Words(options.clip, options.codec)
    pool = PortPool(FLOOR_PEER, FLOOR_PEER + 2999, HOST) if options.floor else PortPool(40000, 47999, HOST)
    loop, calls, late = asyncio.get_running_loop(), [], []
    slots: list[list[Call]] = [[] for _ in range(_SLOTS)]
    caller = Caller(options.to, words)
    if not options.floor:
        await caller.start()

    async def clock() -> None:
        due = time.perf_counter()
        while True:
            for slot in slots:
                now = time.perf_counter()
                for call in slot:
                    call.send(now)
                due += _PERIOD_S / _SLOTS
                late.append(time.perf_counter() - due)
                await asyncio.sleep(max(0.0, -late[-1]))

    ticking = asyncio.create_task(clock())
    for at in range(options.calls):
        call = Call(pool.open(0.0), words)
        loop.add_reader(call.port.media, call.read)
        calls.append(call)
        slots[random.randrange(_SLOTS)].append(call)
        if options.floor:
            call.to = (HOST, FLOOR_PORT + call.port.number - FLOOR_PEER)
        else:
            caller.call(call.port.number, lambda to, call=call: setattr(call, "to", to))  # type: ignore[misc]
        await asyncio.sleep(1 / options.rate)
        del at
    await asyncio.sleep(options.settle)
    for call in calls:
        call.measuring, call.received = True, 0
    late.clear()
    cpu, began = _cpu_seconds(options.pid), time.perf_counter()
    await asyncio.sleep(options.seconds)
    cpu, wall = _cpu_seconds(options.pid) - cpu, time.perf_counter() - began
    memory = _memory_bytes(options.pid)
    ticking.cancel()
    if not options.floor:
        await caller.hang_up()
    return report(calls, cpu, wall, memory, late, caller.lost)


def report(calls: list[Call], cpu: float, wall: float, memory: int, late: list[float], lost: int) -> dict[str, Any]:
    lateness = np.asarray([one for call in calls for one in call.lateness()]) * 1000
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {
        "calls": len(calls),
        "answered": sum(call.to is not None for call in calls),
        "ended": lost,
        "cpu_ms_per_call_second": round(cpu / wall / max(1, len(calls)) * 1000, 2),
        "core_used": round(cpu / wall, 3),
        "packets": len(lateness),
        "expected": round(wall * 50 * len(calls)),
        "lateness_ms": {name: round(float(np.quantile(lateness, share)), 2) for name, share in shares.items()}
        if len(lateness)
        else {},
        "response_ms": _quantiles([one for call in calls for one in call.responses]),
        "answers": sum(call.answers for call in calls),
        "memory_mib": round(memory / 2**20, 1),
        "late_ms": _quantiles(late),
    }


def parse() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description="Load by SIP and RTP, in real time.")
    parser.add_argument("--to", default="127.0.0.1:5060")
    parser.add_argument("--pid", type=int, help="the server, for its CPU and memory")
    parser.add_argument("--calls", type=int, default=10)
    parser.add_argument("--rate", type=float, default=10.0, help="new calls a second")
    parser.add_argument("--settle", type=float, default=6.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--codec", default="PCMU")
    parser.add_argument("--floor", action="store_true")
    parser.add_argument("--clip", type=Path, default=Path(__file__).parent / "speech/question.wav")
    return parser.parse_args()


def main() -> None:
    """Run, and print the report."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(run(parse()))))


if __name__ == "__main__":
    main()
