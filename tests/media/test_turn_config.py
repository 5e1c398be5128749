"""The knobs of turn taking."""

from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from fastagent.media.turn_config import TurnConfig


def test_nothing_given_means_the_defaults() -> None:
    assert TurnConfig.of(None) == TurnConfig.of({}) == TurnConfig()


def test_the_defaults_are_the_documented_ones() -> None:
    config = TurnConfig()
    assert (config.tentative_after, config.min_endpointing_delay, config.max_endpointing_delay) == (0.2, 0.4, 1.5)
    assert (config.min_interruption_duration, config.min_interruption_words) == (0.5, 0)
    assert (config.false_interruption_timeout, config.allow_interruptions) == (2.0, True)


def test_a_dictionary_of_knobs_becomes_a_config() -> None:
    config = TurnConfig.of({"min_endpointing_delay": 1, "allow_interruptions": False})
    assert config == TurnConfig(min_endpointing_delay=1, allow_interruptions=False)


def test_a_config_is_taken_as_it_is() -> None:
    config = TurnConfig(start_windows=4)
    assert TurnConfig.of(config) is config


def test_an_unknown_knob_is_named_together_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown min_delay, zzz; known are .*min_endpointing_delay"):
        TurnConfig.of({"zzz": 1, "min_delay": 2})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tentative_after", -0.1),
        ("tentative_after", "0.2"),
        ("tentative_after", None),
        ("max_endpointing_delay", 601),
        ("max_utterance", float("inf")),
        ("max_utterance", float("nan")),
        ("vad_threshold", [0.5]),
        ("min_interruption_words", "two"),
    ],
)
def test_a_value_that_is_no_number_in_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"turn_config.{name}"):
        TurnConfig.of({name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("allow_interruptions", 5, id="a number for a switch"),
        pytest.param("allow_interruptions", 0.5, id="a fraction for a switch"),
        pytest.param("max_utterance", True, id="a switch for a time"),
        pytest.param("start_windows", 1.5, id="a fraction for a count"),
        pytest.param("min_interruption_words", 0.5, id="a fraction of a word"),
        pytest.param("vad_threshold", 20, id="a probability above one"),
    ],
)
def test_a_value_of_another_kind_than_its_knob_is_refused_by_name(name: str, value: Any) -> None:
    # "every field of its type, numbers in range": reliability.md, input limits.
    with pytest.raises(ValueError, match=f"turn_config.{name}"):
        TurnConfig.of({name: value})


@pytest.mark.parametrize("given", [["vad_threshold"], "vad_threshold", 5])
def test_what_is_no_dictionary_is_refused_with_a_value_error(given: Any) -> None:
    with pytest.raises(ValueError, match="turn_config"):
        TurnConfig.of(given)


@pytest.mark.parametrize(
    "delays",
    [
        {"tentative_after": 0.5},
        {"min_endpointing_delay": 0.1},
        {"max_endpointing_delay": 0.3},
        {"min_endpointing_delay": 2.0},
    ],
)
def test_delays_out_of_order_are_refused(delays: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="tentative_after <= min_endpointing_delay <= max_endpointing_delay"):
        TurnConfig.of(delays)


def test_equal_delays_are_in_order() -> None:
    assert TurnConfig(tentative_after=0.5, min_endpointing_delay=0.5, max_endpointing_delay=0.5).tentative_after == 0.5


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        TurnConfig().vad_threshold = 0.9  # type: ignore[misc]
