"""The shell's sockets: one UDP port, one TCP port, one TLS port; bytes to the core, bytes from it."""

import asyncio
import ipaddress
import logging
import socket
import ssl
from collections.abc import Callable, Coroutine
from typing import Any

from fastagent.connectors.sip.actions import Address, Transport
from fastagent.connectors.sip.framer import StreamFramer
from fastagent.connectors.transports import abort

_log = logging.getLogger(__name__)

_MAX_CONNECTIONS = 200
_IDLE_S = 600.0
_CONNECT_S = 10.0
_KEEP_ALIVE = b"\r\n\r\n"

Received = Callable[[bytes, tuple[str, int], Transport], None]
Failed = Callable[[Address], None]


def is_address(host: str) -> bool:
    """Whether a host is a numeric address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, received: Received) -> None:
        self._received = received

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._received(data, (addr[0], addr[1]), "udp")

    def error_received(self, exc: Exception) -> None:
        """An ICMP error: the transaction's own timer notices."""


class _Connection(asyncio.Protocol):
    def __init__(self, owner: "Transports", kind: Transport) -> None:
        self._owner, self._kind = owner, kind
        self._framer = StreamFramer()
        self.transport: asyncio.BaseTransport | None = None
        self.peer = ("", 0)
        self.heard_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.heard_at = asyncio.get_running_loop().time()
        name = transport.get_extra_info("peername") or ("", 0)
        self.peer = (name[0], name[1])
        self._owner.opened(self, self._kind)

    def data_received(self, data: bytes) -> None:
        self.heard_at = asyncio.get_running_loop().time()
        if data == _KEEP_ALIVE:
            self.write(b"\r\n")
            return
        for message in self._framer.feed(data):
            self._owner.received(message, self.peer, self._kind)
        if self._framer.broken:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.closed(self, self._kind)

    def write(self, data: bytes) -> None:
        write = getattr(self.transport, "write", None)
        if write is not None:
            write(data)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()


class Transports:
    """All of a gateway's SIP sockets."""

    def __init__(self, received: Received, failed: Failed) -> None:
        self.received, self._failed = received, failed
        self._datagrams: asyncio.DatagramTransport | None = None
        self._servers: list[asyncio.Server] = []
        self._connections: dict[tuple[Transport, str, int], _Connection] = {}
        self._opening: set[asyncio.Task[None]] = set()
        self.ports: dict[Transport, int] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._tls: ssl.SSLContext | None = None

    async def open(
        self, host: str, port: int, *, tls_port: int | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        """Listen; port 0 takes a free one, the same for UDP and TCP.

        Raises:
            OSError: a port is taken.
        """
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(lambda: _Connection(self, "tcp"), host, port)
            self._servers.append(server)
            port = server.sockets[0].getsockname()[1]
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._datagrams, _ = await loop.create_datagram_endpoint(
                lambda: _Datagrams(self.received), (host, port), family=family
            )
            self.ports = {"udp": port, "tcp": port}
            if tls is not None and tls_port is not None:
                secure = await loop.create_server(lambda: _Connection(self, "tls"), host, tls_port, ssl=tls)
                self._servers.append(secure)
                self.ports["tls"] = secure.sockets[0].getsockname()[1]
        except OSError:
            await self.aclose()
            raise
        self._sweep()

    def opened(self, connection: _Connection, kind: Transport) -> None:
        """A connection is there, ours or theirs."""
        if len(self._connections) >= _MAX_CONNECTIONS:
            abort(connection.transport)
            return
        self._connections[kind, *connection.peer] = connection

    def closed(self, connection: _Connection, kind: Transport) -> None:
        """A connection is gone."""
        if self._connections.get((kind, *connection.peer)) is connection:
            del self._connections[kind, *connection.peer]

    def _sweep(self) -> None:
        """Close connections on which nothing was said for long."""
        loop = asyncio.get_running_loop()
        for one in tuple(self._connections.values()):
            if loop.time() - one.heard_at > _IDLE_S:
                one.close()
        self._sweeper = loop.call_later(60.0, self._sweep)

    def send(self, data: bytes, to: Address) -> None:
        """Send; a connection that is not there is opened first."""
        if to.transport == "udp":
            if self._datagrams is None:
                return
            if is_address(to.host):
                self._datagrams.sendto(data, (to.host, to.port))
            else:
                self._later(self._resolve_and_send(data, to))
            return
        connection = self._connections.get((to.transport, to.host, to.port))
        if connection is not None:
            connection.write(data)
            return
        self._later(self._open_and_send(data, to))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="sip-send")
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _resolve_and_send(self, data: bytes, to: Address) -> None:
        """A socket would resolve a name itself, and stop everything meanwhile."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_S):
                found = await loop.getaddrinfo(to.host, to.port, type=socket.SOCK_DGRAM)
        except (OSError, TimeoutError, UnicodeError):
            self._failed(to)
            return
        if self._datagrams is not None and found:
            self._datagrams.sendto(data, found[0][4][:2])

    async def _open_and_send(self, data: bytes, to: Address) -> None:
        loop = asyncio.get_running_loop()
        context = ssl.create_default_context() if to.transport == "tls" else None
        try:
            async with asyncio.timeout(_CONNECT_S):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self, to.transport), to.host, to.port, ssl=context
                )
        except (OSError, TimeoutError) as error:
            _log.warning("no SIP connection", extra={"error": type(error).__name__})
            self._failed(to)
            return
        self._connections[to.transport, to.host, to.port] = connection
        connection.write(data)

    async def aclose(self) -> None:
        """Close everything; may be called twice."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for task in tuple(self._opening):
            task.cancel()
        for server in self._servers:
            server.close()
        for connection in tuple(self._connections.values()):
            connection.close()
        if self._datagrams is not None:
            self._datagrams.close()
        self._servers.clear()
