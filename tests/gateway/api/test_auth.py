"""Who may use the REST API (S1, S2), and how often."""

import asyncio
import base64
import hmac
from typing import Any

import pytest
from aiohttp import web
from pydantic import ValidationError

from fastagent.gateway import auth
from fastagent.gateway.app import Gateway
from fastagent.gateway.auth import ApiKeys
from fastagent.gateway.rate_limit import RateLimit
from fastagent.gateway.settings import Settings
from tests.gateway.api import DOCUMENT, Rest, served

KEY, OTHER = "key-one-of-the-configured", "key-two-of-the-configured"
OPEN = {"/health", "/livez", "/readyz", "/metrics", "/openapi.json", "/asyncapi.json", "/docs"}

real = pytest.mark.real


def bearer(key: str) -> dict[str, str]:
    """The header."""
    return {"Authorization": f"Bearer {key}"}


async def raw(rest: Rest, head: bytes, body: bytes = b"", *, timeout_s: float = 5.0) -> bytes:
    """Send bytes as they are; return the head of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", rest.gateway.port)
    try:
        writer.write(head + b"\r\n\r\n" + body)
        await writer.drain()
        async with asyncio.timeout(timeout_s):
            return await reader.readuntil(b"\r\n\r\n")
    finally:
        writer.close()


@real
async def test_with_keys_every_operation_but_the_open_ones_needs_one() -> None:
    async with served(FASTAGENT_API_KEYS=f"{KEY},{OTHER}") as rest:
        described = (await rest.get("/openapi.json")).body["paths"]
        refused = 0
        for path, methods in described.items():
            at = path.replace("{agent_id}", "bench").replace("{session_id}", "sess_1").replace("{call_id}", "c1")
            for method in methods:
                reply = await rest.ask(method.upper(), at)
                if path in OPEN:
                    assert reply.status == 200
                    assert methods[method]["security"] == [{}]
                else:
                    refused += 1
                    assert (reply.status, reply.body["code"]) == (401, "authentication_failed"), (method, path)
                    assert reply.headers["WWW-Authenticate"] == "Bearer"
                    assert methods[method]["security"] == [{"bearer": []}]
        assert refused == 19
        assert rest.metric("auth_failures_total", surface="rest") == refused
        assert (await rest.get("/health")).body["auth"] == "keys"


@real
async def test_each_of_several_keys_admits_and_nothing_else_does() -> None:
    async with served(FASTAGENT_API_KEYS=f"{KEY}, {OTHER}") as rest:
        basic = base64.b64encode(f"user:{KEY}".encode()).decode()
        admitted: list[Any] = [bearer(KEY), bearer(OTHER)]
        admitted += [{"Authorization": f"bearer {KEY}"}, {"AUTHORIZATION": f"BEARER  {KEY}"}]
        refused: list[Any] = [
            {},
            bearer(KEY[:-1]),
            bearer(KEY + "x"),
            bearer(KEY.upper()),
            bearer(f"{KEY},{OTHER}"),
            bearer(""),
            {"Authorization": "Bearer"},
            {"Authorization": KEY},
            {"Authorization": f"Basic {basic}"},
            {"Authorization": f"Token {KEY}"},
            [("Authorization", f"Bearer {KEY}"), ("Authorization", f"Bearer {KEY}")],
            [("Authorization", f"Bearer {KEY}"), ("Authorization", "Bearer wrong")],
            [("Authorization", f"Bearer {KEY}"), ("Authorization", "Basic eDp5")],
            {**bearer(KEY), "Sec-WebSocket-Protocol": f"bearer.{KEY}"},
            {"X-Api-Key": KEY},
            {"Cookie": f"Authorization=Bearer {KEY}"},
        ]
        for headers in admitted:
            assert (await rest.get("/agents", headers=headers)).status == 200, headers
        for headers in refused:
            assert (await rest.get("/agents", headers=headers)).status == 401, headers
        assert rest.metric("auth_failures_total", surface="rest") == len(refused)


@real
@pytest.mark.parametrize("name", ["token", "api_key", "access_token", "Authorization", "key"])
async def test_a_key_in_the_query_never_counts(name: str) -> None:
    async with served(FASTAGENT_API_KEYS=KEY) as rest:
        assert (await rest.get(f"/agents?{name}={KEY}")).status == 401
        assert (await rest.get(f"/sessions?{name}=Bearer%20{KEY}")).status == 401


@real
async def test_bytes_that_are_no_text_are_a_wrong_key_and_no_fault_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    async with served(FASTAGENT_API_KEYS=KEY) as rest:
        answer = await raw(rest, b"GET /agents HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \xff\xfe\x80")
        assert answer.startswith(b"HTTP/1.1 401 ")
    assert "Traceback" not in caplog.text


@real
async def test_without_a_key_a_body_is_not_read() -> None:
    """Refused before one byte of it has come: a parser that is not asked cannot be attacked."""
    async with served(FASTAGENT_API_KEYS=KEY) as rest:
        head = b"POST /agents/a/config HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        for length, body in ((1 << 33, b""), (1 << 21, b"{" * 1000), (9, b"not json!")):
            answer = await raw(rest, head + f"Content-Length: {length}".encode(), body)
            assert answer.startswith(b"HTTP/1.1 401 "), answer
        huge = await rest.post("/agents/a/config", data=b"x" * (2 << 20))
        assert huge.status == 401
        wrong = await rest.post("/agents/%00/config?nonsense=1", DOCUMENT)
        assert wrong.status == 401


@real
async def test_a_body_that_waits_to_be_asked_for_is_asked_for_only_with_a_key() -> None:
    head = (
        b"POST /agents/a/config HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
    )
    async with served(FASTAGENT_API_KEYS=KEY) as rest:
        assert (await raw(rest, head + b"Expect: 100-continue")).startswith(b"HTTP/1.1 401 ")
        known = head + f"Authorization: Bearer {KEY}\r\n".encode()
        assert (await raw(rest, known + b"Expect: 100-continue")).startswith(b"HTTP/1.1 100 ")
        answer = await raw(rest, known + b"Expect: miracles")
        assert answer.startswith(b"HTTP/1.1 417 ")
        assert b"application/json" in answer
        reader, writer = await asyncio.open_connection("127.0.0.1", rest.gateway.port)
        writer.write(known + b"Expect: 100-continue\r\n\r\n")
        assert b" 100 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"{}")
        assert b" 400 " in await reader.readuntil(b"\r\n\r\n")
        writer.close()


@real
async def test_without_keys_loopback_is_admitted_and_whatever_may_come_from_elsewhere_needs_the_made_key() -> None:
    async with served() as rest:
        made = rest.gateway.keys.made
        assert made is not None
        assert (await rest.get("/health")).body["auth"] == "local"
        port = rest.gateway.port
        local: list[dict[str, str]] = [{}, {"Host": f"localhost:{port}"}, {"Origin": f"http://localhost:{port}"}]
        for headers in local:
            assert (await rest.get("/agents", headers=headers)).status == 200, headers
        elsewhere: list[dict[str, str]] = [
            {"Host": "gateway.example"},
            {"Host": "127.0.0.1.nip.io"},
            {"Origin": "https://page.example"},
            {"Origin": "null"},
            {"X-Forwarded-For": "127.0.0.1"},
            {"X-Forwarded-Host": "localhost"},
            {"Forwarded": "for=127.0.0.1"},
            {"X-Real-IP": "127.0.0.1"},
            {"Via": "1.1 proxy"},
        ]
        for headers in elsewhere:
            assert (await rest.get("/agents", headers=headers)).status == 401, headers
            assert (await rest.get("/agents", headers={**headers, **bearer(made)})).status == 200, headers
        assert (await rest.get("/agents", headers=bearer("wrong"))).status == 401  # a wrong one is no missing one


@real
async def test_a_made_key_is_another_one_each_time_and_none_where_keys_are_configured() -> None:
    made = {ApiKeys([], "auto").made for _ in range(3)}
    assert len(made) == 3
    assert all(one is not None and len(one) >= 32 for one in made)
    assert ApiKeys([KEY], "auto").made is None


@real
async def test_auth_open_admits_everybody_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async with served(FASTAGENT_AUTH="open") as rest:
        assert (await rest.get("/health")).body["auth"] == "open"
        headers = {"Host": "gateway.example", "Origin": "https://page.example", "X-Forwarded-For": "1.2.3.4"}
        assert (await rest.get("/agents", headers=headers)).status == 200
    assert "FASTAGENT_AUTH=open" in caplog.text


@real
async def test_auth_open_does_not_open_what_has_keys() -> None:
    async with served(FASTAGENT_AUTH="open", FASTAGENT_API_KEYS=KEY) as rest:
        assert (await rest.get("/agents")).status == 401
        assert (await rest.get("/health")).body["auth"] == "keys"


def test_auth_required_without_a_key_does_not_start() -> None:
    with pytest.raises(ValueError, match="FASTAGENT_AUTH=required needs FASTAGENT_API_KEYS"):
        Gateway(Settings(FASTAGENT_AUTH="required", FASTAGENT_AGENTS="/nowhere"))
    assert ApiKeys([KEY], "required").made is None
    with pytest.raises(ValidationError):
        Settings(FASTAGENT_AUTH="maybe")


@real
async def test_metrics_with_a_token_of_their_own_need_that_one_and_no_other() -> None:
    async with served(FASTAGENT_METRICS_TOKEN="scrape-me", FASTAGENT_API_KEYS=KEY) as rest:
        for headers in ({}, bearer(KEY), bearer("scrape"), {"Authorization": "scrape-me"}):
            reply = await rest.get("/metrics", headers=headers)
            assert (reply.status, reply.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert rest.metric("auth_failures_total", surface="metrics") == 4
        for scheme in ("Bearer", "bearer"):
            found = await rest.get("/metrics", headers={"Authorization": f"{scheme} scrape-me"})
            assert found.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            assert "fastagent_active_sessions 0.0" in found.text
        assert (await rest.get("/agents", headers=bearer("scrape-me"))).status == 401


def test_every_key_is_compared_in_constant_time_whichever_of_them_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest

    def spy(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return compare(one, other)

    monkeypatch.setattr(auth.hmac, "compare_digest", spy)  # type: ignore[attr-defined]
    keys = ApiKeys(["a", "b", "c"], "auto")
    principals = set()
    for token in ("a", "b", "c", "x" * 10_000):
        compared.clear()
        principals.add(keys.principal(_request(token)))
        assert len(compared) == 3
        assert {len(one) for pair in compared for one in pair} == {32}
    assert len(principals) == 4
    assert None in principals


def _request(token: str) -> web.BaseRequest:
    from aiohttp.test_utils import make_mocked_request

    return make_mocked_request("GET", "/agents", headers={"Authorization": f"Bearer {token}"})


# -- the rate --


class Clock:
    """Time that stands still."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_gives_a_burst_of_twice_the_rate_and_fills_with_time() -> None:
    clock = Clock()
    limit = RateLimit(5.0, clock=clock)
    assert [limit.admits("a") for _ in range(11)] == [True] * 10 + [False]
    assert limit.wait_s("a") == 1
    assert limit.admits("b")
    clock.now += 0.2
    assert [limit.admits("a") for _ in range(2)] == [True, False]
    clock.now += 3600
    assert [limit.admits("a") for _ in range(11)] == [True] * 10 + [False]


def test_a_rate_below_one_a_second_admits_one_and_says_when_the_next_may_come() -> None:
    clock = Clock()
    limit = RateLimit(0.1, clock=clock)
    assert limit.admits("a")
    clock.now += 4
    assert not limit.admits("a")
    assert limit.wait_s("a") == 6
    clock.now += 6
    assert limit.admits("a")


def test_the_buckets_are_bounded_and_the_one_unused_for_longest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastagent.gateway.rate_limit._MAX_CALLERS", 2)
    limit = RateLimit(0.5, clock=Clock())
    assert limit.admits("a")
    assert not limit.admits("a")
    assert limit.admits("b")
    assert limit.admits("c")
    assert limit.admits("a")  # forgotten meanwhile
    assert len(limit._buckets) == 2


@real
async def test_too_many_requests_of_one_key_are_refused_with_a_time_and_other_keys_are_not() -> None:
    async with served(FASTAGENT_API_KEYS=f"{KEY},{OTHER}", FASTAGENT_REST_RATE=0.02) as rest:
        assert (await rest.get("/agents", headers=bearer(KEY))).status == 200
        refused = await rest.get("/agents", headers=bearer(KEY))
        assert (refused.status, refused.body["code"]) == (429, "rate_limited")
        assert 40 <= int(refused.headers["Retry-After"]) <= 50
        assert (await rest.get("/agents", headers=bearer(OTHER))).status == 200
        for path in sorted(OPEN):
            assert (await rest.get(path)).status == 200
        assert (await rest.get("/agents", headers=bearer("wrong"))).status == 401
