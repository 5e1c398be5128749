"""Health, readiness, and the one shape of every error."""

import asyncio
import json
import logging
from typing import Any

import pytest

from fastagent.gateway.health import LatencyWindow
from tests.gateway.api import Rest, call, served
from tests.gateway.api.test_auth import raw

pytestmark = pytest.mark.real

POST = b"POST /agents/a/config HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
DOCUMENTED_HEALTH = {"status", "version", "latency_metrics", "active_connections", "uptime_seconds"}


async def test_health_has_the_documented_fields_of_the_documented_kinds() -> None:
    async with served() as rest:
        async with call(rest):
            body = (await rest.get("/health")).body
            assert set(body) == {*DOCUMENTED_HEALTH, "auth", "reasons"}
            assert (body["status"], body["active_connections"], body["reasons"]) == ("healthy", 1, [])
            assert isinstance(body["uptime_seconds"], int)
            assert dict.fromkeys(("avg_ms", "min_ms", "max_ms", "p95_ms", "p99_ms")) == body["latency_metrics"]
        rest.gateway._responded(0.1)
        rest.gateway._responded(0.3)
        metrics = (await rest.get("/health")).body["latency_metrics"]
        assert metrics == {"avg_ms": 200, "min_ms": 100, "max_ms": 300, "p95_ms": 300, "p99_ms": 300}


def test_latencies_are_of_the_last_five_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("fastagent.gateway.health.time.monotonic", lambda: now)
    window = LatencyWindow()
    window.add(9.0)
    now += 200
    for ms in range(1, 101):
        window.add(ms / 1000)
    assert window.metrics()["max_ms"] == 9000
    now += 150
    assert window.metrics() == {"avg_ms": 50.5, "min_ms": 1, "max_ms": 100, "p95_ms": 96, "p99_ms": 100}
    now += 300
    assert set(window.metrics().values()) == {None}


async def test_a_gateway_that_drains_is_alive_and_not_ready() -> None:
    async with served() as rest:
        async with call(rest):
            stopping = asyncio.create_task(rest.gateway.stop(5))
            await asyncio.sleep(0)
            for path, status in (("/livez", 200), ("/readyz", 503), ("/health", 503)):
                reply = await rest.get(path)
                assert (path, reply.status) == (path, status)
            assert reply.body["status"] == "draining"
        await stopping


async def test_paths_that_do_not_exist_and_methods_that_do_not_fit_have_the_one_shape() -> None:
    async with served(ready=False) as rest:
        for path in (
            "/",
            "/agents/",
            "/nowhere",
            "/sessions/a/b/c",
            "/agents/a/config/x",
            "/%00",
            "/..%2f..%2fetc%2fpasswd",
        ):
            reply = await rest.get(path)
            assert (reply.status, reply.body["code"]) == (404, "invalid_request"), path
        for method, path, allowed in (
            ("PUT", "/agents/a/config", {"GET", "POST"}),
            ("DELETE", "/agents", {"GET"}),
            ("POST", "/health", {"GET"}),
            ("PATCH", "/sessions/x", {"GET", "DELETE"}),
            ("GET", "/sessions/x/say", {"POST"}),
            ("OPTIONS", "/sessions", {"GET"}),
            ("PROPFIND", "/sessions", {"GET"}),
        ):
            reply = await rest.ask(method, path)
            assert (reply.status, reply.body["code"]) == (405, "invalid_request"), path
            assert {one.strip() for one in reply.headers["Allow"].split(",")} - {"HEAD"} == allowed


async def test_a_failure_of_ours_tells_nothing_and_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with served() as rest:
        secret = "the-secret-in-the-exception"

        def broken(*args: Any) -> Any:
            raise RuntimeError(secret)

        monkeypatch.setattr(rest.gateway.sessions, "active", broken)
        caplog.clear()
        reply = await rest.get("/sessions")
        assert reply.status == 500
        assert reply.body == {"code": "internal_error", "message": "The gateway has failed", "details": None}
        (record,) = [one for one in caplog.records if one.levelno >= logging.ERROR]
        assert record.exc_info is not None
        assert record.__dict__["method"] == "GET"
        monkeypatch.undo()
        assert (await rest.get("/sessions")).status == 200


async def test_what_takes_too_long_is_a_timeout_and_no_failure(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(DEFAULT_TIMEOUT_SECONDS=0.2) as rest, call(rest) as one:

        async def never(*args: Any) -> None:
            await asyncio.sleep(60)

        monkeypatch.setattr(rest.gateway.sessions, "ended", never)
        reply = await rest.delete(f"/sessions/{one.id}")
        assert (reply.status, reply.body["code"]) == (504, "timeout")
        assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
        monkeypatch.undo()


async def test_a_body_that_stops_coming_is_given_up() -> None:
    async with served(DEFAULT_TIMEOUT_SECONDS=0.3) as rest:
        assert (await raw(rest, POST + b"Content-Length: 99", b"{")).startswith(b"HTTP/1.1 504 ")
        assert "a" not in rest.gateway.agents


MALFORMED = [
    b"GARBAGE",
    b"GET /health HTTP/9.9\r\nHost: x",
    b"GET /health HTTP/1.1\r\nHost: x\r\nBad Header: x",
    b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000,
    b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x",
    b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"\r\n".join(b"X%d: x" % at for at in range(500)),
    b"POST /agents/a/config HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1",
    b"POST /agents/a/config HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
    b"POST /agents/a/config HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz",
]


@pytest.mark.parametrize("head", MALFORMED, ids=lambda head: repr(head[:60] + b"..." + head[-9:]))
async def test_what_is_no_http_is_refused_in_the_one_shape_without_an_echo_or_a_stack(
    head: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(ready=False) as rest:
        reader, writer = await asyncio.open_connection("127.0.0.1", rest.gateway.port)
        writer.write(head + b"\r\n\r\n")
        async with asyncio.timeout(5):
            answer = await reader.read()
        writer.close()
        top, _, body = answer.partition(b"\r\n\r\n")
        assert int(top.split()[1]) in (400, 431), answer
        assert set(json.loads(body)) == {"code", "message", "details"}
        assert json.loads(body)["code"] == "invalid_request"
        assert b"aaaa" not in answer
        assert (await rest.get("/health")).status == 503  # still there, and still starting
    assert "Traceback" not in caplog.text
    assert not [one for one in caplog.records if one.exc_info]


async def test_a_head_that_comes_too_slowly_or_not_at_all_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastagent.gateway.http._HEAD_S", 0.2)
    async with served(ready=False) as rest:
        for begun in (b"", b"GET /health HTTP/1.1\r\nHost:"):
            reader, writer = await asyncio.open_connection("127.0.0.1", rest.gateway.port)
            writer.write(begun)
            async with asyncio.timeout(5):
                assert await reader.read() == b""
            writer.close()


async def test_a_connection_is_kept_between_requests_and_a_slow_second_head_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fastagent.gateway.http._HEAD_S", 0.3)
    async with served(ready=False) as rest:
        reader, writer = await asyncio.open_connection("127.0.0.1", rest.gateway.port)
        for _ in range(2):
            writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
            await reader.readuntil(b"}")
            await asyncio.sleep(0.5)
        writer.write(b"GET /livez HTTP/1.1\r\n")
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()


async def test_a_slow_body_and_a_socket_are_not_cut_off_with_slow_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastagent.gateway.http._HEAD_S", 0.2)
    async with served() as rest, call(rest) as one:
        reader, writer = await asyncio.open_connection("127.0.0.1", rest.gateway.port)
        writer.write(POST + b"Content-Length: 2\r\n\r\n{")
        await asyncio.sleep(0.5)
        writer.write(b"}")
        async with asyncio.timeout(5):
            assert b" 400 " in await reader.readline()
        writer.close()
        await one.send("end_session")
        await one.until("session_ended")


async def test_hostile_requests_leave_calls_alone() -> None:
    async with served() as rest, call(rest) as one:
        await asyncio.gather(*(_hostile(rest, at) for at in range(30)))
        await one.send("text_input", text="still there?")
        await one.until("transcript", role="user", is_final=True)


async def _hostile(rest: Rest, at: int) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", rest.gateway.port)
    writer.write(MALFORMED[at % len(MALFORMED)] + b"\r\n\r\n")
    await asyncio.sleep(0.01 * (at % 3))
    writer.transport.abort()
