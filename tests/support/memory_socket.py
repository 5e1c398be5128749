"""A datagram socket in memory, for the loop in virtual time: what arrives wakes its reader, what is sent is kept."""

import socket

from fastagent.connectors.rtp.source import Address


class MemorySocket:
    """One.

    Args:
        address: where its datagrams come from, for another one that they are passed on to.
    """

    def __init__(self, address: Address = ("192.0.2.1", 10000)) -> None:
        self._handle, self._bell = socket.socketpair()
        self._handle.setblocking(False)
        self._bell.setblocking(False)
        self._address = address
        self._waiting: list[tuple[bytes, Address]] = []
        self.other: MemorySocket | None = None
        """The far end, if there is one."""
        self.sent: list[tuple[bytes, Address]] = []

    def fileno(self) -> int:
        return self._handle.fileno()

    def arrive(self, data: bytes, sender: Address) -> None:
        """A datagram from somewhere."""
        self._waiting.append((data, sender))
        self._bell.send(b"!")

    def sendto(self, data: bytes, to: Address) -> None:
        self.sent.append((data, to))
        if self.other is not None:
            self.other.arrive(data, self._address)

    def recvfrom(self, size: int) -> tuple[bytes, Address]:
        if not self._waiting:
            raise BlockingIOError
        self._handle.recv(1)
        return self._waiting.pop(0)

    def close(self) -> None:
        self._handle.close()
        self._bell.close()
