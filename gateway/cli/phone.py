"""A phone that calls the gateway: media in real time, and what the caller would hear.

`BasePhone` is the shell around an emulator of a carrier. It keeps real time by absolute deadlines, says how late it
was, and records both sides of the call. `Phone` is the one on Twilio's wire: webhook, ticket, media, playback with
marks.
"""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit
from xml.etree import ElementTree

import aiohttp
import numpy as np

from fastagent.connectors.twilio.emulator import FRAME, StreamEmulator
from fastagent.connectors.twilio.signature import sign
from fastagent.media.frame import FRAME_MS, PCMU_8K
from fastagent.media.level import frame_levels_db

AUDIBLE_DB = -45.0
_PERIOD_S = FRAME_MS / 1000
_NOISE_DB = -66.0


class CallRefused(Exception):
    """The gateway did not take the call; `reason` is `busy`, or what HTTP said."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class Timings:
    """What the phone saw, in its own clock (seconds); lists are in order."""

    started: float = 0.0
    first_audible: float | None = None
    speech_ended: list[float] = field(default_factory=list)
    """The last audible frame of each utterance was sent."""
    response: list[float] = field(default_factory=list)
    """From there to the first audible frame of the answer, played."""
    onset_to_clear: list[float] = field(default_factory=list)
    holes: list[float] = field(default_factory=list)
    """Silences within an answer that come from late audio."""
    max_late: float = 0.0
    """How late this phone itself ever was."""


def line_noise(seconds: float = 1.0) -> bytes:
    """Return the faint noise of a quiet line."""
    rng = np.random.default_rng(7)
    samples = rng.standard_normal(int(seconds * 8000)) * 32768 * 10 ** (_NOISE_DB / 20)
    return PCMU_8K.encode(samples.astype(np.int16))


class BasePhone:
    """One call; what is said and heard is mu-law at 8 kHz, whatever the wire has.

    Args:
        on_event: told of what happens on the wire.
    """

    def __init__(self, call_sid: str, on_event: Callable[[str, str], None] = lambda name, detail: None) -> None:
        self.call_sid = call_sid
        self.timings = Timings()
        self.caller_audio = bytearray()
        self.agent_audio = bytearray()
        self.ended_by: str | None = None
        self._on_event = on_event
        self._noise = line_noise()
        self._outgoing: deque[tuple[bytes, bool, bool]] = deque()  # frame, is onset, is last audible
        self._onset: float | None = None
        self._awaiting_answer: float | None = None
        self._agent_spoke_at: float | None = None
        self._dry_since: float | None = None
        self.agent_started = asyncio.Event()
        self.closed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._socket: aiohttp.ClientWebSocketResponse

    # -- the wire --------------------------------------------------------------------------------------------------

    async def _dial(self) -> None:
        """Open the socket, and say what comes first.

        Raises:
            CallRefused: the gateway did not take the call.
        """
        raise NotImplementedError

    def _receive_message(self, text: str) -> tuple[str, list[str]]:
        """Take a message; return `media`, `clear` or something else, and what answers it."""
        raise NotImplementedError

    def _media(self, frame: bytes) -> str | None:
        """Return the caller's next 20 ms as a message; None where they are not heard."""
        raise NotImplementedError

    def _play_frame(self) -> tuple[bytes, list[str]]:
        """Play 20 ms: return what is heard, and the messages that this brings."""
        raise NotImplementedError

    def _keys(self, digits: str) -> str:
        """Return keys as a message."""
        raise NotImplementedError

    def _goodbye(self) -> str:
        """Return what the carrier says when the caller hangs up."""
        raise NotImplementedError

    @property
    def buffered_ms(self) -> int:
        """Audio still to be played."""
        raise NotImplementedError

    def wire(self) -> dict[str, Any]:
        """What the emulator saw."""
        raise NotImplementedError

    # -- the call --------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, connect=5, sock_connect=5))
        try:
            await self._dial()
        except BaseException:
            await self._http.close()
            raise
        self.timings.started = time.perf_counter()
        self._tasks = [asyncio.create_task(self._receive()), asyncio.create_task(self._clock())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if not self._socket.closed:
            await self._socket.close()
        await self._http.close()

    async def _receive(self) -> None:
        await self._read()
        while await self._redial():
            await self._read()
        self.ended_by = self.ended_by or "agent"
        self.closed.set()

    async def _redial(self) -> bool:
        """The socket is closed: return whether the call goes on, on another one."""
        return False

    async def _send(self, text: str) -> None:
        await self._socket.send_str(text)

    async def _read(self) -> None:
        async for message in self._socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                continue
            event, answers = self._receive_message(message.data)
            now = time.perf_counter()
            if event == "clear":
                if self._onset is not None:
                    self.timings.onset_to_clear.append(now - self._onset)
                    self._onset = None
                self._dry_since = None
                self._on_event("clear", "")
            elif event == "media" and self._dry_since is not None:
                if now - self._dry_since < 1.0:
                    self.timings.holes.append(now - self._dry_since)
                self._dry_since = None
            for answer in answers:
                await self._send(answer)

    async def _clock(self) -> None:
        """Send and play 20 ms each 20 ms."""
        due = time.perf_counter()
        noise_at = 0
        try:
            while not self.closed.is_set():
                now = time.perf_counter()
                self.timings.max_late = max(self.timings.max_late, now - due)
                await self._send_frame(noise_at)
                noise_at = (noise_at + FRAME) % (len(self._noise) - FRAME)
                for mark in self._play(now):
                    await self._send(mark)
                due += _PERIOD_S
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
        except (ConnectionError, RuntimeError):  # closing under us
            pass

    async def _send_frame(self, noise_at: int) -> None:
        frame, onset, last = (
            self._outgoing.popleft() if self._outgoing else (self._noise[noise_at : noise_at + FRAME], False, False)
        )
        self.caller_audio += frame
        message = self._media(frame)
        if message is not None:
            await self._send(message)
        now = time.perf_counter()
        if onset and self.buffered_ms:
            self._onset = now
        if last:
            self.timings.speech_ended.append(now)
            self._awaiting_answer = now

    def _play(self, now: float) -> list[str]:
        heard, marks = self._play_frame()
        self.agent_audio += heard
        if heard != _SILENT and float(frame_levels_db(PCMU_8K.decode(heard), FRAME)[0]) > AUDIBLE_DB:
            self._heard_agent(now)
        if self.buffered_ms == 0 and self._agent_spoke_at is not None and self._dry_since is None:
            self._dry_since = now if now - self._agent_spoke_at < 0.5 else None
        return marks

    def _heard_agent(self, now: float) -> None:
        if self.timings.first_audible is None:
            self.timings.first_audible = now - self.timings.started
        if self._awaiting_answer is not None:
            self.timings.response.append(now - self._awaiting_answer)
            self._awaiting_answer = None
        self._agent_spoke_at = now
        self.agent_started.set()

    # -- what the caller does --------------------------------------------------------------------------------------

    def say(self, payload: bytes) -> None:
        """Speak mu-law audio, after what is being said already."""
        payload += PCMU_8K.silence(-len(payload) % FRAME)
        levels = frame_levels_db(PCMU_8K.decode(payload), FRAME)
        audible = np.flatnonzero(levels > AUDIBLE_DB)
        first, last = (int(audible[0]), int(audible[-1])) if len(audible) else (-1, -1)
        for at in range(len(payload) // FRAME):
            self._outgoing.append((payload[at * FRAME : (at + 1) * FRAME], at == first, at == last))
        self.agent_started.clear()

    async def press(self, digits: str) -> None:
        """Press keys, a fifth of a second apart."""
        self.agent_started.clear()
        self._dry_since = self._agent_spoke_at = None  # what follows is another answer
        for digit in digits:
            await self._send(self._keys(digit))
            await asyncio.sleep(0.2)

    async def hang_up(self) -> None:
        """Say goodbye and close, as the carrier does when the caller hangs up."""
        if not self.closed.is_set():
            self.ended_by = "caller"
            await self._send(self._goodbye())
            await self._socket.close()

    async def said(self) -> None:
        """Return when all that was to be said is said, or the call is over."""
        while self._outgoing and not self.closed.is_set():  # noqa: ASYNC110
            await asyncio.sleep(_PERIOD_S)

    async def agent_quiet(self, *, quiet_s: float = 0.7, patience_s: float = 15.0) -> bool:
        """Return when the agent has begun to speak and fallen silent again; False if it never began, or the call is
        over."""
        deadline = time.perf_counter() + patience_s
        while not self.closed.is_set():
            now = time.perf_counter()
            spoke = self.agent_started.is_set() and self._agent_spoke_at is not None
            if not spoke and now > deadline:
                return False
            if spoke and not self.buffered_ms and now - (self._agent_spoke_at or 0.0) >= quiet_s:
                return True
            await asyncio.sleep(_PERIOD_S)
        return False


class Phone(BasePhone):
    """A call over Twilio.

    Args:
        webhook: URL of the gateway's voice webhook.
        auth_token: signs as Twilio does; the signature is over `public_url` in place of the webhook's, if given.
    """

    def __init__(
        self,
        webhook: str,
        *,
        from_: str = "+15550100001",
        to: str = "+15550100002",
        auth_token: str | None = None,
        public_url: str | None = None,
        on_event: Callable[[str, str], None] = lambda name, detail: None,
    ) -> None:
        super().__init__("CA" + secrets.token_hex(16), on_event)
        self.emulator = StreamEmulator(call_sid=self.call_sid, stream_sid="MZ" + secrets.token_hex(16))
        self._webhook, self._from, self._to = webhook, from_, to
        self._auth_token, self._public_url = auth_token, public_url or webhook

    def _receive_message(self, text: str) -> tuple[str, list[str]]:
        return self.emulator.receive(text)

    def _media(self, frame: bytes) -> str:
        return self.emulator.media(frame)

    def _play_frame(self) -> tuple[bytes, list[str]]:
        return self.emulator.play()

    def _keys(self, digits: str) -> str:
        return self.emulator.dtmf(digits)

    def _goodbye(self) -> str:
        return self.emulator.stop()

    @property
    def buffered_ms(self) -> int:
        """Audio still to be played."""
        return self.emulator.buffered_ms

    def wire(self) -> dict[str, Any]:
        """What the emulator saw."""
        emulator = self.emulator
        return {
            "agent_audio_s": round(emulator.received_bytes / 8000, 2),
            "marks": emulator.marks,
            "clears": emulator.clears,
            "max_lead_ms": emulator.max_buffered // 8,
            "violations": emulator.violations,
        }

    async def _dial(self) -> None:
        url, parameters = await self._announce()
        await self._connect(url, parameters)

    async def _announce(self) -> tuple[str, dict[str, str]]:
        """Post the webhook as Twilio does, and read the TwiML."""
        form = {
            "CallSid": self.call_sid,
            "AccountSid": self.emulator.account_sid,
            "From": self._from,
            "To": self._to,
            "CallStatus": "ringing",
            "Direction": "inbound",
            "ApiVersion": "2010-04-01",
        }
        headers = {}
        if self._auth_token:
            headers["X-Twilio-Signature"] = sign(self._auth_token, self._public_url, form.items())
        async with self._http.post(self._webhook, data=form, headers=headers) as answer:
            body = await answer.text()
            if answer.status != 200:
                raise CallRefused(f"the webhook answered {answer.status}")
        twiml = ElementTree.fromstring(body)
        stream = twiml.find("./Connect/Stream")
        if stream is None:
            reject = twiml.find("./Reject")
            raise CallRefused(reject.get("reason", "rejected") if reject is not None else "no stream in the TwiML")
        parameters = {one.get("name", ""): one.get("value", "") for one in stream.findall("Parameter")}
        return stream.get("url", ""), parameters

    async def _connect(self, url: str, parameters: dict[str, str]) -> None:
        """Dial the stream's path at the webhook's address: what `wss` names is the public host."""
        at = urlsplit(self._webhook)
        dial = urlunsplit(("wss" if at.scheme == "https" else "ws", at.netloc, urlsplit(url).path, "", ""))
        headers = {"X-Twilio-Signature": sign(self._auth_token, url)} if self._auth_token else {}
        try:
            self._socket = await self._http.ws_connect(dial, headers=headers, max_msg_size=1 << 22)
        except aiohttp.WSServerHandshakeError as error:
            raise CallRefused(f"the stream was answered {error.status}") from error
        for message in self.emulator.opening(parameters):
            await self._socket.send_str(message)


_SILENT = PCMU_8K.silence(FRAME)
