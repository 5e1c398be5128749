"""The store of sessions: what must outlive a socket's process, as versioned JSON with an age limit.

Never awaited on the way of a call: a session hands its state in and goes on. One writer sends the latest state of each
session; a store that is away makes it try again, with nothing heard by the caller.

Two processes may hold one session, when its client was cut off from the first and has gone on at the second. So each
takes a `Claim`, and every document says by whose claim it was written:

    {"version": 1, "epoch": 2, "holder": "9f2c...", ...}

Who goes on with a stored session claims the epoch after the stored one. A write is done only if the place is empty, of
an older epoch, or the writer's own; Redis compares and writes in one step. The newer claim wins; the older one notices
at its next write, and its session ends.
"""

import asyncio
import json
import logging
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

_log = logging.getLogger(__name__)

_VERSION = 1
_PREFIX = "fastagent:session:"
_LIMIT_S = 0.25
_RETRY_S = 1.0
_LAST_RETRY_S = 0.1
_LOOK_S = 2.0
_RECALLS = 3
_MAX_WAITING = 2000
_MAX_DOCUMENT = 512 * 1024
_MAX_EPOCH = 1 << 50
_TTL_S = 3600

Document = dict[str, Any]
Answer = TypeVar("Answer")


class StoreError(Exception):
    """The store did not answer, or not in time; `kind` is a fixed word."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


@dataclass(slots=True, eq=False)
class Claim:
    """One session's right to its place in the store."""

    session_id: str
    epoch: int
    holder: str
    on_lost: Callable[[], None]
    latest: Document | None = None
    held: bool = False
    """Whether something was written by it."""
    safe: bool = False
    """Whether the store has taken something of it since it was away last."""
    over: bool = False
    """Whether nothing more is to be written: the session has ended, or the place is another's."""


class Backend(Protocol):
    """Where documents are."""

    async def write(self, key: str, claim: Claim, data: bytes | None, ttl_s: int) -> bool:
        """Write, or forget where there is no data; False: the place is another's. Raises `StoreError`."""
        ...

    async def read(self, key: str) -> bytes | None:
        """Read; raises `StoreError`."""
        ...

    async def ping(self) -> None:
        """Raise `StoreError` where it is not there."""
        ...

    async def aclose(self) -> None:
        """Close connections."""
        ...


class MemoryBackend:
    """In this process: enough for a client that comes back, not for one that finds another process."""

    def __init__(self, *, limit: int = 1000, clock: Callable[[], float] | None = None) -> None:
        self._documents: OrderedDict[str, tuple[bytes, float, int, str]] = OrderedDict()
        self._limit = limit
        self._clock = clock or (lambda: asyncio.get_running_loop().time())

    async def write(self, key: str, claim: Claim, data: bytes | None, ttl_s: int) -> bool:
        """Write; the oldest is forgotten where there are too many."""
        _, until, epoch, holder = self._documents.get(key, (b"", 0.0, 0, ""))
        if self._clock() < until and (epoch > claim.epoch or (epoch == claim.epoch and holder != claim.holder)):
            return False
        self._documents.pop(key, None)
        if data is not None:
            self._documents[key] = (data, self._clock() + ttl_s, claim.epoch, claim.holder)
        while len(self._documents) > self._limit:
            self._documents.popitem(last=False)
        return True

    async def read(self, key: str) -> bytes | None:
        """Read."""
        data, until, *_ = self._documents.get(key, (None, 0.0))
        return data if self._clock() < until else None

    async def ping(self) -> None:
        """Always there."""

    async def aclose(self) -> None:
        """Forget everything."""
        self._documents.clear()


# The head of a document is enough to know whose it is; what has another one is none of ours, and gives way.
_WRITE = """
local head = redis.pcall('GETRANGE', KEYS[1], 0, 127)
if type(head) == 'string' then
    local epoch, holder = string.match(head, '^{"version": %d+, "epoch": (%d+), "holder": "(%x+)"')
    if epoch then
        local ahead = tonumber(epoch) - tonumber(ARGV[1])
        if ahead > 0 or (ahead == 0 and holder ~= ARGV[2]) then return 0 end
    end
end
if ARGV[3] == '' then redis.call('DEL', KEYS[1])
else redis.call('SET', KEYS[1], ARGV[3], 'EX', ARGV[4]) end
return 1
"""


class RedisBackend:
    """One Redis, by its URL (passwords and TLS included).

    Raises:
        ValueError: the URL is none.
    """

    def __init__(self, url: str) -> None:
        # Loading it takes a third of a second: now, and not when the first operation must be quick.
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        try:
            pool = BlockingConnectionPool.from_url(
                url,
                socket_timeout=_LIMIT_S,
                socket_connect_timeout=_LIMIT_S,
                retry=Retry(NoBackoff(), 0),
                max_connections=16,
                timeout=_LIMIT_S,
                protocol=2,
            )
            pool.connection_class(**pool.connection_kwargs)
        except (TypeError, ValueError, AttributeError):  # whose text may hold the password
            raise ValueError("REDIS_URL is no redis://, rediss:// or unix:// URL with known options") from None
        self._redis: Any = Redis.from_pool(pool)

    async def _do(self, operation: Awaitable[Answer]) -> Answer:
        from redis import exceptions

        try:
            return await operation
        except TimeoutError:
            raise StoreError("timeout") from None
        except exceptions.AuthenticationError:
            raise StoreError("auth") from None
        except exceptions.ReadOnlyError:
            raise StoreError("read_only") from None
        except exceptions.OutOfMemoryError:
            raise StoreError("full") from None
        except exceptions.ResponseError as error:
            raise StoreError("wrong_type" if str(error).startswith("WRONGTYPE") else "refused") from None
        except (exceptions.RedisError, OSError) as error:
            raise StoreError("timeout" if isinstance(error, exceptions.TimeoutError) else "connection") from None
        except Exception:  # a client whose connection is cut under it may stumble over itself
            _log.exception("the Redis client has failed")
            raise StoreError("client") from None

    async def write(self, key: str, claim: Claim, data: bytes | None, ttl_s: int) -> bool:
        """Compare, and write."""
        return bool(
            await self._do(self._redis.eval(_WRITE, 1, key, claim.epoch, claim.holder, data or b"", max(1, ttl_s)))
        )

    async def read(self, key: str) -> bytes | None:
        """Read."""
        try:
            found: bytes | None = await self._do(self._redis.get(key))
        except StoreError as error:
            if error.kind != "wrong_type":
                raise
            return b""
        return found

    async def ping(self) -> None:
        """Raise `StoreError` where it is not there."""
        await self._do(self._redis.ping())

    async def aclose(self) -> None:
        """Close connections."""
        await self._do(self._redis.aclose())


class SessionStore:
    """The latest state of every session, written behind. Every operation gives up after 250 ms.

    Args:
        on_error: told a fixed word for each operation that failed.
        on_time: told the seconds of each that did not.
        on_up: told 1 when the store is there again, 0 when it is not.
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
        self._claims: set[Claim] = set()
        self._waiting: OrderedDict[str, tuple[Claim, Document | None]] = OrderedDict()
        self._failing: set[str] = set()
        self._wake, self._closing = asyncio.Event(), asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks: list[asyncio.Task[None]] = []
        self.up = True
        """Whether the last operations succeeded."""

    def start(self) -> None:
        """Begin writing, and looking whether the backend is there."""
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._write(), name="store"),
                asyncio.create_task(self._look(), name="store-watch"),
            ]

    async def check(self) -> None:
        """Raise `StoreError` where the store does not answer."""
        await self._ask(self._backend.ping())

    async def _ask(self, operation: Awaitable[Answer]) -> Answer:
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(_LIMIT_S):
                answer = await operation
        except TimeoutError:
            raise StoreError("timeout") from None
        self._on_time(asyncio.get_running_loop().time() - began)
        return answer

    async def _look(self) -> None:
        while True:
            try:
                await self.check()
                self._answered()
            except StoreError as error:
                self._failed(error)
            await asyncio.sleep(_LOOK_S)

    # -- what sessions do ------------------------------------------------------------------------------------------

    def claim(self, session_id: str, *, epoch: int = 1, on_lost: Callable[[], None] = lambda: None) -> Claim:
        """Return the right to keep a session: of epoch 1 for a new one, of the next epoch for a recalled one.

        `on_lost` is called, once, when another process has gone on with the session.
        """
        claim = Claim(session_id, epoch, secrets.token_hex(8), on_lost)
        self._claims.add(claim)
        return claim

    def keep(self, claim: Claim, describe: Callable[[], Document]) -> None:
        """Have the latest state of a session written; never waits, never raises.

        A state that cannot be described is the agent's own affair; what is stored of an older one is forgotten then.
        """
        if claim.over:
            return
        try:
            document = describe()
        except Exception:
            self._unfit(claim, "not_json")
            document = None
        claim.latest = document
        self._put(claim, document)

    def forget(self, claim: Claim) -> None:
        """The session is over."""
        if not claim.over:
            self.leave(claim)
            self._put(claim, None)

    def leave(self, claim: Claim) -> None:
        """The session is over here, and may go on elsewhere: nothing more is written of it but what waits."""
        claim.over, claim.latest = True, None
        self._claims.discard(claim)

    def _put(self, claim: Claim, document: Document | None) -> None:
        other = self._waiting.get(claim.session_id)
        if other is not None and other[0].epoch > claim.epoch:
            return
        self._waiting.pop(claim.session_id, None)
        self._waiting[claim.session_id] = (claim, document)
        while len(self._waiting) > _MAX_WAITING:
            dropped, _ = self._waiting.popitem(last=False)
            self._failing.discard(dropped)
            self._on_error("dropped")
        self._idle.clear()
        self._wake.set()

    async def recall(self, session_id: str) -> Document | None:
        """Return the latest state of a session, `epoch` in it; None where there is none, or the store is away.

        What is not ours, of another version, or damaged, is discarded and counted.
        """
        for _ in range(_RECALLS):
            if session_id in self._waiting:
                claim, document = self._waiting[session_id]
                return None if document is None else {**document, "epoch": claim.epoch}
            try:
                data = await self._ask(self._backend.read(_PREFIX + session_id))
            except StoreError as error:
                self._failed(error)
                continue
            self._answered()
            return None if data is None else self._checked(data)
        return None

    def _checked(self, data: bytes) -> Document | None:
        try:
            document = json.loads(data.decode()) if len(data) <= _MAX_DOCUMENT else None
        except (ValueError, RecursionError):
            document = None
        if isinstance(document, dict) and type(document.get("version")) is int and document["version"] == _VERSION:
            epoch = document.get("epoch")
            if type(epoch) is int and 0 < epoch < _MAX_EPOCH:
                return document
        self._on_error("discarded")
        return None

    # -- the writer ------------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                session_id, entry = next(iter(self._waiting.items()))
                try:
                    await self._write_one(*entry)
                except StoreError as error:
                    self._failing.add(session_id)
                    self._failed(error)
                    if session_id in self._waiting:
                        self._waiting.move_to_end(session_id)
                    else:  # dropped meanwhile
                        self._failing.discard(session_id)
                    await self._pause()
                    continue
                if self._waiting.get(session_id) is entry:
                    del self._waiting[session_id]
                self._failing.discard(session_id)
                self._answered()
            self._idle.set()

    async def _pause(self) -> None:
        """Wait before the next try; not for long where that may be the last one."""
        try:
            async with asyncio.timeout(_RETRY_S):
                await self._closing.wait()
        except TimeoutError:
            return
        await asyncio.sleep(_LAST_RETRY_S)

    async def _write_one(self, claim: Claim, document: Document | None) -> None:
        data = None if document is None else self._encoded(claim, document)
        done = await self._ask(self._backend.write(_PREFIX + claim.session_id, claim, data, self._ttl_s))
        if done:
            claim.held = claim.safe = True
        elif document is not None:
            self._lost(claim)

    def _encoded(self, claim: Claim, document: Document) -> bytes | None:
        """Return a document as JSON; None where that cannot be: better nothing is found than an older state."""
        head = {"version": _VERSION, "epoch": claim.epoch, "holder": claim.holder}
        try:
            data = json.dumps({**head, **document, **head}, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError):
            self._unfit(claim, "not_json")
            return None
        if len(data) > _MAX_DOCUMENT:
            self._unfit(claim, "too_large")
            return None
        return data

    def _unfit(self, claim: Claim, kind: str) -> None:
        self._on_error(kind)
        _log.warning("a session cannot be stored", extra={"session_id": claim.session_id, "kind": kind})

    def _lost(self, claim: Claim) -> None:
        self._on_error("superseded")
        over = claim.over
        self.leave(claim)
        taken = claim.held or claim.epoch > 1
        text = "a session goes on elsewhere" if taken else "a session is not stored: its id is in use elsewhere"
        _log.warning(text, extra={"session_id": claim.session_id})
        if taken and not over:
            asyncio.get_running_loop().call_soon(claim.on_lost)

    # -- whether it is there ---------------------------------------------------------------------------------------

    def _failed(self, error: StoreError) -> None:
        self._on_error(error.kind)
        if self.up:
            self.up = False
            for claim in self._claims:
                claim.safe = False
            self._on_up(0)
            _log.warning("the session store does not answer", extra={"kind": error.kind})

    def _answered(self) -> None:
        """It is there again only when it takes what it did not take: one that is full, or read-only, answers a ping."""
        if self.up or self._failing:
            return
        self.up = True
        self._on_up(1)
        _log.info("the session store is back")
        for claim in self._claims:  # it may have come back empty
            if not claim.safe and claim.latest is not None and claim.session_id not in self._waiting:
                self._put(claim, claim.latest)

    async def aclose(self, patience_s: float = 1.0) -> None:
        """Write what waits, within patience, and close; may be called twice."""
        if self._tasks:
            self._closing.set()
            try:
                async with asyncio.timeout(patience_s):
                    await self._idle.wait()
            except TimeoutError:
                _log.warning("sessions were not stored", extra={"count": len(self._waiting)})
            pending = set(self._tasks)
            while pending:  # once is not enough: the Redis client takes a cancellation for a timeout of its own
                for task in pending:
                    task.cancel()
                _, pending = await asyncio.wait(pending, timeout=_LIMIT_S)
            self._tasks = []
            self._closing.clear()
        try:
            await self._ask(self._backend.aclose())
        except StoreError as error:
            self._on_error(error.kind)
