"""Who may call us: who has the shared token, or an OAuth 2.0 access token of the authorization server.

Tokens that are JWTs are checked here against the server's published keys (JWKS); others are asked after at the server
(introspection, RFC 7662). Both addresses come from the environment only; redirects are not followed.
"""

import asyncio
import hashlib
import hmac
import json
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import aiohttp
from aiohttp import web

_log = logging.getLogger(__name__)

_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
_LEEWAY_S = 30
_TIMEOUT_S = 3.0
_MAX_BODY = 256 * 1024
_MAX_TOKEN = 16 * 1024
_KEYS_S = 600.0  # so long published keys are believed
_AGAIN_S = 30.0  # a key that nobody knows is looked for this often at most
_KNOWN_S = 60.0  # so long an answer of the introspection counts
_MAX_KNOWN = 1000


class Verdict(Enum):
    """What becomes of a request."""

    ADMITTED = "admitted"
    REFUSED = "refused"
    UNAVAILABLE = "unavailable"
    """The authorization server does not answer."""


class AuthUnavailableError(Exception):
    """The authorization server does not answer, or not what it should."""


@dataclass(frozen=True, slots=True)
class OAuthOptions:
    """How access tokens are checked: by `jwks_url`, else by `introspection_url` with the client's credentials."""

    issuer: str | None = None
    audience: str | None = None
    jwks_url: str | None = None
    introspection_url: str | None = None
    client_id: str | None = None
    client_secret: str | None = None


class AccessTokens:
    """The check of OAuth access tokens."""

    def __init__(self, options: OAuthOptions) -> None:
        self._options = options
        self._http: aiohttp.ClientSession | None = None
        self._keys: dict[str | None, Any] = {}
        self._keys_at: float | None = None
        self._known: OrderedDict[bytes, tuple[bool, float]] = OrderedDict()
        self._lock = asyncio.Lock()

    async def valid(self, token: str) -> bool:
        """Whether a token is good, here and now.

        Raises:
            AuthUnavailableError: nobody can tell.
        """
        if not token or len(token) > _MAX_TOKEN:
            return False
        if self._options.jwks_url:
            return await self._signed(token)
        return await self._introspected(token)

    async def aclose(self) -> None:
        """Close connections."""
        if self._http is not None:
            await self._http.close()

    # -- JWT -------------------------------------------------------------------------------------------------------

    async def _signed(self, token: str) -> bool:
        import jwt

        try:
            head = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            return False
        if head.get("alg") not in _ALGORITHMS:
            return False
        key = await self._key(head.get("kid"))
        if key is None:
            return False
        options, audience = self._options, self._options.audience
        try:
            jwt.decode(
                token,
                key,
                algorithms=[head["alg"]],
                audience=audience,
                issuer=options.issuer,
                leeway=_LEEWAY_S,
                options={"require": ["exp"], "verify_aud": audience is not None},
            )
        except (jwt.PyJWTError, TypeError, ValueError):  # the latter two: a key of another kind
            return False
        return True

    async def _key(self, kid: object) -> Any:
        now = asyncio.get_running_loop().time()
        async with self._lock:  # who comes meanwhile finds the keys there
            age = None if self._keys_at is None else now - self._keys_at
            unknown = kid is not None and kid not in self._keys
            if age is None or age > _KEYS_S or (unknown and age > _AGAIN_S):
                await self._fetch_keys(now)
        if isinstance(kid, str):
            return self._keys.get(kid)
        return next(iter(self._keys.values())) if kid is None and len(self._keys) == 1 else None

    async def _fetch_keys(self, now: float) -> None:
        import jwt

        assert self._options.jwks_url is not None
        try:
            async with self._client().get(self._options.jwks_url, allow_redirects=False) as answer:
                document = await _json(answer)
            found = jwt.PyJWKSet.from_dict(document)
        except (AuthUnavailableError, aiohttp.ClientError, TimeoutError, jwt.PyJWTError, AttributeError) as error:
            if not self._keys:
                raise AuthUnavailableError(f"the keys cannot be had: {error}") from error
            _log.warning("the keys cannot be renewed", extra={"error": str(error)[:200]})
        else:
            self._keys = {key.key_id: key.key for key in found.keys if key.public_key_use in (None, "sig")}
        self._keys_at = now

    # -- introspection ---------------------------------------------------------------------------------------------

    async def _introspected(self, token: str) -> bool:
        digest, now = hashlib.sha256(token.encode("utf-8", "replace")).digest(), asyncio.get_running_loop().time()
        known, until = self._known.get(digest, (False, 0.0))
        if now < until:
            return known
        active = await self._ask(token)
        self._known[digest] = active, now + _KNOWN_S
        self._known.move_to_end(digest)
        while len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)
        return active

    async def _ask(self, token: str) -> bool:
        options = self._options
        assert options.introspection_url is not None
        headers = {}
        if options.client_id:
            headers["Authorization"] = aiohttp.encode_basic_auth(options.client_id, options.client_secret or "")
        form = {"token": token, "token_type_hint": "access_token"}
        try:
            request = self._client().post(options.introspection_url, data=form, headers=headers, allow_redirects=False)
            async with request as answer:
                told = await _json(answer)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise AuthUnavailableError(f"the introspection does not answer: {error}") from error
        return told.get("active") is True and self._is_for_us(told)

    def _is_for_us(self, told: dict[str, Any]) -> bool:
        issuer, audience = self._options.issuer, self._options.audience
        given = told.get("aud")
        ours = audience is None or audience == given or (isinstance(given, list) and audience in given)
        return ours and (issuer is None or told.get("iss", issuer) == issuer)

    def _client(self) -> aiohttp.ClientSession:
        if self._http is None:
            self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S))
        return self._http


async def _json(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    if answer.status != 200:
        raise AuthUnavailableError(f"the authorization server answered {answer.status}")
    body = await answer.content.read(_MAX_BODY + 1)
    while len(body) <= _MAX_BODY and (more := await answer.content.read(_MAX_BODY + 1 - len(body))):
        body += more
    if len(body) > _MAX_BODY:
        raise AuthUnavailableError("the authorization server answered too much")
    try:
        document = json.loads(body)
    except ValueError as error:
        raise AuthUnavailableError("the authorization server answered no JSON") from error
    if not isinstance(document, dict):
        raise AuthUnavailableError("the authorization server answered no JSON object")
    return document


class Door:
    """The check of every request.

    Args:
        api_key: the shared token.
        tokens: the check of access tokens.
        otherwise: asked where neither is configured.
    """

    def __init__(
        self, api_key: str | None, tokens: AccessTokens | None, otherwise: Callable[[web.BaseRequest], bool]
    ) -> None:
        self._digest = _digest(api_key) if api_key else None
        self._tokens, self._otherwise = tokens, otherwise

    async def admits(self, request: web.BaseRequest) -> Verdict:
        """Return what becomes of a request."""
        if self._digest is None and self._tokens is None:
            return Verdict.ADMITTED if self._otherwise(request) else Verdict.REFUSED
        given = request.headers.getall("Authorization", [])
        scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        if scheme.lower() != "bearer":
            return Verdict.REFUSED
        if self._digest is not None and hmac.compare_digest(self._digest, _digest(token.strip())):
            return Verdict.ADMITTED
        if self._tokens is None:
            return Verdict.REFUSED
        try:
            return Verdict.ADMITTED if await self._tokens.valid(token.strip()) else Verdict.REFUSED
        except AuthUnavailableError as error:
            _log.error("no access token can be checked", extra={"error": str(error)[:200]})
            return Verdict.UNAVAILABLE

    async def aclose(self) -> None:
        """Close connections."""
        if self._tokens is not None:
            await self._tokens.aclose()


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
