"""The store of sessions: what must outlive a socket's process, as versioned JSON with an age limit.

Never awaited on the way of a call: a session hands its state in and goes on. One writer sends the latest state of each
session; a store that is away makes it try again, with nothing heard by the caller.
"""

import asyncio
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

_log = logging.getLogger(__name__)

_VERSION = 1
_PREFIX = "fastagent:session:"
_LIMIT_S = 0.25
_RETRY_S = 1.0
_LOOK_S = 2.0
_MAX_WAITING = 2000
_MAX_DOCUMENT = 512 * 1024
_TTL_S = 3600

Document = dict[str, Any]


class StoreError(Exception):
    """The store did not answer, or not in time; `kind` is a fixed word."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class Backend(Protocol):
    """Where documents are."""

    async def put(self, key: str, text: str, ttl_s: int) -> None:
        """Write; raises `StoreError`."""
        ...

    async def get(self, key: str) -> str | None:
        """Read; raises `StoreError`."""
        ...

    async def delete(self, key: str) -> None:
        """Forget; raises `StoreError`."""
        ...

    async def ping(self) -> None:
        """Raise `StoreError` where it is not there."""
        ...

    async def aclose(self) -> None:
        """Close connections."""
        ...


class MemoryBackend:
    """In this process: enough for a client that comes back, not for one that finds another process."""

    def __init__(self, *, limit: int = 1000, clock: Callable[[], float] = time.monotonic) -> None:
        self._documents: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._limit, self._clock = limit, clock

    async def put(self, key: str, text: str, ttl_s: int) -> None:
        """Write; the oldest is forgotten where there are too many."""
        self._documents.pop(key, None)
        self._documents[key] = (text, self._clock() + ttl_s)
        while len(self._documents) > self._limit:
            self._documents.popitem(last=False)

    async def get(self, key: str) -> str | None:
        """Read."""
        text, until = self._documents.get(key, (None, 0.0))
        return text if self._clock() < until else None

    async def delete(self, key: str) -> None:
        """Forget."""
        self._documents.pop(key, None)

    async def ping(self) -> None:
        """Always there."""

    async def aclose(self) -> None:
        """Forget everything."""
        self._documents.clear()


class RedisBackend:
    """One Redis, by its URL (passwords and TLS included). Every operation gives up after 250 ms."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: Any = None

    def _open(self) -> Any:
        if self._client is None:
            from redis.asyncio import Redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff

            self._client = Redis.from_url(
                self._url,
                socket_timeout=_LIMIT_S,
                socket_connect_timeout=_LIMIT_S,
                retry=Retry(NoBackoff(), 0),
                max_connections=16,
                decode_responses=True,
            )
        return self._client

    async def _do(self, operation: Callable[[Any], Any]) -> Any:
        from redis.exceptions import ReadOnlyError, RedisError, ResponseError

        try:
            async with asyncio.timeout(_LIMIT_S):
                return await operation(self._open())
        except TimeoutError:
            raise StoreError("timeout") from None
        except ReadOnlyError:
            raise StoreError("read_only") from None
        except ResponseError:
            raise StoreError("refused") from None
        except (RedisError, OSError, UnicodeError) as error:
            raise StoreError("timeout" if "imeout" in type(error).__name__ else "connection") from None

    async def put(self, key: str, text: str, ttl_s: int) -> None:
        """Write."""
        await self._do(lambda redis: redis.set(key, text, ex=ttl_s))

    async def get(self, key: str) -> str | None:
        """Read."""
        found: str | None = await self._do(lambda redis: redis.get(key))
        return found

    async def delete(self, key: str) -> None:
        """Forget."""
        await self._do(lambda redis: redis.delete(key))

    async def ping(self) -> None:
        """Raise `StoreError` where it is not there."""
        await self._do(lambda redis: redis.ping())

    async def aclose(self) -> None:
        """Close connections."""
        if self._client is not None:
            await self._client.aclose()


class SessionStore:
    """The latest state of every session, written behind.

    Args:
        on_error: told a fixed word for each operation that failed.
        on_time: told the seconds of each that did not.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        ttl_s: int = _TTL_S,
        on_error: Callable[[str], None] = lambda kind: None,
        on_time: Callable[[float], None] = lambda seconds: None,
        on_up: Callable[[int], None] = lambda up: None,
    ) -> None:
        self._backend, self._ttl_s = backend, ttl_s
        self._on_error, self._on_time, self._on_up = on_error, on_time, on_up
        self._waiting: OrderedDict[str, Document | None] = OrderedDict()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._writer: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None]
        self.up = True
        """Whether the last operation succeeded."""

    def start(self) -> None:
        """Begin writing, and looking whether the backend is there."""
        self._writer = asyncio.create_task(self._write(), name="store")
        self._watch = asyncio.create_task(self._look(), name="store-watch")

    async def _look(self) -> None:
        while True:
            try:
                await self._backend.ping()
                self._set_up(True)
            except StoreError as error:
                self._failed(error)
            await asyncio.sleep(_LOOK_S)

    def keep(self, session_id: str, document: Document) -> None:
        """Have the latest state of a session written; never waits."""
        self._put(session_id, document)

    def forget(self, session_id: str) -> None:
        """The session is over."""
        self._put(session_id, None)

    def _put(self, session_id: str, document: Document | None) -> None:
        self._waiting.pop(session_id, None)
        self._waiting[session_id] = document
        while len(self._waiting) > _MAX_WAITING:
            self._waiting.popitem(last=False)
            self._on_error("dropped")
        self._idle.clear()
        self._wake.set()

    async def recall(self, session_id: str) -> Document | None:
        """Return the latest state of a session; None where there is none, or the store is away.

        What is not ours, of another version, or damaged, is discarded and counted.
        """
        waiting = self._waiting.get(session_id)
        if waiting is not None:
            return waiting
        try:
            text = await self._backend.get(_PREFIX + session_id)
        except StoreError as error:
            self._failed(error)
            return None
        self._set_up(True)
        return None if text is None else self._checked(text)

    def _checked(self, text: str) -> Document | None:
        try:
            document = json.loads(text) if len(text) <= _MAX_DOCUMENT else None
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict) or document.get("version") != _VERSION:
            self._on_error("discarded")
            return None
        return document

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                session_id, document = self._waiting.popitem(last=False)
                try:
                    await self._write_one(session_id, document)
                except StoreError as error:
                    self._failed(error)
                    self._waiting.setdefault(session_id, document)
                    await asyncio.sleep(_RETRY_S)
                except (TypeError, ValueError):  # something in it is no JSON: a state's own affair
                    self._on_error("not_json")
                    _log.warning("a session cannot be stored: it holds what is no JSON")
            self._idle.set()

    async def _write_one(self, session_id: str, document: Document | None) -> None:
        began = time.monotonic()
        if document is None:
            await self._backend.delete(_PREFIX + session_id)
        else:
            text = json.dumps({"version": _VERSION, **document}, ensure_ascii=False)
            if len(text) > _MAX_DOCUMENT:
                self._on_error("too_large")
                return
            await self._backend.put(_PREFIX + session_id, text, self._ttl_s)
        self._on_time(time.monotonic() - began)
        self._set_up(True)

    def _failed(self, error: StoreError) -> None:
        self._on_error(error.kind)
        self._set_up(False, error.kind)

    def _set_up(self, up: bool, kind: str = "") -> None:
        if up is self.up:
            return
        self.up = up
        self._on_up(int(up))
        if up:
            _log.info("the session store is back")
        else:
            _log.warning("the session store does not answer", extra={"kind": kind})

    async def aclose(self, patience_s: float = 1.0) -> None:
        """Write what waits, within patience, and close."""
        if self._writer is not None:
            try:
                async with asyncio.timeout(patience_s):
                    await self._idle.wait()
            except TimeoutError:
                pass
            for task in (self._writer, self._watch):
                task.cancel()
            await asyncio.gather(self._writer, self._watch, return_exceptions=True)
        await self._backend.aclose()
