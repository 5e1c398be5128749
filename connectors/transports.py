"""Transports of sockets, whichever event loop they come from."""

import asyncio
from typing import Any


def abort(transport: asyncio.BaseTransport | None) -> None:
    """Cut a connection off, whatever is still to be sent.

    uvloop's transports have the methods of asyncio's and are no instances of them, so it is the method that counts.
    """
    cut: Any = getattr(transport, "abort", None)
    if cut is not None:
        cut()
