"""One listening port of a stream: connections are told of before anything is read, and before any handshake."""

import asyncio
import logging
import socket
from collections.abc import Callable

_log = logging.getLogger(__name__)

_BACKLOG = 128
_AGAIN_S = 1.0  # after an accept that failed: no descriptors are left, as a rule

Accepted = Callable[[socket.socket, tuple[str, int]], None]


class Listener:
    """Accepts until it is closed.

    Args:
        accepted: given each socket, which is its to close.

    Raises:
        OSError: the port is taken.
    """

    def __init__(self, host: str, port: int, accepted: Accepted) -> None:
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self._socket.family == socket.AF_INET6:  # an address has one form only
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self._socket.bind((host, port))
            self._socket.listen(_BACKLOG)
        except OSError as error:
            self._socket.close()
            raise OSError(error.errno, f"SIP cannot listen on {host}:{port}: {error.strerror}") from None
        self.port: int = self._socket.getsockname()[1]
        self._task = asyncio.create_task(self._accept(accepted), name="sip-listen")

    async def _accept(self, accepted: Accepted) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                one, peer = await loop.sock_accept(self._socket)
            except OSError as error:
                _log.warning("a SIP connection cannot be taken", extra={"error": type(error).__name__})
                await asyncio.sleep(_AGAIN_S)
                continue
            accepted(one, (peer[0], peer[1]))

    async def aclose(self) -> None:
        """Listen no longer; may be called twice."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._socket.close()
