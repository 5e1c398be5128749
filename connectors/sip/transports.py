"""The shell's sockets: one UDP port, one TCP port, one TLS port; bytes to the core, bytes from it."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Collection

from fastagent.connectors.sip.actions import Address, Transport
from fastagent.connectors.sip.connections import Connections, Failed, Received
from fastagent.connectors.sip.names import Names, Place
from fastagent.connectors.sip.trace import Trace

_MAX_WAITING = 64  # datagrams for one name, and names
_TRIES = 20


def _no_tls() -> ssl.SSLContext:
    return ssl.create_default_context()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, received: Received) -> None:
        self._received = received

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._received(data, (addr[0], addr[1]), "udp")

    def error_received(self, exc: Exception) -> None:
        """An ICMP error: the transaction's own timer notices."""


class Transports:
    """All of a gateway's SIP sockets.

    Args:
        received: told of each message.
        failed: told of a place that cannot be reached.
        names: where names are.
        client_tls: how we verify TLS servers; by the system's authorities, if not given.
        kept: the places whose connections are never closed for silence.
        trace: told of every message, when it comes and when it goes.
    """

    def __init__(
        self,
        received: Received,
        failed: Failed,
        names: Names,
        *,
        client_tls: Callable[[], ssl.SSLContext] = _no_tls,
        kept: Callable[[], Collection[Address]] = tuple,
        trace: Trace | None = None,
    ) -> None:
        self._told, self._failed, self._names, self._trace = received, failed, names, trace
        self._connections = Connections(self._received, failed, client_tls, names, kept, self._sent)
        self._datagrams: asyncio.DatagramTransport | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: dict[Address, list[tuple[bytes, str]]] = {}
        self.ports: dict[Transport, int] = {}

    def _received(self, data: bytes, source: tuple[str, int], transport: Transport) -> None:
        if self._trace is not None:
            self._trace.received(data, Address(*source, transport), asyncio.get_running_loop().time())
        self._told(data, source, transport)

    def _sent(self, data: bytes, to: Address) -> None:
        if self._trace is not None:
            self._trace.sent(data, to, asyncio.get_running_loop().time())

    async def open(
        self, host: str, port: int, *, tls_port: int | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        """Listen; port 0 takes a free one, the same for UDP and TCP.

        Raises:
            OSError: a port is taken.
        """
        try:
            port = await self._open_both(host, port)
            self.ports = {"udp": port, "tcp": port}
            if tls is not None and tls_port is not None:
                self.ports["tls"] = self._connections.listen(host, tls_port, "tls", tls).port
        except OSError:
            await self.aclose()
            raise

    async def _open_both(self, host: str, port: int) -> int:
        """Listen on UDP and TCP; return the port. A free one of TCP may be somebody's of UDP: then take another."""
        tries = _TRIES if port == 0 else 1
        while True:
            tries -= 1
            listener = self._connections.listen(host, port, "tcp")
            try:
                bound = self._bound(host, listener.port)
            except OSError:
                await listener.aclose()
                if not tries:
                    raise
                continue
            self._datagrams, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: _Datagrams(self._received), sock=bound
            )
            return listener.port

    def _bound(self, host: str, port: int) -> socket.socket:
        ipv6 = ":" in host
        one = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            one.setblocking(False)
            if ipv6:  # as asyncio's servers do: an address has one form only
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind((host, port))
        except OSError:
            one.close()
            raise
        return one

    def send(self, data: bytes, to: Address, *, key: str = "", otherwise: Address | None = None) -> None:
        """Send; a connection that is not there is opened first. What cannot be sent is told later, to `failed`.

        Args:
            data: the message.
            to: where to.
            key: what it is part of: all of that goes to one server of a name.
            otherwise: where to, if it is an answer and its connection is gone.
        """
        if (begun := self._names.pinned(key)) is not None:
            to = Address(begun.host, begun.port, to.transport)
        if to.transport != "udp":
            gone = not self._connections.has(to)
            self._connections.send(data, otherwise if gone and otherwise is not None else to, key)
        elif (place := self._names.at_once(to)) is not None:
            self._send_datagram(data, place, to, key)
        elif (waiting := self._waiting.get(to)) is not None:
            if (data, key) not in waiting and len(waiting) < _MAX_WAITING:  # what is repeated meanwhile is said once
                waiting.append((data, key))
        elif len(self._waiting) < _MAX_WAITING:
            self._waiting[to] = [(data, key)]
            task = asyncio.create_task(self._find_and_send(to), name="sip-resolve")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def avoid(self, to: Address, key: str) -> None:
        """Send elsewhere from now on, if a name has more than one server: the one that this went to does not answer."""
        place = self._names.pinned(key)
        chosen = self._names.avoid(to, place)
        if chosen is not None and place is not None and (chosen.host, chosen.port) != (place.host, place.port):
            self._connections.leave(to, place)

    def _send_datagram(self, data: bytes, place: Place, to: Address, key: str) -> None:
        if self._datagrams is None:
            return
        self._names.pin(key, place)
        try:
            self._datagrams.sendto(data, (place.host, place.port))
            self._sent(data, Address(place.host, place.port))
        except (OSError, ValueError):  # another family, for one: uvloop says so at once
            asyncio.get_running_loop().call_soon(self._failed, Address(place.host, place.port))

    async def _find_and_send(self, to: Address) -> None:
        places: list[Place] = []
        try:
            places = await self._names.find(to)
        except (OSError, TimeoutError, UnicodeError):
            pass
        finally:
            waiting = self._waiting.pop(to)
        if not places:
            self._failed(to)
        for data, key in waiting if places else ():
            self._send_datagram(data, places[0], to, key)

    async def aclose(self) -> None:
        """Close everything; may be called twice."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._connections.aclose()
        if self._datagrams is not None:
            self._datagrams.close()
            self._datagrams = None
