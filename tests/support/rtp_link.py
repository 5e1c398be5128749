"""A network for RTP: packets with delay, jitter, loss, duplicates and reordering from a seeded source; clocks drift."""

from collections.abc import Iterator

import numpy as np

from fastagent.media.g711 import Int16Array, ulaw_encode
from fastagent.media.rtp.codecs import G711
from fastagent.media.rtp.inbound import RtpInbound
from fastagent.media.rtp.network import Impairments, Network
from fastagent.media.rtp.packet import RtpPacket

FRAME = 160


def packets_of(samples: Int16Array, *, ptime_ms: int = 20, start: int = 60000) -> list[RtpPacket]:
    """PCMU packets whose sequence and timestamp wrap early."""
    size = 8 * ptime_ms
    padded = np.pad(samples, (0, -len(samples) % size))
    return [
        RtpPacket(0, (start + at) & 0xFFFF, (0xFFFFF000 + at * size) & 0xFFFFFFFF, 0x1234, ulaw_encode(one), at == 0)
        for at, one in enumerate(padded.reshape(-1, size))
    ]


def arrivals(
    packets: list[RtpPacket],
    *,
    seed: int = 1,
    loss: float = 0.0,
    jitter_s: float = 0.0,
    duplicate: float = 0.0,
    delay_s: float = 0.05,
    drift: float = 0.0,
    ptime_ms: int = 20,
    keep_order: bool = False,
) -> Iterator[tuple[float, RtpPacket]]:
    """Yield packets at their times, in order of arrival; `jitter_s` is the range of an even distribution."""
    does = Impairments(loss, jitter_s, 0.0, duplicate, delay_s, in_order=keep_order, seed=seed)
    network: Network[RtpPacket] = Network(does)
    for at, packet in enumerate(packets):
        sent = at * ptime_ms / 1000 * (1 + drift)
        yield from _until(network, sent)
        network.push(packet, sent)
    yield from _until(network, float("inf"))


def _until(network: Network[RtpPacket], end: float) -> Iterator[tuple[float, RtpPacket]]:
    while (at := network.next_at) is not None and at <= end:
        for packet in network.due(at):
            yield at, packet


def received(inbound: RtpInbound, stream: Iterator[tuple[float, RtpPacket]], seconds: float) -> Int16Array:
    """Return what a receiver plays in so many seconds, tick by tick."""
    out: list[Int16Array] = []
    pending = next(stream, None)
    for tick in range(round(seconds * 50)):
        now = tick * 0.02
        while pending is not None and pending[0] <= now:
            inbound.push(pending[1], pending[0])
            pending = next(stream, None)
        out.append(inbound.tick(now))
    return np.concatenate(out)


def receiver() -> RtpInbound:
    """One for PCMU, with telephone events under 101."""
    return RtpInbound({0: G711("PCMU")}, event_types=frozenset({101}))
