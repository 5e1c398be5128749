"""A browser's call, by a second peer of aiortc over real sockets; the browser itself is in tests/peers."""

import asyncio
import fractions
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import aiortc
import numpy as np
import pytest
from aiortc import RTCPeerConnection, RTCRtpReceiver, RTCSessionDescription
from aiortc.mediastreams import MediaStreamTrack, VideoStreamTrack
from av import AudioFrame

from fastagent.connectors.webrtc import connector
from fastagent.connectors.webrtc.reception import _Tap
from fastagent.connectors.webrtc.track import AgentTrack
from fastagent.gateway.app import Gateway
from fastagent.gateway.settings import Settings
from fastagent.media.rtp.inbound import RtpInbound
from fastagent.media.vad.engine import EnergyVad

pytestmark = pytest.mark.real


class Microphone(MediaStreamTrack):
    """Says a tone while `speaking`, else nothing."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self.speaking = False
        self._at = 0
        self._due: float | None = None

    async def recv(self) -> AudioFrame:
        loop = asyncio.get_running_loop()
        self._due = loop.time() if self._due is None else self._due + 0.02
        await asyncio.sleep(max(0.0, self._due - loop.time()))
        level = 8000 if self.speaking else 0
        samples = level * np.sin(2 * np.pi * 440 * (self._at + np.arange(960)) / 48000)
        frame = AudioFrame.from_ndarray(samples.astype(np.int16)[None], "s16", "mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, self._at, fractions.Fraction(1, 48000)
        self._at += 960
        return frame


class Browser:
    """The other peer."""

    def __init__(self) -> None:
        self.peer = RTCPeerConnection()
        self.microphone = Microphone()
        self.events: list[dict[str, Any]] = []
        self.loud_s = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self.channel = self.peer.createDataChannel("events")
        self.channel.on("message", lambda text: self.events.append(json.loads(text)))
        self.peer.addTrack(self.microphone)
        self.peer.on("track", self._track)

    def _track(self, track: MediaStreamTrack) -> None:
        task = asyncio.create_task(self._listen(track))
        self._tasks.add(task)

    async def _listen(self, track: MediaStreamTrack) -> None:
        try:
            while True:
                frame: Any = await track.recv()
                samples = frame.to_ndarray()
                self.loud_s += (np.abs(samples).max() > 1000) * frame.samples / frame.sample_rate
        except Exception:
            return

    async def call(self, http: aiohttp.ClientSession, **more: Any) -> int:
        await self.peer.setLocalDescription(await self.peer.createOffer())
        body = {"sdp": self.peer.localDescription.sdp, "type": "offer", **more}
        async with http.post("/webrtc/offer", json=body) as answer:
            if answer.status == 200:
                told = await answer.json()
                await self.peer.setRemoteDescription(RTCSessionDescription(told["sdp"], told["type"]))
            return answer.status

    def tell(self, type_: str, **payload: Any) -> None:
        self.channel.send(json.dumps({"type": type_, "payload": payload}))

    def of(self, type_: str) -> list[dict[str, Any]]:
        return [one["payload"] for one in self.events if one["type"] == type_]

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self.peer.close()


@asynccontextmanager
async def gateway(**settings: Any) -> AsyncIterator[tuple[Gateway, aiohttp.ClientSession]]:
    given = {"FASTAGENT_SPEECH": "scripted", "FASTAGENT_DEFAULT_AGENT": "bench", **settings}
    async with (
        Gateway(Settings(HOST="127.0.0.1", PORT=0, **given), make_vad=EnergyVad) as one,
        aiohttp.ClientSession(f"http://127.0.0.1:{one.port}") as http,
    ):
        await one.wait_ready()
        yield one, http


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    one = Browser()
    try:
        yield one
    finally:
        await one.close()


async def test_a_browser_hears_the_agent_and_is_heard() -> None:
    async with gateway() as (one, http), browser() as caller:
        assert await caller.call(http) == 200
        await caller.until(lambda: caller.of("transcript") and caller.loud_s > 0.5)
        assert caller.of("session_started")[0]["agent_id"] == "bench"
        await caller.until(lambda: any(line["is_final"] for line in caller.of("transcript")))
        caller.microphone.speaking = True
        await asyncio.sleep(0.6)
        caller.microphone.speaking = False
        await caller.until(lambda: caller.of("metrics"))
        said = [line for line in caller.of("transcript") if line["role"] == "user" and line["is_final"]]
        assert len(said) == 1
        caller.tell("end_session")
        await caller.until(lambda: not len(one.sessions))
        (record,) = one.sessions.records()
        assert record.end_reason is not None
        assert record.end_reason.value == "caller_hung_up"
        assert record.call.provider == "webrtc"
        quality = record.quality
        assert quality is not None
        assert (quality["codec"], quality["one_way"], quality["lost"]) == ("opus", None, 0)
        assert quality["received"] > 100
        assert quality["mos"] > 3.9


async def test_a_browsers_losses_go_through_our_own_jitter_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = _Tap.add

    def lossy(tap: _Tap, packet: Any) -> tuple[bool, None]:
        return (False, None) if packet.sequence_number % 10 == 3 else taken(tap, packet)

    monkeypatch.setattr(_Tap, "add", lossy)
    async with gateway() as (one, http), browser() as caller:
        assert await caller.call(http) == 200
        await caller.until(lambda: any(line["is_final"] for line in caller.of("transcript")))
        caller.microphone.speaking = True
        await asyncio.sleep(1.0)
        caller.microphone.speaking = False
        await caller.until(lambda: caller.of("metrics"))
        caller.tell("end_session")
        await caller.until(lambda: not len(one.sessions))
        (record,) = one.sessions.records()
        quality = record.quality
        assert quality is not None
        assert 0.06 < quality["lost"] / (quality["lost"] + quality["received"]) < 0.14
        assert quality["concealed_frames"] > 0
        assert record.turns[-1].user


async def test_keys_words_and_an_interruption_come_over_the_data_channel() -> None:
    async with gateway(FASTAGENT_DEFAULT_AGENT="front_desk") as (_, http), browser() as caller:
        assert await caller.call(http) == 200
        await caller.until(lambda: caller.channel.readyState == "open" and caller.of("transcript"))
        caller.tell("interrupt")
        await caller.until(lambda: caller.of("interruption"))
        caller.tell("text_input", text="My name is Anna")
        await caller.until(lambda: caller.of("state_transition"))
        for junk in ("no json", "[]", '{"type": "dtmf", "payload": {"digits": "x"}}', '{"type": 5}', "x" * 20000):
            caller.channel.send(junk)
        caller.tell("dtmf", digits="1")
        await caller.until(lambda: [one for one in caller.of("call_event") if one["event"] == "dtmf"])


async def test_a_browser_that_goes_away_ends_its_session() -> None:
    async with gateway() as (one, http):
        async with browser() as caller:
            assert await caller.call(http) == 200
            await caller.until(lambda: caller.of("session_started"))
        async with asyncio.timeout(40):
            while len(one.sessions):  # noqa: ASYNC110
                await asyncio.sleep(0.1)


class Watched(RTCPeerConnection):
    """The gateway's own end, for a look inside."""

    made: list["Watched"]

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.made.append(self)


def lines_of(sdp: str) -> list[tuple[str, str]]:
    """The kind and the direction of each line of media."""
    directions = ("sendrecv", "sendonly", "recvonly", "inactive")
    lines = [one.splitlines() for one in sdp.split("m=")[1:]]
    return [(one[0].split()[0], next((a[2:] for a in one if a[2:] in directions), "")) for one in lines]


async def test_a_camera_and_a_second_microphone_are_declined_and_nothing_decodes_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Watched, "made", [], raising=False)
    monkeypatch.setattr(aiortc, "RTCPeerConnection", Watched)
    async with gateway() as (_, http), browser() as caller:
        caller.peer.addTrack(VideoStreamTrack())
        caller.peer.addTrack(Microphone())
        assert await caller.call(http) == 200
        assert lines_of(caller.peer.remoteDescription.sdp) == [
            ("audio", "sendrecv"), ("video", "inactive"), ("audio", "inactive"), ("application", ""),
        ]  # fmt: skip
        await caller.until(lambda: any(line["is_final"] for line in caller.of("transcript")))
        caller.microphone.speaking = True
        await asyncio.sleep(0.6)
        caller.microphone.speaking = False
        await caller.until(lambda: caller.of("metrics"))
        assert caller.loud_s > 0.5
        (peer,) = Watched.made
        receivers: list[Any] = peer.getReceivers()
        assert [one.track.kind for one in receivers] == ["audio", "video", "audio"]
        assert [one.track._queue.qsize() for one in receivers] == [0, 0, 0]
        assert [one._RTCRtpReceiver__decoder_thread is not None for one in receivers] == [True, False, False]


async def test_who_would_rather_not_speak_opus_is_answered_in_opus_only() -> None:
    async with gateway() as (_, http), browser() as caller:
        (line,) = caller.peer.getTransceivers()
        can = RTCRtpReceiver.getCapabilities("audio")
        assert can is not None
        line.setCodecPreferences(sorted(can.codecs, key=lambda one: one.mimeType != "audio/PCMU"))
        assert await caller.call(http) == 200
        codecs = [one for one in caller.peer.remoteDescription.sdp.splitlines() if one.startswith("a=rtpmap:")]
        assert [one.split()[1] for one in codecs] == ["opus/48000/2"]
        await caller.until(lambda: caller.loud_s > 0.5)


@pytest.mark.parametrize("stage", [AgentTrack, RtpInbound])
async def test_media_that_fails_ends_the_call(
    stage: type, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(*_: object) -> None:
        raise ZeroDivisionError

    async with gateway() as (one, http), browser() as caller:
        assert await caller.call(http) == 200
        await caller.until(lambda: caller.of("session_started"))
        with caplog.at_level(logging.ERROR):
            monkeypatch.setattr(stage, "tick", failing)
            await caller.until(lambda: not len(one.sessions))
        (record,) = one.sessions.records()
        assert record.end_reason is not None
        assert record.end_reason.value == "internal_error"
        assert [line.message for line in caplog.records].count("a call's media failed") == 1


async def test_who_never_connects_gives_the_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connector, "_CONNECT_S", 0.3)
    async with gateway(MAX_SESSIONS=1) as (one, http):
        async with browser() as caller:
            assert await caller.call(http) == 200
        assert one.sessions.reserve() is None
        async with asyncio.timeout(10):
            while one.sessions.reserve() is None:  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def test_a_stop_while_a_browser_is_let_go_lets_it_go_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Watched):
        async def close(self) -> None:
            closing.set()
            await asyncio.sleep(0.1)
            await super().close()

    closing = asyncio.Event()
    monkeypatch.setattr(Watched, "made", [], raising=False)
    monkeypatch.setattr(aiortc, "RTCPeerConnection", Slow)
    monkeypatch.setattr(connector, "_CONNECT_S", 0.1)
    async with gateway() as (_, http):
        async with browser() as caller:
            assert await caller.call(http) == 200
        await closing.wait()
    (peer,) = Watched.made
    assert (peer.connectionState, peer.iceConnectionState) == ("closed", "closed")


async def in_pieces(body: bytes, *, pause_s: float) -> AsyncIterator[bytes]:
    """The way that a body comes over a slow line."""
    yield body[:1000]
    await asyncio.sleep(pause_s)
    yield body[1000:]


async def test_an_offer_that_comes_in_pieces_is_read_to_its_end() -> None:
    async with gateway() as (_, http), browser() as caller:
        await caller.peer.setLocalDescription(await caller.peer.createOffer())
        body = json.dumps({"sdp": caller.peer.localDescription.sdp, "type": "offer"}).encode()
        assert len(body) > 1000
        async with http.post("/webrtc/offer", data=in_pieces(body, pause_s=0.05)) as answer:
            assert answer.status == 200


async def test_an_offer_without_an_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connector, "_READ_S", 0.1)
    async with gateway(MAX_SESSIONS=1) as (one, http):
        async with http.post("/webrtc/offer", data=in_pieces(b"{", pause_s=30)) as answer:
            assert answer.status == 400
            assert (await answer.json())["message"] == "the offer has no end"
        assert one.sessions.reserve() is not None


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"junk", 400),
        (b"[]", 400),
        (json.dumps({"type": "answer", "sdp": "x"}).encode(), 400),
        (json.dumps({"type": "offer", "sdp": "v=0"}).encode(), 400),
        (json.dumps({"type": "offer", "sdp": "v=0\r\nm=audio nonsense"}).encode(), 400),
        (json.dumps({"type": "offer", "sdp": "v=0\r\nm=audio 9 x 0", "agent_id": "nobody"}).encode(), 404),
        (b"x" * 70_000, 400),
    ],
)
async def test_an_offer_that_is_none_has_an_error_and_takes_no_place(body: bytes, status: int) -> None:
    async with gateway(MAX_SESSIONS=1) as (one, http):
        for _ in range(2):
            async with http.post("/webrtc/offer", data=body) as answer:
                assert answer.status == status
                assert (await answer.json())["code"] in ("invalid_request", "agent_not_found")
        assert one.sessions.reserve() is not None


async def test_who_has_no_key_is_refused_and_who_is_one_too_many_hears_busy() -> None:
    async with gateway(FASTAGENT_API_KEYS="k", MAX_SESSIONS=1) as (one, http), browser() as caller:
        assert await caller.call(http) == 401
        place = one.sessions.reserve()
        offer = {"type": "offer", "sdp": caller.peer.localDescription.sdp}
        async with http.post("/webrtc/offer", json=offer, headers={"Authorization": "Bearer k"}) as answer:
            assert answer.status == 503
            assert answer.headers["Retry-After"]
        assert place is not None


async def test_the_page_is_served_to_everybody_and_loads_nothing_from_elsewhere() -> None:
    async with gateway(FASTAGENT_API_KEYS="k") as (_, http):
        for path in ("/phone", "/phone.js", "/phone.css"):
            async with http.get(path) as answer:
                assert answer.status == 200
                text = await answer.text()
                assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            assert "https://" not in text
            assert "http://" not in text
