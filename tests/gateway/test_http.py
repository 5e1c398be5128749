"""The gateway's own HTTP surface, over real sockets."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from fastagent.gateway.app import Gateway
from fastagent.gateway.cli.twilio_phone import TwilioPhone
from fastagent.gateway.settings import Settings
from fastagent.media.speech.contracts import Speech
from fastagent.media.speech.scripted import ScriptedStt, ScriptedTts
from fastagent.media.vad.engine import EnergyVad

pytestmark = pytest.mark.real


@asynccontextmanager
async def gateway(**options: Any) -> AsyncIterator[tuple[Gateway, aiohttp.ClientSession]]:
    """A gateway in this loop, and a client at its address."""
    settings = Settings(HOST="127.0.0.1", PORT=0, FASTAGENT_SPEECH="scripted", FASTAGENT_DEFAULT_AGENT="bench")
    async with (
        Gateway(settings, make_vad=EnergyVad, **options) as one,
        aiohttp.ClientSession(f"http://127.0.0.1:{one.port}") as http,
    ):
        yield one, http


async def test_health_has_every_documented_field() -> None:
    async with gateway() as (one, http):
        await one.wait_ready()
        async with http.get("/health") as answer:
            body = await answer.json()
        assert answer.status == 200
        assert body["status"] == "healthy"
        documented = {"status", "version", "latency_metrics", "active_connections", "uptime_seconds"}
        assert set(body) == {*documented, "auth", "reasons"}
        assert set(body["latency_metrics"]) == {"avg_ms", "min_ms", "max_ms", "p95_ms", "p99_ms"}
        assert body["latency_metrics"]["p95_ms"] is None


async def test_speech_that_cannot_be_loaded_is_unhealthy_and_calls_hear_busy(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(ScriptedStt):
        async def warm_up(self) -> None:
            raise RuntimeError("no model")

    async with gateway(make_speech=lambda executor: Speech(Broken(), ScriptedTts())) as (one, http):
        with pytest.raises(RuntimeError, match="no model"):
            await one.wait_ready()
        for path, status in (("/livez", 200), ("/readyz", 503), ("/health", 503)):
            async with http.get(path) as answer:
                assert answer.status == status
        async with http.post("/twilio/webhook", data={"CallSid": "CA1"}) as answer:
            assert '<Reject reason="busy"' in await answer.text()
        assert one.metrics.registry.get_sample_value("fastagent_calls_rejected_total", {"reason": "not_ready"}) == 1
    assert "speech could not be loaded" in caplog.text


async def test_a_live_call_is_in_the_list_the_details_and_the_metrics() -> None:
    async with gateway() as (one, http):
        await one.wait_ready()
        async with TwilioPhone(f"http://127.0.0.1:{one.port}/twilio/webhook") as phone:
            await phone.agent_started.wait()
            async with http.get("/sessions") as answer:
                body = await answer.json()
            (entry,) = body["active_sessions"]
            assert body["total_count"] == 1
            documented = {"session_id", "start_time", "current_state", "duration_seconds", "turn_count"}
            assert documented <= set(entry)
            assert entry["call_id"] == phone.call_sid
            assert re.fullmatch(r"sess_[0-9a-f]{32}", entry["session_id"])
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", entry["start_time"])
            async with http.get(f"/sessions/{entry['session_id']}") as answer:
                details = await answer.json()
            assert details["turns"][0]["cause"] == "opening"
            async with http.get("/metrics") as answer:
                text = await answer.text()
            assert "fastagent_active_sessions 1.0" in text
            await phone.hang_up()
        async with http.get(f"/sessions?call_id={phone.call_sid}") as answer:
            body = await answer.json()
        assert body["total_count"] == 1


async def test_the_documented_metrics_have_the_documented_buckets() -> None:
    async with gateway() as (_, http), http.get("/metrics") as answer:
        text = await answer.text()
    for line in (
        "# HELP fastagent_active_sessions Current number of active voice sessions",
        "# TYPE fastagent_active_sessions gauge",
        "# HELP fastagent_session_duration_seconds Session duration in seconds",
        'fastagent_session_duration_seconds_bucket{le="10.0"} 0.0',
        'fastagent_session_duration_seconds_bucket{le="300.0"} 0.0',
        "# HELP fastagent_latency_milliseconds Response latency in milliseconds",
        'fastagent_latency_milliseconds_bucket{le="50.0"} 0.0',
        'fastagent_latency_milliseconds_bucket{le="+Inf"} 0.0',
    ):
        assert line in text


async def test_an_unknown_session_has_the_documented_error() -> None:
    async with gateway() as (_, http), http.get("/sessions/sess_none") as answer:
        assert answer.status == 404
        assert (await answer.json())["code"] == "session_not_found"


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"X-Forwarded-For": "1.2.3.4"}, {"Origin": "https://a.b"}]
)
async def test_sessions_are_not_shown_through_a_tunnel_or_to_a_web_page(headers: dict[str, str]) -> None:
    async with gateway() as (one, http), http.get("/sessions", headers=headers) as answer:
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert one.metrics.registry.get_sample_value("fastagent_auth_failures_total", {"surface": "rest"}) == 1


async def test_a_compressed_request_is_refused() -> None:
    headers = {"Content-Encoding": "gzip"}
    async with gateway() as (_, http), http.post("/twilio/webhook", data=b"x", headers=headers) as answer:
        assert answer.status in (400, 415)  # aiohttp's parser, or we, depending on the body
