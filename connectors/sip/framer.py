"""Messages out of a TCP or TLS stream, however it is cut (RFC 3261 section 18.3, RFC 5626 section 3.5.1)."""

import re

from fastagent.connectors.sip.message import FOLD, MAX_MESSAGE

PING = b"\r\n\r\n"
PONG = b"\r\n"
_LENGTH = re.compile(rb"\r\n(?:content-length|l)[ \t]*:([^\r\n]*)", re.IGNORECASE)
_SIZE = re.compile(rb"[0-9]{1,9}")


class StreamFramer:
    """One connection's stream. Where the end of a message cannot be known, nothing after it can: `broken`.

    What made it so is still returned, if its head was whole, so that it can be answered before the connection closes.
    """

    def __init__(self) -> None:
        self.broken = False
        self._buffer = bytearray()
        self._searched = 0  # no blank line before here
        self._whole = 0  # the length of the message that has begun, once its head is there

    def feed(self, data: bytes) -> list[bytes]:
        """Take what came; return whole messages, and `PING` for a keep-alive that wants an answer."""
        found: list[bytes] = []
        self._buffer += data
        while not self.broken:
            message = self._next()
            if message is None:
                break
            found.append(message)
        if self.broken:
            self._buffer.clear()
        return found

    def _next(self) -> bytes | None:
        if self._whole:
            return self._take(self._whole) if len(self._buffer) >= self._whole else None
        if self._buffer.startswith(PING):
            return self._take(len(PING))
        if self._buffer[:2] == PONG and len(self._buffer) > 2 and self._buffer[2:4] not in (b"\r", PONG):
            self._take(len(PONG))
        end = self._buffer.find(b"\r\n\r\n", max(0, self._searched - 3))
        if end < 0:
            self._searched = len(self._buffer)
            self.broken = len(self._buffer) > MAX_MESSAGE
            return None
        return self._headed(end + 4)

    def _headed(self, head: int) -> bytes | None:
        size = _body_size(bytes(self._buffer[:head]))
        if size is None or head + size > MAX_MESSAGE:
            self.broken = True
            return bytes(self._buffer[:head]) if head <= MAX_MESSAGE else None
        self._whole = head + size
        return self._next()

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        self._searched = self._whole = 0
        return taken


def _body_size(head: bytes) -> int | None:
    """Return what Content-Length says; none is none on a stream, and two that differ cannot be believed."""
    told = {one.strip(b" \t") for one in _LENGTH.findall(FOLD.sub(b" ", head))}
    if not told:
        return 0
    text = told.pop()
    return int(text) if not told and _SIZE.fullmatch(text) else None
