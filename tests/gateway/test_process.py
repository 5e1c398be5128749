"""The gateway as a process: starting, refusing, draining, stopping."""

import asyncio
import json
import signal
import socket

import pytest

from fastagent.gateway.cli.phone import CallRefused
from fastagent.gateway.cli.twilio_phone import TwilioPhone
from tests.support.process import serve

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

SCRIPTED = {"FASTAGENT_SPEECH": "scripted", "FASTAGENT_DEFAULT_AGENT": "bench"}


async def test_it_is_alive_before_it_is_ready_and_calls_before_that_hear_busy() -> None:
    async with serve(FASTAGENT_SPEECH="embedded") as gateway:
        await gateway.until("/livez", 200)
        assert await gateway.status("/readyz") == 503
        with pytest.raises(CallRefused) as refused:
            async with TwilioPhone(gateway.webhook):
                pass
        assert refused.value.reason == "busy"
        await gateway.until("/readyz", 200)
        async with TwilioPhone(gateway.webhook) as phone:
            await asyncio.wait_for(phone.agent_started.wait(), 5)


async def test_sigterm_refuses_new_calls_and_lets_live_ones_finish() -> None:
    async with serve(**SCRIPTED) as gateway:
        await gateway.until("/readyz", 200)
        async with TwilioPhone(gateway.webhook) as phone:
            await asyncio.wait_for(phone.agent_started.wait(), 5)
            gateway.process.send_signal(signal.SIGTERM)
            await gateway.until("/readyz", 503, patience_s=5)
            with pytest.raises(CallRefused):
                async with TwilioPhone(gateway.webhook):
                    pass
            assert await phone.agent_quiet()  # the greeting is heard to its end
            assert not phone.closed.is_set()
            await phone.hang_up()
        code, log = await gateway.exited(patience_s=10)
    assert code == 0
    assert _ended(log) == ["caller_hung_up"]


@pytest.mark.parametrize(
    ("signals", "drain"),
    [([signal.SIGTERM], "1"), ([signal.SIGTERM, signal.SIGTERM], "300"), ([signal.SIGINT], "300")],
    ids=["drain limit", "second signal", "ctrl-c"],
)
async def test_calls_that_are_left_hear_a_goodbye(signals: list[signal.Signals], drain: str) -> None:
    async with serve(**SCRIPTED, FASTAGENT_DRAIN_SECONDS=drain) as gateway:
        await gateway.until("/readyz", 200)
        async with TwilioPhone(gateway.webhook) as phone:
            assert await phone.agent_quiet()
            before = phone.emulator.received_bytes
            for one in signals:
                gateway.process.send_signal(one)
                await asyncio.sleep(0.2)
            await asyncio.wait_for(phone.closed.wait(), 20)
            assert phone.emulator.received_bytes - before > 8000  # more than a second of goodbye
            assert phone.ended_by == "agent"
        code, log = await gateway.exited(patience_s=10)
    assert code == 0
    assert _ended(log) == ["shutdown"]


async def test_an_idle_gateway_stops_at_once() -> None:
    async with serve(**SCRIPTED) as gateway:
        await gateway.until("/livez", 200)
        gateway.process.send_signal(signal.SIGTERM)
        code, _ = await gateway.exited(patience_s=15)
    assert code == 0


async def test_f27_a_taken_port_is_one_clear_line_and_a_failure() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        async with serve(**SCRIPTED, PORT=str(taken.getsockname()[1])) as gateway:
            code, log = await gateway.exited()
    assert code == 1
    assert "cannot start" in log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("name", "value"),
    [("MAX_SESSIONS", "many"), ("PORT", "99999"), ("FASTAGENT_SPEECH", "loud"), ("FASTAGENT_TRUSTED_PROXIES", "x")],
)
async def test_f27_a_wrong_setting_names_itself(name: str, value: str) -> None:
    async with serve(**{**SCRIPTED, "PORT": "0", name: value}) as gateway:
        code, log = await gateway.exited()
    assert code == 2
    assert name in log
    assert "Traceback" not in log


async def test_f27_an_unknown_default_agent_is_named() -> None:
    async with serve(FASTAGENT_SPEECH="scripted", FASTAGENT_DEFAULT_AGENT="nobody") as gateway:
        code, log = await gateway.exited()
    assert code == 1
    assert "nobody" in log


async def test_the_call_after_the_last_place_hears_busy_and_a_place_given_back_is_taken_again() -> None:
    async with serve(**SCRIPTED, MAX_SESSIONS="2") as gateway:
        await gateway.until("/readyz", 200)
        async with TwilioPhone(gateway.webhook), TwilioPhone(gateway.webhook) as second:
            with pytest.raises(CallRefused) as refused:
                async with TwilioPhone(gateway.webhook):
                    pass
            assert refused.value.reason == "busy"
            await second.hang_up()
            async with asyncio.timeout(5):
                while True:
                    try:
                        async with TwilioPhone(gateway.webhook):
                            break
                    except CallRefused:
                        await asyncio.sleep(0.05)


def _ended(log: str) -> list[str]:
    """The reasons of the sessions that ended, from the JSON log."""
    events = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [event["reason"] for event in events if event["message"] == "Session ended"]
