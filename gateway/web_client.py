"""The guarded way to web services: allowed addresses only, no redirects, no private ranges, everything bounded."""

import asyncio
import os
import socket
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import DefaultResolver
from yarl import URL

from fastagent.afsm.http_tools import WebRequest
from fastagent.afsm.tools import ToolError
from fastagent.gateway.addresses import Addresses, is_public

_MAX_ANSWER = 64 * 1024
_TRIES = 2
_CONNECT_S = 3.0
_AGAIN = frozenset({502, 503, 504})


class _PublicOnly(AbstractResolver):
    """Resolves to public addresses only, so that a name cannot lead inside."""

    def __init__(self) -> None:
        self._resolver = DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        public = [one for one in found if is_public(one["host"])]
        if not public:
            raise OSError(f"{host} has no public address")
        return public

    async def close(self) -> None:
        await self._resolver.close()


class GuardedClient:
    """One for all sessions; connections are opened at the first use."""

    def __init__(self, addresses: Addresses) -> None:
        self._addresses = addresses
        self._public: aiohttp.ClientSession | None = None
        self._trusted: aiohttp.ClientSession | None = None

    async def request(self, request: WebRequest) -> tuple[int, str]:
        """Return the status and the text of the answer, 64 KiB of it at most.

        A connection that fails, or a gateway's error, is tried once more within the time limit, with the same
        `Idempotency-Key`.

        Raises:
            ToolError: the address is not allowed, a secret is not set, or there is no answer.
        """
        try:
            url = URL(request.url)
        except ValueError:
            raise ToolError("the address is malformed") from None
        if not self._addresses.allows(url):
            raise ToolError("this address is not allowed by FASTAGENT_ALLOWED_HOSTS", kind="address not allowed")
        headers = {**request.headers, "Accept-Encoding": "identity"}
        if request.bearer_env is not None:
            token = os.environ.get(request.bearer_env)
            if not token:
                raise ToolError(f"{request.bearer_env} is not set", kind=f"{request.bearer_env} is not set")
            headers["Authorization"] = f"Bearer {token}"
        try:
            async with asyncio.timeout(request.timeout_s):
                for left in reversed(range(_TRIES)):
                    try:
                        status, text = await self._once(url, request, headers)
                    except (aiohttp.ClientConnectionError, OSError):
                        if not left:
                            raise
                    else:
                        if status not in _AGAIN or not left:
                            return status, text
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise ToolError("no answer in time", kind="timeout") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ToolError(
                f"the service cannot be reached: {type(error).__name__}", kind=type(error).__name__
            ) from error
        raise AssertionError("the last try returns or raises")

    async def _once(self, url: URL, request: WebRequest, headers: dict[str, str]) -> tuple[int, str]:
        session = self._session(trusted=self._addresses.trusts_origin(url))
        options: dict[str, Any] = {"headers": headers, "data": request.body, "allow_redirects": False}
        async with session.request(request.method, url.update_query(request.query), **options) as answer:
            if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise ToolError("the service answers compressed, unasked")
            body = await answer.content.read(_MAX_ANSWER)
            while len(body) < _MAX_ANSWER and (more := await answer.content.read(_MAX_ANSWER - len(body))):
                body += more
            return answer.status, body.decode("utf-8", "replace")

    def _session(self, *, trusted: bool) -> aiohttp.ClientSession:
        session = self._trusted if trusted else self._public
        if session is None:
            connector = aiohttp.TCPConnector(limit=64, resolver=None if trusted else _PublicOnly())
            session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
                auto_decompress=False,
                trust_env=False,
            )
            if trusted:
                self._trusted = session
            else:
                self._public = session
        return session

    async def aclose(self) -> None:
        """Close the connections; may be called twice."""
        for session in (self._public, self._trusted):
            if session is not None:
                await session.close()
        self._public = self._trusted = None
