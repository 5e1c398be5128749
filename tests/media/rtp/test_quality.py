"""The E-model, at points that its tables know."""

import pytest

from fastagent.media.rtp.quality import CallQuality, mos, r_factor


@pytest.mark.parametrize(
    ("loss", "delay", "low", "high"),
    [(0.0, 20, 4.35, 4.45), (0.05, 60, 3.6, 4.1), (0.2, 100, 1.8, 2.8), (0, 400, 2.9, 3.9)],
)
def test_what_listeners_would_say(loss: float, delay: float, low: float, high: float) -> None:
    assert low <= mos(r_factor(codec="PCMU", loss=loss, one_way_ms=delay)) <= high


def test_more_loss_or_delay_is_never_better() -> None:
    ratings = [r_factor(codec="PCMA", loss=share / 100, one_way_ms=50) for share in range(0, 60, 5)]
    assert ratings == sorted(ratings, reverse=True)
    delays = [r_factor(codec="PCMA", loss=0, one_way_ms=ms) for ms in range(0, 1000, 50)]
    assert delays == sorted(delays, reverse=True)
    assert mos(0) == 1.0
    assert mos(100) == 4.5


def test_a_record_says_what_was_made_up() -> None:
    one = CallQuality("PCMU", 950, 50, 3, 2, 1, 50, 950, 8.0, 20.0, 60.0, 80.0, 0.01, None)
    assert one.loss == pytest.approx(0.05)
    assert one.details()["mos"] == one.mos
    assert 3.4 < one.mos < 4.1
