"""One call of the shell: its ports, its stream and its leg, from the offer to the last packet."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from fastagent.connectors.host import Release
from fastagent.connectors.leg import CallInfo, HangupReason, LegEnded
from fastagent.connectors.rtp.ports import MediaPort, PortPool
from fastagent.connectors.rtp.stream import RtpStream
from fastagent.connectors.sip.actions import CallEnded
from fastagent.connectors.sip.hold_music import HoldMusic
from fastagent.connectors.sip.leg import Signalling, SipLeg
from fastagent.connectors.sip.media import NegotiatedMedia
from fastagent.connectors.sip.plan import plan_of
from fastagent.media.frame import AudioFormat
from fastagent.media.ticker import Ticker

_log = logging.getLogger(__name__)

_FIRST_PACKET_S = 2.0  # so long the greeting waits for an ACK or a packet


@dataclass(frozen=True, slots=True)
class Equipment:
    """What all calls share."""

    ports: PortPool
    ticker: Ticker
    music: HoldMusic
    inband_keys: bool = False
    make_stream: Callable[..., RtpStream] = RtpStream


class SipCall:
    """One call.

    Args:
        id_: the user agent's name for it.
        call_id: its Call-ID, by which others know it.
        signalling: the user agent, for this call.
        port: where its media comes in; the call gives it back.
        release: gives its place back.
        on_answered: told of the media once it may flow.
        on_progress: told when it rings.
        on_over: told, once, that it is over; with the user agent's last word, if it never had a session.
    """

    def __init__(
        self,
        id_: str,
        call_id: str,
        equipment: Equipment,
        signalling: Signalling,
        port: MediaPort,
        release: Release,
        *,
        on_answered: "OnAnswered",
        on_progress: Callable[[], None] = lambda: None,
        on_over: "OnOver" = lambda event: None,
    ) -> None:
        self.id, self.call_id = id_, call_id
        self.signalling = signalling
        self.on_answered, self.on_progress, self.on_over = on_answered, on_progress, on_over
        self._equipment, self._port, self._release = equipment, port, release
        self._loop = asyncio.get_running_loop()
        self._media: NegotiatedMedia | None = None
        self.leg: SipLeg | None = None
        self.confirmed = asyncio.Event()
        """Set once the other side hears us for certain."""
        self.task: asyncio.Task[None] | None = None
        """Its session's, which closes it."""

    # -- media -------------------------------------------------------------------------------------------------------

    def open(self, media: NegotiatedMedia, info: CallInfo) -> SipLeg:
        """Begin to send and to listen; the rate of the audio in `info` is that of the codec.

        Raises:
            SrtpError: the keys are none.
        """
        legs: list[SipLeg] = []
        stream = self._equipment.make_stream(
            self._equipment.ports,
            plan_of(media),
            on_audio=lambda samples, now: legs[0].audio_received(samples, now),
            on_key=lambda digit: legs[0].key_received(digit, "rtp"),
            port=self._port,
        )
        self._media = media
        info = replace(info, audio=AudioFormat("L16", stream.rate_hz))
        equipment = self._equipment
        self.leg = SipLeg(info, stream, self.signalling, music=equipment.music, inband=equipment.inband_keys)
        legs.append(self.leg)
        self._equipment.ticker.add(stream.send_due, early=True, failed=self._failed)
        self._equipment.ticker.add(stream.tick, failed=self._failed)
        return self.leg

    def _failed(self, error: Exception) -> None:
        """The ticker has dropped us: a call without it would never end by itself."""
        _log.error("a call's media failed", extra={"call_id": self.call_id}, exc_info=error)
        assert self.leg is not None  # there is a leg as long as it ticks
        self._stop(self.leg.stream)
        self.leg.happened(LegEnded(HangupReason.INTERNAL_ERROR))

    def _stop(self, stream: RtpStream) -> None:
        for listener in (stream.send_due, stream.tick):
            self._equipment.ticker.remove(listener)

    def changed(self, media: NegotiatedMedia) -> None:
        """The call was renegotiated.

        Raises:
            SrtpError: the keys are none.
        """
        if self.leg is not None and self._media is not None:
            plan = plan_of(media, (self._media, self.leg.stream.plan))
            self._media = media
            self.leg.media_changed(plan)

    async def audible(self) -> None:
        """Return when the other side hears us: with its ACK, or its first packet, or after some patience.

        Whichever is first: a lost ACK must not keep the caller waiting, nor a phone that only listens.
        """
        assert self.leg is not None  # it has been answered
        stream, patience = self.leg.stream, self._loop.time() + _FIRST_PACKET_S
        while not (self.confirmed.is_set() or stream.inbound.last_packet_at or self._loop.time() > patience):  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    # -- the end -------------------------------------------------------------------------------------------------------

    def ended(self, reason: HangupReason) -> None:
        """The user agent says that it is over."""
        if self.leg is not None:
            self.leg.happened(LegEnded(reason))

    def close(self) -> None:
        """Give everything back; may be called twice."""
        release, self._release = self._release, _nothing
        if release is _nothing:
            return
        release()
        if self.leg is not None:
            self._stop(self.leg.stream)
            self.leg.stream.close()
        else:
            self._equipment.ports.close(self._port, self._loop.time())


OnAnswered = Callable[[SipCall, NegotiatedMedia], None]
OnOver = Callable[[CallEnded | None], None]


def _nothing() -> None:
    """What is left to release."""
