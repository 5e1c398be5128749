"""AudioCodes' harnesses of the conformance suite."""

import asyncio
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastagent.connectors.audiocodes.departure import LegOptions
from fastagent.connectors.leg import HangupReason
from tests.connectors.conformance import Arrived, Harness
from tests.support.audiocodes import StreamPhone


class AudiocodesHarness:
    """A streaming conversation, with VoiceAI Connect's emulator at its other end."""

    tells_final = True
    takes_dtmf = True

    def __init__(self, **given: Any) -> None:
        self._phone = StreamPhone(barge_in=True, options=LegOptions(hold_s=0, answer_s=60), **given)
        self._phone.send(self._phone.emulator.ask_for_stream())
        self.leg = self._phone.leg

    @property
    def arrived(self) -> list[Arrived]:
        found = []
        for message in self._phone.messages:
            match message["type"]:
                case "playStream.chunk":
                    found.append(Arrived("audio", b64decode(message["audioChunk"])))
                case "playStream.stop":
                    found.append(Arrived("final"))
                case "activities" if message["activities"][0].get("name") == "abortPrompts":
                    found.append(Arrived("clear"))
        return found

    @property
    def closed(self) -> bool:
        return self._phone.line.farewell is not None or self._phone.emulator.hung_up is not None

    def caller_sends(self, payload: bytes) -> None:
        self._phone.send(self._phone.emulator.media(payload))

    def caller_presses(self, digit: str) -> None:
        self._phone.send(self._phone.emulator.dtmf(digit))

    async def peer_plays(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.02)):
            await asyncio.sleep(0.02)
            for message in self._phone.emulator.play()[1]:
                self._phone.send(message)

    def peer_ends(self) -> None:
        self._phone.send(self._phone.emulator.end())

    def peer_is_lost(self) -> None:
        self._phone.socket.closed = True
        self._losing = asyncio.create_task(self.leg.lose(self._phone.line))

    def stall(self) -> None:
        self._phone.socket.flowing.clear()

    def flow(self) -> None:
        self._phone.socket.flowing.set()


@asynccontextmanager
async def audiocodes(form: str = "raw/lpcm16_8") -> AsyncIterator[Harness]:
    """AudioCodes, in the streaming mode."""
    one = AudiocodesHarness(formats=(form,))
    await asyncio.sleep(0.001)  # it is accepted, and the caller streams
    yield one
    await one.leg.aclose(HangupReason.COMPLETED)
