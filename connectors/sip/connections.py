"""SIP over TCP and TLS: connections that were opened to us, and those that we open; all of them bounded.

A connection is known by its far end. One that we opened to a name is known by that name, too: whoever sends there
again finds it.
"""

import asyncio
import logging
import ssl
from collections import Counter
from collections.abc import Callable

from fastagent.connectors.sip.actions import Address, Transport
from fastagent.connectors.sip.framer import PING, StreamFramer
from fastagent.connectors.sip.names import Names, Place
from fastagent.connectors.transports import abort

_log = logging.getLogger(__name__)

_MAX_CONNECTIONS = 200
_MAX_PER_ADDRESS = 50
_IDLE_S = 600.0
_FIRST_MESSAGE_S = 30.0  # until then a connection must have said something that is SIP
_CONNECT_S = 10.0
_SWEEP_S = 10.0
_MAX_UNSENT = 256 * 1024  # bytes that the far end does not read
_MAX_WAITING = 64  # messages for a connection that is being opened

Received = Callable[[bytes, tuple[str, int], Transport], None]
Failed = Callable[[Address], None]


class _Connection(asyncio.Protocol):
    """One connection, ours or theirs."""

    def __init__(self, owner: "Connections", kind: Transport, names: tuple[Address, ...] = ()) -> None:
        self._owner, self.kind = owner, kind
        self.names = names
        self._framer = StreamFramer()
        self.transport: asyncio.BaseTransport | None = None
        self.peer = ("", 0)
        self.opened_at = self.heard_at = 0.0
        self.spoken = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.opened_at = self.heard_at = asyncio.get_running_loop().time()
        name = transport.get_extra_info("peername") or ("", 0)
        self.peer = (name[0], name[1])
        self.names = (*self.names, Address(*self.peer, self.kind))
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        self.heard_at = asyncio.get_running_loop().time()
        for message in self._framer.feed(data):
            self.spoken = self.spoken or message != PING
            self._owner.received(message, self.peer, self.kind)
        if self._framer.broken:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.closed(self)

    def write(self, data: bytes) -> None:
        """Send; who does not read is cut off."""
        write = getattr(self.transport, "write", None)
        unsent = getattr(self.transport, "get_write_buffer_size", lambda: 0)
        if write is not None:
            write(data)
            if unsent() > _MAX_UNSENT:
                abort(self.transport)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()


class Connections:
    """All connections of a gateway.

    Args:
        received: told of each message.
        failed: told of a place that cannot be reached, or whose connection is gone.
        client_tls: how we verify servers that we connect to.
        names: where names are.
    """

    def __init__(
        self, received: Received, failed: Failed, client_tls: Callable[[], ssl.SSLContext], names: Names
    ) -> None:
        self.received, self._failed, self._client_tls, self._names = received, failed, client_tls, names
        self._all: dict[Address, _Connection] = {}
        self._per_address: Counter[str] = Counter()
        self._opening: dict[Address, list[bytes]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closing = False

    def __len__(self) -> int:
        return sum(self._per_address.values())

    async def listen(self, host: str, port: int, kind: Transport, tls: ssl.SSLContext | None = None) -> asyncio.Server:
        """Listen.

        Raises:
            OSError: the port is taken.
        """
        loop = asyncio.get_running_loop()
        if self._sweeper is None:
            self._sweep()
        return await loop.create_server(lambda: _Connection(self, kind), host, port, ssl=tls)

    # -- what connections tell -------------------------------------------------------------------------------------

    def opened(self, connection: _Connection) -> None:
        """A connection is there."""
        host = connection.peer[0]
        self._per_address[host] += 1
        if len(self) > _MAX_CONNECTIONS or self._per_address[host] > _MAX_PER_ADDRESS or self._closing:
            abort(connection.transport)
            return
        for name in connection.names:
            self._all[name] = connection

    def closed(self, connection: _Connection) -> None:
        """A connection is gone: what waits for an answer on it waits in vain."""
        host = connection.peer[0]
        self._per_address[host] -= 1
        if not self._per_address[host]:
            del self._per_address[host]
        for name in connection.names:
            if self._all.get(name) is connection:
                del self._all[name]
                if not self._closing:
                    self._failed(name)

    def _sweep(self) -> None:
        """Close connections on which nothing was said for long, or never anything that is SIP."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for one in set(self._all.values()):
            mute = not one.spoken and now - one.opened_at > _FIRST_MESSAGE_S
            if mute or now - one.heard_at > _IDLE_S:
                one.close()
        self._sweeper = loop.call_later(_SWEEP_S, self._sweep)

    # -- sending ---------------------------------------------------------------------------------------------------

    def send(self, data: bytes, to: Address) -> None:
        """Send; a connection that is not there is opened first, and more for it waits until it is."""
        connection = self._all.get(to)
        if connection is not None:
            connection.write(data)
            return
        waiting = self._opening.get(to)
        if waiting is None:
            self._opening[to] = [data]
            task = asyncio.create_task(self._open(to), name="sip-connect")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif len(waiting) < _MAX_WAITING:
            waiting.append(data)

    async def _open(self, to: Address) -> None:
        try:
            connection = await self._connected(to)
        except (OSError, TimeoutError, UnicodeError) as error:
            reason = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else type(error).__name__
            _log.warning("no SIP connection", extra={"transport": to.transport, "error": reason})
            self._failed(to)
            return
        finally:
            waiting = self._opening.pop(to, [])
        connection.spoken = True  # it was us who wanted it
        for data in waiting:
            connection.write(data)

    async def _connected(self, to: Address) -> _Connection:
        """Connect to the first of a name's servers that takes us. A certificate must be the name's (RFC 5922)."""
        places = await self._names.find(to)
        tls = self._client_tls() if to.transport == "tls" else None
        for place in places[:-1]:
            try:
                return await self._connect(to, place, tls)
            except (OSError, TimeoutError):
                self._names.avoid(to, place)
        return await self._connect(to, places[-1], tls)

    async def _connect(self, to: Address, place: Place, tls: ssl.SSLContext | None) -> _Connection:
        async with asyncio.timeout(_CONNECT_S):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self, to.transport, (to,)),
                place.host,
                place.port,
                ssl=tls,
                server_hostname=to.host if tls is not None else None,
            )
        return connection

    async def aclose(self) -> None:
        """Close everything; may be called twice."""
        self._closing = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in set(self._all.values()):
            connection.close()
