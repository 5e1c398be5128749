"""The shell's sockets: one UDP port, one TCP port, one TLS port; bytes to the core, bytes from it."""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable

from fastagent.connectors.sip.actions import Address, Transport
from fastagent.connectors.sip.connections import Connections, Failed, Received

_RESOLVE_S = 10.0
_MAX_RESOLVING = 64
_TRIES = 20


def is_address(host: str) -> bool:
    """Whether a host is a numeric address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def resolved(host: str, *, ipv6: bool) -> list[str]:
    """Return the addresses of a name, of one family; a socket would resolve it itself, and stop everything meanwhile.

    Raises:
        OSError, TimeoutError, UnicodeError: there are none.
    """
    if is_address(host):
        return [host]
    family = socket.AF_INET6 if ipv6 else socket.AF_INET
    async with asyncio.timeout(_RESOLVE_S):
        found = await asyncio.get_running_loop().getaddrinfo(host, None, family=family, type=socket.SOCK_DGRAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))


def own_address(host: str) -> str:
    """Return what phones are told, where we listen on all addresses: the one that this machine uses outwards."""
    if host not in ("0.0.0.0", "::"):
        return host
    outwards = "192.0.2.1" if host == "0.0.0.0" else "2001:db8::1"  # of documentation (RFC 5737, 3849): nothing is sent
    with socket.socket(socket.AF_INET if host == "0.0.0.0" else socket.AF_INET6, socket.SOCK_DGRAM) as one:
        try:
            one.connect((outwards, 9))
        except OSError:
            return "127.0.0.1" if host == "0.0.0.0" else "::1"
        return str(one.getsockname()[0])


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
        client_tls: how we verify TLS servers; by the system's authorities, if not given.
    """

    def __init__(
        self, received: Received, failed: Failed, *, client_tls: Callable[[], ssl.SSLContext] = _no_tls
    ) -> None:
        self._received, self._failed = received, failed
        self._connections = Connections(received, failed, client_tls)
        self._datagrams: asyncio.DatagramTransport | None = None
        self._servers: list[asyncio.Server] = []
        self._resolving: set[asyncio.Task[None]] = set()
        self._ipv6 = False
        self.ports: dict[Transport, int] = {}

    async def open(
        self, host: str, port: int, *, tls_port: int | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        """Listen; port 0 takes a free one, the same for UDP and TCP.

        Raises:
            OSError: a port is taken.
        """
        self._ipv6 = ":" in host
        try:
            port = await self._open_both(host, port)
            self.ports = {"udp": port, "tcp": port}
            if tls is not None and tls_port is not None:
                secure = await self._connections.listen(host, tls_port, "tls", tls)
                self._servers.append(secure)
                self.ports["tls"] = secure.sockets[0].getsockname()[1]
        except OSError:
            await self.aclose()
            raise

    async def _open_both(self, host: str, port: int) -> int:
        """Listen on UDP and TCP; return the port. A free one of TCP may be somebody's of UDP: then take another."""
        tries = _TRIES if port == 0 else 1
        while True:
            tries -= 1
            server = await self._connections.listen(host, port, "tcp")
            found = int(server.sockets[0].getsockname()[1])
            try:
                bound = self._bound(host, found)
            except OSError:
                server.close()
                if not tries:
                    raise
                continue
            self._servers.append(server)
            self._datagrams, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: _Datagrams(self._received), sock=bound
            )
            return found

    def _bound(self, host: str, port: int) -> socket.socket:
        one = socket.socket(socket.AF_INET6 if self._ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            one.setblocking(False)
            if self._ipv6:  # as asyncio's servers do: an address has one form only
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind((host, port))
        except OSError:
            one.close()
            raise
        return one

    def send(self, data: bytes, to: Address) -> None:
        """Send; a connection that is not there is opened first. What cannot be sent is told later, to `failed`."""
        if to.transport != "udp":
            self._connections.send(data, to)
        elif is_address(to.host):
            self._send_datagram(data, to.host, to)
        elif len(self._resolving) < _MAX_RESOLVING:
            task = asyncio.create_task(self._resolve_and_send(data, to), name="sip-resolve")
            self._resolving.add(task)
            task.add_done_callback(self._resolving.discard)

    def _send_datagram(self, data: bytes, host: str, to: Address) -> None:
        if self._datagrams is None:
            return
        try:
            self._datagrams.sendto(data, (host, to.port))
        except (OSError, ValueError):  # another family, for one: uvloop says so at once
            asyncio.get_running_loop().call_soon(self._failed, to)

    async def _resolve_and_send(self, data: bytes, to: Address) -> None:
        try:
            addresses = await resolved(to.host, ipv6=self._ipv6)
        except (OSError, TimeoutError, UnicodeError):
            self._failed(to)
            return
        self._send_datagram(data, addresses[0], to)

    async def aclose(self) -> None:
        """Close everything; may be called twice."""
        for task in tuple(self._resolving):
            task.cancel()
        await asyncio.gather(*self._resolving, return_exceptions=True)
        for server in self._servers:
            server.close()
        self._servers.clear()
        await self._connections.aclose()
        if self._datagrams is not None:
            self._datagrams.close()
            self._datagrams = None
