"""A stream through a bad network, both ways: for phones that test a gateway."""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fastagent.connectors.rtp.source import Address
from fastagent.connectors.rtp.stream import RtpStream
from fastagent.media.rtp.network import Impairments, Network

Delivery = Callable[[], None]


class _Way:
    """One direction: deliveries that happen when the network lets them."""

    def __init__(self, impairments: Impairments) -> None:
        self._network: Network[Delivery] = Network(impairments)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def push(self, delivery: Delivery) -> None:
        """Have something delivered."""
        self._network.push(delivery, self._loop.time())
        self._deliver()

    def _deliver(self) -> None:
        for delivery in self._network.due(self._loop.time()):
            delivery()
        self.close()
        if self._network.next_at is not None:
            self._timer = self._loop.call_at(self._network.next_at, self._deliver)

    def close(self) -> None:
        """What is on its way does not arrive."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class ImpairedStream(RtpStream):
    """An `RtpStream` whose packets, in and out, go through such a network; the two directions have each its chance."""

    def __init__(self, *arguments: Any, impairments: Impairments, **options: Any) -> None:
        self._in, self._out = _Way(impairments), _Way(replace(impairments, seed=impairments.seed + 1))
        super().__init__(*arguments, **options)

    def _received(self, data: bytes, address: Address, now: float) -> None:
        arrive = super()._received
        self._in.push(lambda: arrive(data, address, self._loop.time()))

    def _send(self, way: socket.socket, data: bytes, to: Address | None = None) -> None:
        send = super()._send
        self._out.push(lambda: send(way, data, to))

    def close(self) -> None:
        """Say goodbye, and nothing after it."""
        super().close()
        self._in.close()
        self._out.close()
