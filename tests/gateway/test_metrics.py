"""Metrics are true: calls are made over real sockets, and what they did is read back."""

import base64
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fastagent.gateway.app import Gateway
from fastagent.gateway.cli.twilio_phone import TwilioPhone
from fastagent.gateway.record import STAGES
from fastagent.gateway.settings import Settings
from fastagent.media.vad.engine import EnergyVad
from tests.support.audio import ulaw_tone

pytestmark = pytest.mark.real

QUESTION = (Path(__file__).parents[1] / "samples/dev_02.wav").read_bytes()


class Values:
    """An exposition, by name and labels."""

    def __init__(self, text: str) -> None:
        self._samples = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        return self._samples.get((f"fastagent_{name}", tuple(sorted(labels.items()))), 0.0)


async def socket_call(http: aiohttp.ClientSession, url: str) -> str:
    """Ask one thing over the WebSocket, hear the answer, and hang up; return the session's id."""
    session_id = ""
    async with http.ws_connect(f"{url}/agent/ws") as socket:

        async def send(type_: str, **payload: Any) -> None:
            await socket.send_json({"type": type_, "payload": payload})

        await send("start_session", agent_id="bench")
        finals = 0
        async for message in socket:
            event = json.loads(message.data)
            session_id = event["session_id"] or session_id
            if event["type"] == "audio_response" and event["payload"]["final"]:
                finals += 1
                if finals == 1:
                    await send("audio_data", data=base64.b64encode(QUESTION).decode())
                else:
                    await send("end_session", reason="user_hangup")
    return session_id


async def test_what_calls_did_is_what_the_metrics_say() -> None:
    settings = Settings(HOST="127.0.0.1", PORT=0, FASTAGENT_SPEECH="scripted", FASTAGENT_DEFAULT_AGENT="bench")
    async with Gateway(settings, make_vad=EnergyVad) as one, aiohttp.ClientSession() as http:
        await one.wait_ready()
        url = f"http://127.0.0.1:{one.port}"
        async with TwilioPhone(f"{url}/twilio/webhook") as phone:
            await phone.agent_quiet()
            phone.say(ulaw_tone(0.6))
            await phone.said()
            await phone.agent_quiet()
            async with http.get(f"{url}/metrics") as answer:
                assert Values(await answer.text())("active_sessions") == 1
            await phone.hang_up()
        socket_id = await socket_call(http, url)
        async with http.get(f"{url}/sessions/nobody", headers={"Host": "evil.example"}) as answer:
            assert answer.status == 401
        waits = []
        for query in (f"call_id={phone.call_sid}", f"call_id={socket_id}"):
            async with http.get(f"{url}/sessions?{query}") as answer:
                (entry,) = (await answer.json())["active_sessions"]
            async with http.get(f"{url}/sessions/{entry['session_id']}") as answer:
                turns = (await answer.json())["turns"]
            waits += [turn["waterfall_ms"]["total"] for turn in turns if turn["waterfall_ms"]]
        async with http.get(f"{url}/metrics") as answer:
            values = Values(await answer.text())
        async with http.get(f"{url}/health") as answer:
            latency = (await answer.json())["latency_metrics"]
    assert values("active_sessions") == 0
    assert values("session_duration_seconds_count") == 2
    assert len(waits) == 2
    assert values("latency_milliseconds_count") == values("response_latency_seconds_count") == 2
    assert values("latency_milliseconds_sum") == pytest.approx(sum(waits), abs=0.5)
    assert latency["avg_ms"] == pytest.approx(sum(waits) / 2, abs=0.5)
    stages = [values("stage_latency_seconds_sum", stage=stage) for stage in STAGES]
    assert sum(stages) * 1000 == pytest.approx(sum(waits), abs=0.5)
    assert values("calls_total", connector="twilio", direction="inbound", result="caller_hung_up") == 1
    assert values("calls_total", connector="websocket", direction="inbound", result="caller_hung_up") == 1
    assert values("sessions_ended_total", reason="caller_hung_up") == 2
    assert values("auth_failures_total", surface="rest") == 1
    assert values("provider_errors_total") == values("turn_timeouts_total") == 0
    assert values("media_concealed_frames_total") == 0
    assert values("store_up") == 1
