"""How good a call was: loss, delay and the E-model's estimate of what listeners would say (ITU-T G.107, G.113)."""

from dataclasses import asdict, dataclass
from typing import Any

from fastagent.media.rtp.inbound import RtpInbound

_R0 = 93.2
_PLANNED_MS = 20.0  # codec and playback, beside what was measured
# Impairment of a codec, and how well it bears random loss (G.113, with concealment).
_CODECS = {"PCMU": (0.0, 25.1), "PCMA": (0.0, 25.1), "G722": (5.0, 20.0), "opus": (5.0, 25.0), "L16": (0.0, 25.1)}


def r_factor(*, codec: str, loss: float, one_way_ms: float) -> float:
    """Return the transmission rating, 0 to 100.

    Args:
        loss: share of the frames that were not heard as sent.
        one_way_ms: from mouth to ear.
    """
    delay = 0.024 * one_way_ms + (0.11 * (one_way_ms - 177.3) if one_way_ms > 177.3 else 0.0)
    own, robust = _CODECS.get(codec, (5.0, 20.0))
    percent = 100 * loss
    equipment = own + (95 - own) * percent / (percent + robust)
    return max(0.0, min(100.0, _R0 - delay - equipment))


def mos(rating: float) -> float:
    """Return the mean opinion score of a rating, 1 to 4.5."""
    if rating <= 0:
        return 1.0
    if rating >= 100:
        return 4.5
    return max(1.0, 1 + 0.035 * rating + rating * (rating - 60) * (100 - rating) * 7e-6)


@dataclass(frozen=True, slots=True)
class CallQuality:
    """One call's record; milliseconds, and counts of packets or frames of 20 ms, whatever the packets' length."""

    codec: str
    received: int
    lost: int
    late: int
    duplicates: int
    reordered: int
    concealed_frames: int
    played_frames: int
    jitter_ms: float
    jitter_p95_ms: float
    depth_ms: float
    round_trip_ms: float | None
    far_loss: float | None
    """The share that the other side says it lost."""
    one_way: str | None
    """`nothing_received` or `nothing_sent`, where it was so."""
    strangers: int = 0
    """Packets of somebody else."""

    @property
    def loss(self) -> float:
        """The share of frames that had to be made up."""
        whole = self.played_frames + self.concealed_frames
        return self.concealed_frames / whole if whole else 0.0

    @property
    def mos(self) -> float:
        """The estimate for what we heard; of nothing at all, the least."""
        if not self.received:
            return 1.0
        one_way = (self.round_trip_ms or 0.0) / 2 + self.depth_ms + _PLANNED_MS
        return round(mos(r_factor(codec=self.codec, loss=self.loss, one_way_ms=one_way)), 2)

    def details(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {**asdict(self), "loss": round(self.loss, 4), "mos": self.mos}


def quality_of(
    inbound: RtpInbound,
    *,
    codec: str,
    packets_sent: int,
    round_trip_s: float | None,
    far_loss: float | None,
    strangers: int = 0,
) -> CallQuality:
    """Return the record of a call so far, from what we received and what the other side reports."""
    stats = inbound.stats
    jitter = sorted(stats.jitter_ms)
    return CallQuality(
        codec=codec,
        received=stats.received,
        lost=stats.lost,
        late=stats.late,
        duplicates=stats.duplicates,
        reordered=stats.reordered,
        concealed_frames=stats.concealed_frames,
        played_frames=stats.played_frames,
        jitter_ms=round(sum(jitter) / len(jitter), 2) if jitter else 0.0,
        jitter_p95_ms=jitter[int(0.95 * len(jitter))] if jitter else 0.0,
        depth_ms=round(inbound.buffer.target_s * 1000, 1),
        round_trip_ms=None if round_trip_s is None else round(round_trip_s * 1000, 1),
        far_loss=far_loss,
        one_way="nothing_received" if not stats.received else "nothing_sent" if not packets_sent else None,
        strangers=strangers,
    )
