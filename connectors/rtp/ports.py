"""Ports for media: pairs from one range. They rest after a call: its late packets are not for the next one."""

import socket
from collections import deque
from dataclasses import dataclass

_REST_S = 2.0
_BUFFER = 256 * 1024
_EXPEDITED = 0xB8  # DSCP 46


class NoPortError(Exception):
    """All ports of the range are taken or at rest."""


@dataclass(frozen=True, slots=True)
class MediaPort:
    """A pair of ports, bound and not blocking."""

    number: int
    """Of the one for RTP."""
    media: socket.socket
    control: socket.socket


class PortPool:
    """Even ports for RTP, the odd one above each for RTCP.

    Args:
        low, high: the range, both ends included.
        host: the address to listen on.
    """

    def __init__(self, low: int, high: int, host: str, *, rest_s: float = _REST_S) -> None:
        self._host, self._rest_s = host, rest_s
        self._free = deque(range(low + low % 2, high, 2))
        self._resting: deque[tuple[float, int]] = deque()

    def open(self, now: float) -> MediaPort:
        """Return a pair that is free.

        Raises:
            NoPortError: none can be had.
        """
        while self._resting and self._resting[0][0] <= now:
            self._free.append(self._resting.popleft()[1])
        for _ in range(len(self._free)):
            port = self._free.popleft()
            try:
                media = _bound(self._host, port)
            except OSError:  # somebody else's; look again much later
                self._free.append(port)
                continue
            try:
                return MediaPort(port, media, _bound(self._host, port + 1))
            except OSError:
                media.close()
                self._free.append(port)
        raise NoPortError("no media port is free")

    def close(self, port: MediaPort, now: float) -> None:
        """Close a pair; it rests before it is given to anybody else."""
        port.media.close()
        port.control.close()
        self._resting.append((now + self._rest_s, port.number))


def _bound(host: str, port: int) -> socket.socket:
    one = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        one.setblocking(False)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        if one.family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, _EXPEDITED)
        else:
            one.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, _EXPEDITED)
        one.bind((host, port))
    except OSError:
        one.close()
        raise
    return one
