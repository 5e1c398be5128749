"""What was negotiated, as the media layer wants it."""

from fastagent.connectors.rtp.srtp import SrtpReceiver, SrtpSender
from fastagent.connectors.rtp.stream import MediaPlan
from fastagent.connectors.sip.media import Crypto, NegotiatedMedia

Agreed = tuple[NegotiatedMedia, MediaPlan]


def plan_of(media: NegotiatedMedia, before: Agreed | None = None) -> MediaPlan:
    """Return the plan. A direction whose key stays keeps its SRTP session, whose counters must not begin anew.

    Raises:
        SrtpError: a key is none.
    """
    keys = (before[0].crypto_send, before[0].crypto_receive) if before else (None, None)
    return MediaPlan(
        remote=media.remote,
        payload_type=media.payload_type,
        codec=media.codec.name,
        clock_hz=media.codec.clock_hz,
        ptime_ms=media.ptime_ms,
        event_type=media.dtmf_payload_type,
        remote_rtcp=media.remote_rtcp,
        sends=not media.held,
        listens=media.listens,
        srtp_out=before[1].srtp_out if before and keys[0] == media.crypto_send else _sender(media.crypto_send),
        srtp_in=before[1].srtp_in if before and keys[1] == media.crypto_receive else _receiver(media.crypto_receive),
        receives={number: one.name for number, one in media.receivable if one.clock_hz == media.codec.clock_hz},
        receives_events=media.dtmf_receivable,
    )


def _sender(crypto: Crypto | None) -> SrtpSender | None:
    return SrtpSender(crypto.suite, crypto.key) if crypto else None


def _receiver(crypto: Crypto | None) -> SrtpReceiver | None:
    return SrtpReceiver(crypto.suite, crypto.key) if crypto else None
