"""Load: many calls on Twilio's wire from one process, in real time.

    python -m bench.load --webhook http://127.0.0.1:9000/twilio/webhook --calls 50 --seconds 20

Each call listens to the greeting, asks a question, waits for the answer, and asks again; with `--barge-in` it asks one
second into each answer instead. Calls start `--rate` a second and are spread over the 20 ms of a frame, as they are on
a real network. Prints one JSON document; `late_ms` says how late this process itself was.
"""

import argparse
import asyncio
import json
import random
import secrets
import time
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

import aiohttp
import numpy as np
import uvloop

from fastagent.gateway.cli.phone import AUDIBLE_DB, line_noise
from fastagent.media.frame import PCMU_8K
from fastagent.media.level import frame_levels_db
from fastagent.media.wav import read_wav

_FRAME = 160
_PERIOD_S = 0.02
_SLOTS = 10  # within a frame
_QUIET_S = 0.6  # of the agent, before the next question

now = time.perf_counter


def _frames(payload: bytes) -> list[str]:
    whole = payload[: len(payload) // _FRAME * _FRAME]
    return [b64encode(whole[at : at + _FRAME]).decode() for at in range(0, len(whole), _FRAME)]


class Question:
    """The caller's clip: frames as base64, and where its audible part begins and ends."""

    def __init__(self, path: Path) -> None:
        samples = read_wav(path).samples
        audible = np.flatnonzero(frame_levels_db(samples, _FRAME) > AUDIBLE_DB)
        first, last = int(audible[0]), int(audible[-1])
        lead = max(0, first - 2)
        self.frames = _frames(PCMU_8K.encode(samples[lead * _FRAME : (last + 1) * _FRAME]))
        self.onset, self.last = first - lead, len(self.frames) - 1


class Call:
    """One call; `send` is called every 20 ms."""

    def __init__(self, question: Question, noise: list[str], *, barge_in: bool) -> None:
        self.question, self.noise, self.barge_in = question, noise, barge_in
        self.stream_sid = "MZ" + secrets.token_hex(16)
        self.call_sid = "CA" + secrets.token_hex(16)
        self.started = self.greeting = 0.0
        self.responses: list[float] = []
        self.clears: list[float] = []
        self.holes: list[float] = []
        self.after_clear = 0
        self.answers = 0
        self._socket: Any = None
        self._sequence = 1
        self._at: int | None = None  # frame of the question that is sent next
        self._buffered = 0.0  # playback has audio until this time
        self._marks: list[tuple[float, str]] = []
        self._asked_at = self._onset_at = 0.0
        self._cleared = self._awaiting = False
        self._answer_began = 0.0
        self._next_question = 0.0
        self.measuring = False

    async def connect(self, http: aiohttp.ClientSession, webhook: str) -> bool:
        """Announce and connect; False if the call was refused."""
        form = {"CallSid": self.call_sid, "From": "+15550100001", "To": "+15550100002", "CallStatus": "ringing"}
        async with http.post(webhook, data=form) as answer:
            stream = ElementTree.fromstring(await answer.text()).find("./Connect/Stream")
        if stream is None:
            return False
        parameters = {one.get("name"): one.get("value") for one in stream.findall("Parameter")}
        path, host = urlsplit(stream.get("url", "")).path, urlsplit(webhook).netloc
        self._socket = await http.ws_connect(f"ws://{host}{path}", max_msg_size=1 << 22)
        await self._socket.send_str('{"event":"connected","protocol":"Call","version":"1.0.0"}')
        start = {
            "streamSid": self.stream_sid, "accountSid": "AC" + "0" * 32, "callSid": self.call_sid,
            "tracks": ["inbound"], "customParameters": parameters,
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
        }  # fmt: skip
        message = {"event": "start", "sequenceNumber": "1", "streamSid": self.stream_sid, "start": start}
        await self._socket.send_str(json.dumps(message))
        self.started = now()
        return True

    async def send(self) -> None:
        """Send the next 20 ms, and the marks that playback has reached."""
        at, moment = self._at, now()
        if at is None and self._next_question and moment >= self._next_question:
            at, self._next_question = 0, 0.0
        payload = self.noise[self._sequence % len(self.noise)] if at is None else self.question.frames[at]
        self._sequence += 1
        await self._socket.send_str(
            f'{{"event":"media","sequenceNumber":"{self._sequence}","streamSid":"{self.stream_sid}","media":'
            f'{{"track":"inbound","chunk":"{self._sequence - 1}","timestamp":"{(self._sequence - 2) * 20}",'
            f'"payload":"{payload}"}}}}'
        )
        if at is not None:
            if at == self.question.onset and moment < self._buffered:
                self._onset_at, self._cleared = now(), False
            if at == self.question.last:
                self._asked_at, self._awaiting = now(), True
            self._at = at + 1 if at < self.question.last else None
        while self._marks and self._marks[0][0] <= moment:
            await self._echo(self._marks.pop(0)[1])

    async def _echo(self, name: str) -> None:
        self._sequence += 1
        await self._socket.send_str(
            f'{{"event":"mark","sequenceNumber":"{self._sequence}","streamSid":"{self.stream_sid}","mark":'
            f'{{"name":"{name}"}}}}'
        )

    async def receive(self) -> None:
        """Play what the agent says."""
        async for message in self._socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                continue
            moment = now()
            body = json.loads(message.data)
            event = body["event"]
            if event == "media":
                self._media(body["media"]["payload"], moment)
            elif event == "mark":
                self._marks.append((self._buffered, body["mark"]["name"]))
            elif event == "clear":
                if self._onset_at and self.measuring:
                    self.clears.append(moment - self._onset_at)
                self._onset_at = 0.0
                self._buffered, self._cleared = moment, True
                for _, name in self._marks:
                    await self._echo(name)
                self._marks.clear()

    def _media(self, payload: str, moment: float) -> None:
        if self._cleared and self._at is not None:
            self.after_clear += 1  # while the caller is still speaking, nothing has decided on a resume
        audio = b64decode(payload)
        gap = moment - self._buffered
        if gap > 0 and gap < 0.5 and not self._awaiting and not self._cleared and self._answer_began:
            self.holes.append(gap)
        if self._awaiting or not self._answer_began or gap > 0.5:
            levels = frame_levels_db(PCMU_8K.decode(audio), _FRAME)
            audible = np.flatnonzero(levels > AUDIBLE_DB)
            if len(audible):
                self._began(moment + int(audible[0]) * _PERIOD_S)
        self._buffered = max(self._buffered, moment) + len(audio) / 8000
        delay = 1.0 - (moment - self._answer_began) if self.barge_in else self._buffered - moment + _QUIET_S
        if self._at is None and not self._awaiting:
            self._next_question = moment + max(0.02, delay)

    def _began(self, at: float) -> None:
        if not self.greeting:
            self.greeting = at - self.started
        elif self._awaiting and self.measuring:
            self.responses.append(at - self._asked_at)
        self._answer_began, self._awaiting, self._cleared = at, False, False
        self.answers += 1


class Load:
    """All calls, and the clock that drives them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.question = Question(options.clip)
        self.noise = _frames(line_noise())
        self.calls: list[Call] = []
        self.refused = self.lost = 0
        self.late: list[float] = []
        self._slots: list[list[Call]] = [[] for _ in range(_SLOTS)]
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> dict[str, Any]:
        """Start, settle, measure, stop."""
        options = self.options
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as http:
            clock = asyncio.create_task(self._clock())
            for at in range(options.calls):
                self._tasks.append(asyncio.create_task(self._call(http, at)))
                await asyncio.sleep(1 / options.rate)
            await asyncio.sleep(options.settle)
            cpu, began = _cpu_seconds(options.pid), now()
            for call in self.calls:
                call.measuring = True
            self.late.clear()
            await asyncio.sleep(options.seconds)
            cpu, wall = _cpu_seconds(options.pid) - cpu, now() - began
            memory = _memory_bytes(options.pid)
            clock.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(clock, *self._tasks, return_exceptions=True)
        return self._report(cpu, wall, memory)

    async def _call(self, http: aiohttp.ClientSession, at: int) -> None:
        call = Call(self.question, self.noise, barge_in=self.options.barge_in)
        if not await call.connect(http, self.options.webhook):
            self.refused += 1
            return
        self.calls.append(call)
        self._slots[random.randrange(_SLOTS)].append(call)
        await call.receive()
        self.lost += 1

    async def _clock(self) -> None:
        due = now()
        while True:
            for slot in self._slots:
                for call in slot:
                    try:
                        await call.send()
                    except ConnectionError:
                        pass
                due += _PERIOD_S / _SLOTS
                late = now() - due
                self.late.append(late)
                await asyncio.sleep(max(0.0, -late))

    def _report(self, cpu: float, wall: float, memory: int) -> dict[str, Any]:
        calls = self.calls
        responses = [one for call in calls for one in call.responses]
        clears = [one for call in calls for one in call.clears]
        holes = [one for call in calls for one in call.holes if one > 0.02]
        return {
            "calls": len(calls),
            "refused": self.refused,
            "lost": self.lost,
            "answers": sum(call.answers for call in calls),
            "cpu_ms_per_call_second": round(cpu / wall / max(1, len(calls)) * 1000, 2),
            "core_used": round(cpu / wall, 3),
            "response_ms": _quantiles(responses),
            "clear_ms": _quantiles(clears),
            "greeting_ms": _quantiles([call.greeting for call in calls if call.greeting]),
            "holes_over_20_ms": len(holes),
            "longest_hole_ms": round(max(holes, default=0.0) * 1000, 1),
            "frames_after_clear": sum(call.after_clear for call in calls),
            "memory_mib": round(memory / 2**20, 1),
            "late_ms": _quantiles(self.late),
        }


def _quantiles(values: list[float]) -> dict[str, float | int]:
    if not values:
        return {"n": 0}
    ordered = np.sort(np.asarray(values)) * 1000
    return {
        "n": len(values),
        "p50": round(float(np.quantile(ordered, 0.5)), 1),
        "p95": round(float(np.quantile(ordered, 0.95)), 1),
        "max": round(float(ordered[-1]), 1),
    }


def _cpu_seconds(pid: int | None) -> float:
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def _memory_bytes(pid: int | None) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 if pid else 0


def parse() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description="Load on Twilio's wire, in real time.")
    parser.add_argument("--webhook", required=True)
    parser.add_argument("--pid", type=int, help="the server, for its CPU and memory")
    parser.add_argument("--calls", type=int, default=10)
    parser.add_argument("--rate", type=float, default=5.0, help="new calls a second")
    parser.add_argument("--settle", type=float, default=6.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--barge-in", action="store_true")
    parser.add_argument("--clip", type=Path, default=Path(__file__).parent / "speech/question.wav")
    return parser.parse_args()


def main() -> None:
    """Run, and print the report."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(Load(parse()).run())))


if __name__ == "__main__":
    main()
