"""SIP over TCP and TLS: connections that were opened to us, and those that we open; all of them bounded.

A connection is known by its far end. One that we opened to a name is known by that name, too: whoever sends there
again finds it. One that a call lives on is never closed by us, however long nothing is said on it.
"""

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress

from fastagent.connectors.sip.actions import Address, Transport
from fastagent.connectors.sip.admission import site
from fastagent.connectors.sip.framer import PING, PONG, StreamFramer
from fastagent.connectors.sip.listener import Listener
from fastagent.connectors.sip.names import Names, Place
from fastagent.connectors.transports import abort

_log = logging.getLogger(__name__)

_MAX_ACCEPTED = 400
_MAX_PER_ADDRESS = 100
_MAX_OPENED = 200
_IDLE_S = 600.0
_FIRST_MESSAGE_S = 30.0  # until then a connection must have said something that is SIP
_CONNECT_S = 10.0
_HANDSHAKE_S = 5.0
_LEFT_S = 64.0  # a transaction takes 32 s, a 2xx as long again
_SWEEP_S = 10.0
_MAX_UNSENT = 256 * 1024  # bytes that the far end does not read
_MAX_WAITING = 64  # messages for a connection that is being opened

Received = Callable[[bytes, tuple[str, int], Transport], None]
Failed = Callable[[Address], None]


class _Connection(asyncio.Protocol):
    """One connection, ours or theirs."""

    def __init__(self, owner: "Connections", kind: Transport, peer: tuple[str, int], name: Address | None) -> None:
        self._owner, self.kind, self.peer = owner, kind, peer
        self.ours = name is not None
        self.names = [Address(*peer, kind)]
        if name is not None and name not in self.names:
            self.names.append(name)
        self._framer = StreamFramer()
        self.transport: asyncio.BaseTransport | None = None
        self.opened_at = self.heard_at = asyncio.get_running_loop().time()
        self.left_at: float | None = None
        """Since when its name has another."""
        self.handshake: asyncio.Task[None] | None = None
        self.spoken = False
        self._asked_at: float | None = None
        self._answers_pings = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        self.heard_at = asyncio.get_running_loop().time()
        self._answers_pings = self._answers_pings or (self._asked_at is not None and data == PONG)
        for message in self._framer.feed(data):
            self.spoken = self.spoken or message != PING
            self._owner.received(message, self.peer, self.kind)
        if self._framer.broken:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.closed(self)

    def write(self, data: bytes) -> None:
        """Send; who does not read is cut off, and who has answered keep-alives and does no longer (RFC 5626, 4.4.1)."""
        write = getattr(self.transport, "write", None)
        unsent = getattr(self.transport, "get_write_buffer_size", lambda: 0)
        if write is None:
            return
        if data == PING:
            if self._answers_pings and self._asked_at is not None and self.heard_at < self._asked_at:
                abort(self.transport)
                return
            self._asked_at = asyncio.get_running_loop().time()
        write(data)
        self._owner.sent(data, self.names[0])
        if unsent() > _MAX_UNSENT:
            abort(self.transport)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        if self.transport is not None:
            abort(self.transport)
        elif self.handshake is not None:
            self.handshake.cancel()


class Connections:
    """All connections of a gateway. Those of one /64 of IPv6 count as those of one address.

    Args:
        received: told of each message.
        failed: told of a place that cannot be reached, or whose connection is gone.
        client_tls: how we verify servers that we connect to.
        names: where names are.
        kept: the places that calls and registrations live on, as of now.
        sent: told of each message that is written.
    """

    def __init__(
        self,
        received: Received,
        failed: Failed,
        client_tls: Callable[[], ssl.SSLContext],
        names: Names,
        kept: Callable[[], Collection[Address]],
        sent: Callable[[bytes, Address], None],
    ) -> None:
        self.received, self._failed, self._client_tls, self._names = received, failed, client_tls, names
        self._kept, self.sent = kept, sent
        self._all: dict[Address, _Connection] = {}
        self._accepted: dict[_Connection, None] = {}
        """Those opened to us, from the moment that they are accepted; the oldest first."""
        self._per_address: Counter[str] = Counter()
        self._opened: set[_Connection] = set()
        self._opening: dict[Address, list[tuple[bytes, str]]] = {}
        self._listeners: list[Listener] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closing = False

    def __len__(self) -> int:
        return len(self._accepted) + len(self._opened)

    def _do(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- opened to us ----------------------------------------------------------------------------------------------

    def listen(self, host: str, port: int, kind: Transport, tls: ssl.SSLContext | None = None) -> Listener:
        """Listen.

        Raises:
            OSError: the port is taken.
        """
        if self._sweeper is None:
            self._sweep()
        listener = Listener(host, port, lambda one, peer: self._accept(one, peer, kind, tls))
        self._listeners.append(listener)
        return listener

    def _accept(self, one: socket.socket, peer: tuple[str, int], kind: Transport, tls: ssl.SSLContext | None) -> None:
        """Take a connection, counted before its handshake. Where there are too many, the one that was silent longest
        goes, unless it carries a call."""
        if self._closing or self._per_address[site(peer[0])] >= _MAX_PER_ADDRESS or not self._make_room():
            one.close()
            return
        connection = _Connection(self, kind, peer, None)
        self._accepted[connection] = None
        self._per_address[site(peer[0])] += 1
        connection.handshake = self._do(self._welcome(one, connection, tls), "sip-accept")
        connection.handshake.add_done_callback(lambda task: self._welcomed(one, connection))

    def _make_room(self) -> bool:
        if len(self._accepted) < _MAX_ACCEPTED:
            return True
        kept = set(self._kept())
        idle = [one for one in self._accepted if kept.isdisjoint(one.names)]
        if not idle:
            return False
        longest = min(idle, key=lambda one: (one.spoken, one.heard_at))
        longest.abort()
        self._left(longest)
        return True

    async def _welcome(self, one: socket.socket, connection: _Connection, tls: ssl.SSLContext | None) -> None:
        loop, patience = asyncio.get_running_loop(), _HANDSHAKE_S if tls is not None else None
        with suppress(OSError):
            await loop.connect_accepted_socket(lambda: connection, one, ssl=tls, ssl_handshake_timeout=patience)

    def _welcomed(self, one: socket.socket, connection: _Connection) -> None:
        """The handshake is over; where it came to nothing, also since it was not even begun, all is given back."""
        if connection.transport is None:
            one.close()
            self._left(connection)

    def _left(self, connection: _Connection) -> None:
        """It does not count any longer."""
        if connection in self._accepted:
            del self._accepted[connection]
            where = site(connection.peer[0])
            self._per_address[where] -= 1
            if not self._per_address[where]:
                del self._per_address[where]

    # -- what connections tell -------------------------------------------------------------------------------------

    def opened(self, connection: _Connection) -> None:
        """A connection is there."""
        if self._closing:
            connection.abort()
            return
        if connection.ours:
            self._opened.add(connection)
        for name in connection.names:
            self._all[name] = connection

    def closed(self, connection: _Connection) -> None:
        """A connection is gone: what waits for an answer on it waits in vain."""
        self._left(connection)
        self._opened.discard(connection)
        for name in connection.names:
            if self._all.get(name) is connection:  # or it was left, and the name has another by now, or will have
                del self._all[name]
        if not self._closing:
            self._failed(connection.names[0])

    def _sweep(self) -> None:
        """Close connections on which nothing was said for long, or never anything that is SIP, and those that were left
        when what was under way on them is over."""
        loop = asyncio.get_running_loop()
        now, kept = loop.time(), set(self._kept())
        for one in (*self._accepted, *self._opened):
            mute = not one.spoken and now - one.opened_at > _FIRST_MESSAGE_S
            left = one.left_at is not None and now - one.left_at > _LEFT_S
            if mute or ((left or now - one.heard_at > _IDLE_S) and kept.isdisjoint(one.names[: 1 if left else 2])):
                one.close()
        self._sweeper = loop.call_later(_SWEEP_S, self._sweep)

    # -- sending ---------------------------------------------------------------------------------------------------

    def has(self, to: Address) -> bool:
        """Whether there is a connection."""
        return to in self._all

    def send(self, data: bytes, to: Address, key: str = "") -> None:
        """Send; a connection that is not there is opened first, and more for it waits until it is."""
        connection = self._all.get(to)
        if connection is not None:
            self._names.pin(key, Place(*connection.peer))
            connection.write(data)
            return
        waiting = self._opening.get(to)
        if waiting is not None:
            if len(waiting) < _MAX_WAITING:
                waiting.append((data, key))
        elif len(self._opened) + len(self._opening) >= _MAX_OPENED:
            asyncio.get_running_loop().call_soon(self._failed, to)
        else:
            self._opening[to] = [(data, key)]
            self._do(self._open(to), "sip-connect")

    def leave(self, to: Address, place: Place) -> None:
        """Have the next message to a name open a connection anew, if it has one to this server: that is passed over."""
        connection = self._all.get(to)
        if connection is not None and to != connection.names[0] and connection.peer == (place.host, place.port):
            connection.left_at = asyncio.get_running_loop().time()
            del self._all[to]

    async def _open(self, to: Address) -> None:
        connection: _Connection | None = None
        try:
            connection = await self._connected(to)
        except (OSError, TimeoutError, UnicodeError) as error:
            reason = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else type(error).__name__
            _log.warning("no SIP connection", extra={"transport": to.transport, "error": reason})
        finally:
            waiting = self._opening.pop(to, [])
        if connection is None:
            self._failed(to)
            return
        connection.spoken = True  # it was us who wanted it
        for data, key in waiting:
            self._names.pin(key, Place(*connection.peer))
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
                lambda: _Connection(self, to.transport, (place.host, place.port), to),
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
        for listener in self._listeners:
            await listener.aclose()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in (*self._accepted, *self._opened):
            connection.close()
