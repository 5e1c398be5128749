"""The door: shared tokens, JWTs with published keys, and introspection, against an authorization server in the test."""

import time
from base64 import b64decode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import jwt
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from multidict import CIMultiDict

from fastagent.connectors.audiocodes import auth
from fastagent.connectors.audiocodes.auth import AccessTokens, AuthUnavailableError, Door, OAuthOptions, Verdict
from tests.support.audiocodes import voice_ai
from tests.support.carrier import Speaks, agent, metric
from tests.support.process import free_port

pytestmark = pytest.mark.real

ISSUER, AUDIENCE = "https://login.example.com/", "fastagent"
RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
STRANGER = rsa.generate_private_key(65537, 2048)


def public(key: Any, kid: str) -> dict[str, Any]:
    algorithm = jwt.algorithms.RSAAlgorithm if key is not EC else jwt.algorithms.ECAlgorithm
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig"}


def token(key: Any = RSA, kid: str | None = "rsa", algorithm: str = "RS256", **claims: Any) -> str:
    body = {"iss": ISSUER, "aud": AUDIENCE, "exp": time.time() + 60, **claims}
    body = {name: value for name, value in body.items() if value is not None}
    return jwt.encode(body, key, algorithm=algorithm, headers={"kid": kid} if kid else None)


class Server:
    """An authorization server: publishes keys, and answers about tokens."""

    def __init__(self) -> None:
        self.keys = [public(RSA, "rsa"), public(EC, "ec")]
        self.asked: list[dict[str, str]] = []
        self.fetched = 0
        self.status = 200
        self.body: bytes | None = None
        self.active: Callable[[str], dict[str, Any]] = lambda token: {"active": token == "opaque"}
        self.url = ""

    async def _jwks(self, request: web.Request) -> web.Response:
        self.fetched += 1
        if self.body is not None:
            return web.Response(body=self.body, status=self.status)
        return web.json_response({"keys": self.keys}, status=self.status)

    async def _introspect(self, request: web.Request) -> web.Response:
        form = await request.post()
        self.asked.append({"authorization": request.headers.get("Authorization", ""), "token": str(form["token"])})
        if self.body is not None:
            return web.Response(body=self.body, status=self.status)
        return web.json_response(self.active(str(form["token"])), status=self.status)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Server"]:
        app = web.Application()
        app.router.add_get("/jwks", self._jwks)
        app.router.add_post("/introspect", self._introspect)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()


@asynccontextmanager
async def jwks(**options: Any) -> AsyncIterator[tuple[AccessTokens, Server]]:
    async with Server().running() as server:
        given = {"issuer": ISSUER, "audience": AUDIENCE, "jwks_url": f"{server.url}/jwks", **options}
        tokens = AccessTokens(OAuthOptions(**given))
        yield tokens, server
        await tokens.aclose()


async def test_a_token_of_the_right_issuer_for_us_is_good() -> None:
    async with jwks() as (tokens, server):
        assert await tokens.valid(token())
        assert await tokens.valid(token(EC, "ec", "ES256"))
        assert await tokens.valid(token(aud=["x", AUDIENCE]))
        assert server.fetched == 1, "keys are kept"


@pytest.mark.parametrize(
    "bad",
    [
        lambda: token(exp=time.time() - 60),
        lambda: token(exp=None),
        lambda: token(iss="https://evil.example.com/"),
        lambda: token(iss=None),
        lambda: token(aud="another"),
        lambda: token(aud=None),
        lambda: token(nbf=time.time() + 600),
        lambda: token(STRANGER),
        lambda: token(STRANGER, "nobody"),
        lambda: token(EC, "rsa", "ES256"),
        lambda: token(kid=None),
        lambda: token("secret" * 8, "rsa", "HS256"),
        lambda: jwt.encode({"exp": time.time() + 60}, "", algorithm="none"),
        lambda: token()[:-8],
        lambda: "no.jwt.atall",
        lambda: "x" * 20000,
        lambda: "",
    ],
)
async def test_any_other_token_is_not(bad: Callable[[], str]) -> None:
    async with jwks() as (tokens, _):
        assert not await tokens.valid(bad())


async def test_who_checks_neither_issuer_nor_audience_takes_any() -> None:
    async with jwks(issuer=None, audience=None) as (tokens, _):
        assert await tokens.valid(token(iss="x", aud="y"))


async def test_a_single_key_needs_no_name() -> None:
    async with jwks() as (tokens, server):
        server.keys = [public(RSA, "rsa")]
        assert await tokens.valid(token(kid=None))


async def test_a_new_key_is_looked_for_but_not_for_each_stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    async with jwks() as (tokens, server):
        assert await tokens.valid(token())
        for _ in range(5):
            assert not await tokens.valid(token(STRANGER, "new"))
        assert server.fetched == 1
        monkeypatch.setattr(auth, "_AGAIN_S", 0.0)
        server.keys.append(public(STRANGER, "new"))
        assert await tokens.valid(token(STRANGER, "new"))
        assert server.fetched == 2


async def test_known_keys_serve_while_the_server_is_away_and_without_any_nobody_can_tell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(auth, "_KEYS_S", 0.0)
    async with jwks() as (tokens, server):
        assert await tokens.valid(token())
        for status, body in ((500, None), (200, b"no json"), (200, b"[]"), (200, b"x" * 300_000), (200, b"{}")):
            server.status, server.body = status, body
            assert await tokens.valid(token())
    async with jwks() as (tokens, server):
        server.status = 302
        with pytest.raises(AuthUnavailableError):
            await tokens.valid(token())


@asynccontextmanager
async def introspection(**options: Any) -> AsyncIterator[tuple[AccessTokens, Server]]:
    async with Server().running() as server:
        given = {"introspection_url": f"{server.url}/introspect", "client_id": "me", "client_secret": "pw", **options}
        tokens = AccessTokens(OAuthOptions(**given))
        yield tokens, server
        await tokens.aclose()


async def test_opaque_tokens_are_asked_after_once_a_minute() -> None:
    async with introspection() as (tokens, server):
        assert [await tokens.valid("opaque") for _ in range(3)] == [True] * 3
        assert [await tokens.valid("stolen") for _ in range(3)] == [False] * 3
        assert [one["token"] for one in server.asked] == ["opaque", "stolen"]
        assert b64decode(server.asked[0]["authorization"].removeprefix("Basic ")) == b"me:pw"


async def test_an_active_token_must_be_for_us() -> None:
    async with introspection(issuer=ISSUER, audience=AUDIENCE, client_id=None) as (tokens, server):
        answers: dict[str, dict[str, Any]] = {
            "good": {"iss": ISSUER, "aud": AUDIENCE},
            "list": {"aud": ["x", AUDIENCE]},
            "other": {"aud": "another"},
            "none": {},
            "issuer": {"iss": "x", "aud": AUDIENCE},
        }
        server.active = lambda token: {"active": True, **answers[token]}
        assert [name for name in answers if await tokens.valid(name)] == ["good", "list"]
        assert server.asked[0]["authorization"] == ""


async def test_an_introspection_that_fails_says_nothing_about_the_token() -> None:
    async with introspection() as (tokens, server):
        server.status = 500
        with pytest.raises(AuthUnavailableError):
            await tokens.valid("opaque")
        server.status = 200
        assert await tokens.valid("opaque")
    nobody = AccessTokens(OAuthOptions(introspection_url=f"http://127.0.0.1:{free_port()}/"))
    with pytest.raises(AuthUnavailableError):
        await nobody.valid("another")
    await nobody.aclose()


async def test_the_shared_token_is_compared_whole_and_beside_access_tokens() -> None:
    async with introspection() as (tokens, server):
        door = Door("secret", tokens, lambda request: True)

        async def verdict(*values: str) -> Verdict:
            headers = [("Authorization", value) for value in values]
            return await door.admits(make_mocked_request("GET", "/", headers=CIMultiDict(headers)))

        assert await verdict("Bearer secret") is Verdict.ADMITTED
        assert await verdict("bearer opaque") is Verdict.ADMITTED
        for bad in ((), ("secret",), ("Bearer secre",), ("Bearer secrets",), ("Basic secret",), ("Bearer secret",) * 2):
            assert await verdict(*bad) is Verdict.REFUSED
        server.status = 500
        assert await verdict("Bearer unknown") is Verdict.UNAVAILABLE
        assert await verdict("Bearer secret") is Verdict.ADMITTED


async def test_a_gateway_with_oauth_admits_by_access_tokens() -> None:
    async with Server().running() as server:
        settings = {
            "AUDIOCODES_OAUTH_JWKS_URL": f"{server.url}/jwks",
            "AUDIOCODES_OAUTH_ISSUER": ISSUER,
            "AUDIOCODES_OAUTH_AUDIENCE": AUDIENCE,
        }
        async with voice_ai(agent("a", Speaks("600 hello")), token=None, **settings) as one:
            assert (await one.ask())[0] == 401
            assert (await one.ask(headers={"Authorization": "Bearer nonsense"}))[0] == 401
            assert metric(one.gateway, "auth_failures_total", surface="audiocodes") == 2
            one.headers = {"Authorization": f"Bearer {token()}"}
            assert (await one.ask())[0] == 200
            async with one.call(formats=("raw/mulaw",)) as peer:
                await peer.until("playStream.start")
            one.headers = {"Authorization": f"Bearer {token(aud='another')}"}
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await one.dial()
        server.status = 500
        async with voice_ai(agent("a"), token=None, **settings) as one:
            status, body = await one.ask(headers={"Authorization": f"Bearer {token()}"})
            assert (status, body) == (503, {"error": "tokens cannot be checked"})
