"""A phone that calls the gateway by SIP and RTP: our own connector, as the caller."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import web

from fastagent.connectors.host import Recalled, Release
from fastagent.connectors.leg import CallLeg, HangupReason, LegEnded
from fastagent.connectors.rtp.impaired import ImpairedStream
from fastagent.connectors.rtp.stream import RtpStream
from fastagent.connectors.sip.config import SipConfig, Trunk
from fastagent.connectors.sip.connector import SipConnection
from fastagent.connectors.sip.dial import Dial, DialError, Progress, Unanswered
from fastagent.connectors.sip.grammar import Malformed
from fastagent.connectors.sip.media import ALL_CODECS, Codec, Srtp
from fastagent.connectors.sip.uri import Uri
from fastagent.gateway.cli.phone import FRAME, BasePhone, CallRefused
from fastagent.media.frame import PCMU_8K
from fastagent.media.resample import FrameResampler
from fastagent.media.rtp.network import NONE, Impairments
from fastagent.media.ticker import Ticker

_ANSWER_S = 35.0
_PORTS = (40000, 49999)
_SPEAKS_S = 0.1  # so long after its last audible frame the agent still counts as speaking
_SILENT_FRAMES = 3


class _Host:
    """A gateway with one caller in it: whoever answers is talked to."""

    default_agent = ""

    def __init__(self, on_leg: Callable[[CallLeg], None]) -> None:
        self._on_leg = on_leg
        self.over = asyncio.Event()

    def has_agent(self, agent_id: str) -> bool:
        """There are none: nobody calls here."""
        return False

    def is_live(self, session_id: str) -> bool:
        """Nothing to resume."""
        return False

    def accepts_calls(self) -> bool:
        """Only our own."""
        return False

    def authorize(self, request: web.BaseRequest, surface: str) -> str | None:
        """Nobody."""
        return None

    async def recall(self, session_id: str) -> Recalled | None:
        """Nothing."""
        return None

    def reserve(self, connector: str) -> Release | None:
        """There is always room for it."""
        return lambda: None

    async def converse(self, leg: CallLeg, agent_id: str, *, recalled: Recalled | None = None) -> None:
        """The gateway has answered: talk until it is over."""
        self._on_leg(leg)
        async for event in leg.events():
            if isinstance(event, LegEnded):
                self.over.set()

    def resumed(self, origin: str) -> None:
        """Not counted."""

    def auth_failed(self, surface: str) -> None:
        """Not counted."""

    def protocol_error(self, surface: str, kind: str, count: int = 1) -> None:
        """Not counted."""


class SipPhone(BasePhone):
    """A call by SIP.

    Args:
        address: whom to call, as `sip:agent@host:port;transport=tcp`.
        from_: the number that is shown.
        user, password: for a gateway that asks.
        codecs: what this phone has, in its order.
        srtp: whether media is encrypted.
        tls_ca: by which authorities TLS servers are verified.
        impairments: what the network does to the packets, each way.
    """

    def __init__(
        self,
        address: str,
        *,
        from_: str = "+15550100001",
        user: str = "",
        password: str = "",
        codecs: tuple[Codec, ...] = ALL_CODECS,
        srtp: Srtp = "off",
        tls_ca: Path | None = None,
        impairments: Impairments = NONE,
        on_event: Callable[[str, str], None] = lambda name, detail: None,
    ) -> None:
        super().__init__("", on_event)
        self._address, self._from = address, from_
        self._leg: CallLeg | None = None
        self._answered = asyncio.Event()
        self._refused: str | None = None
        self._up = self._down = FrameResampler(8000, 8000)
        self._heard: deque[bytes] = deque(maxlen=50)
        self._quiet_frames = 0
        self._host = _Host(self._begin)
        self._ticker = Ticker(on_lag=self._lagged)
        try:
            uri = Uri.parse(address)
        except Malformed as error:
            raise CallRefused(f"{address!r:.80} is no SIP address: {error}") from None
        here = uri.host.strip("[]")
        config = SipConfig(
            host="127.0.0.1" if here == "localhost" or here.startswith("127.") else "0.0.0.0",
            port=0,
            rtp_ports=_PORTS,
            trunk=Trunk(uri, user, password) if user else None,
            codecs=codecs,
            srtp=srtp,
            tls_ca=tls_ca,
        )
        stream = partial(ImpairedStream, impairments=impairments) if impairments.any else RtpStream
        self._sip = SipConnection(config, self._host, self._ticker, make_stream=stream)

    # -- the call --------------------------------------------------------------------------------------------------

    async def _dial(self) -> None:
        await self._sip.start()
        try:
            await self._call()
        except BaseException:
            await self._sip.aclose()
            raise
        self._ticker.add(self._tick)
        self._ending = asyncio.create_task(self._follow_end(), name="phone-end")

    async def _call(self) -> None:
        dial = Dial(self._address, "", "", caller=self._from, on_progress=self._progressed, ring_s=_ANSWER_S)
        try:
            self.call_sid = self._sip.dial(dial)
            async with asyncio.timeout(_ANSWER_S):
                await self._answered.wait()
        except DialError as error:
            raise CallRefused(str(error)) from None
        except TimeoutError:
            raise CallRefused("nobody answered") from None
        if self._leg is None:
            raise CallRefused(self._refused or "it was not answered")

    def _progressed(self, progress: Progress, why: Unanswered | None) -> None:
        if progress == "ended":
            self._refused = str(why) if why is not None else None
            self._answered.set()

    def _begin(self, leg: CallLeg) -> None:
        rate_hz = leg.info.audio.rate_hz
        self._up, self._down = FrameResampler(8000, rate_hz), FrameResampler(rate_hz, 8000)
        self._leg = leg
        self.timings.started = time.perf_counter()
        leg.attach(self)
        self._answered.set()

    async def _follow_end(self) -> None:
        await self._host.over.wait()
        self.ended_by = self.ended_by or "agent"
        self._ticker.remove(self._tick)
        self.closed.set()

    async def _say_goodbye(self) -> None:
        if self._leg is not None:
            await self._leg.hang_up(HangupReason.COMPLETED)

    async def _press(self, digit: str) -> None:
        if self._leg is not None:
            await self._leg.send_dtmf(digit)

    async def _leave(self) -> None:
        self._ticker.remove(self._tick)
        self._ending.cancel()
        await asyncio.gather(self._ending, return_exceptions=True)
        await self._sip.aclose()

    # -- media (InboundSink, and the tick) ---------------------------------------------------------------------------

    def push(self, payload: bytes, timestamp_ms: int | None, now: float) -> bool:
        """The stream brings what the agent says."""
        self._heard.append(PCMU_8K.encode(self._down.push(np.frombuffer(payload, "<i2"))))
        return True

    def quiet(self, seconds: float, now: float) -> None:
        """A stream has no gaps."""

    def _lagged(self, lag_s: float) -> None:
        self.timings.max_late = max(self.timings.max_late, lag_s)

    def _tick(self, now: float) -> None:
        assert self._leg is not None  # it ticks from the answer on
        one = self._next()
        self._leg.send_audio(self._up.push(PCMU_8K.decode(one.frame)).astype("<i2").tobytes())
        self._sent(one)
        self._played(self._heard.popleft() if self._heard else PCMU_8K.silence(FRAME))

    def _played(self, heard: bytes) -> None:
        before = self._agent_spoke_at
        super()._played(heard)
        spoke = self._agent_spoke_at != before
        self._quiet_frames = 0 if spoke else self._quiet_frames + 1
        if self._quiet_frames == _SILENT_FRAMES:
            self._cleared(time.perf_counter() - (_SILENT_FRAMES - 1) * 0.02)

    @property
    def buffered_ms(self) -> int:
        """Nothing is buffered here; while the agent is heard, there is more to come."""
        speaks = self._agent_spoke_at is not None and time.perf_counter() - self._agent_spoke_at < _SPEAKS_S
        return 20 if speaks else 0

    def wire(self) -> dict[str, Any]:
        """What this end knows of the media."""
        quality = dict(self._leg.quality() or {}) if self._leg is not None else {}
        violations = [] if quality.get("received") else ["no media came"]
        return {**quality, "violations": violations}
