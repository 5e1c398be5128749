"""The knobs of turn taking, named as the field names them; seconds unless said otherwise."""

from dataclasses import dataclass, fields
from typing import Any

_KINDS = {bool: "true or false", int: "whole number from 0 to 600", float: "number from 0 to 600"}


def _fits(value: object, kind: object) -> bool:
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    numbers = int if kind is int else (int, float)
    return isinstance(value, numbers) and 0 <= value <= 600


@dataclass(frozen=True, slots=True)
class TurnConfig:
    """When an utterance is over, and what counts as an interruption."""

    tentative_after: float = 0.2
    """Silence after which recognition is finalised, while the caller may still go on."""
    min_endpointing_delay: float = 0.4
    """Silence after which an utterance that looks complete is over."""
    max_endpointing_delay: float = 1.5
    """Silence after which any utterance is over."""
    max_utterance: float = 30.0
    """An utterance of this length is ended where it is."""
    allow_interruptions: bool = True
    min_interruption_duration: float = 0.5
    """Speech this long interrupts even before its words are known, unless it may still be a backchannel."""
    min_interruption_words: int = 0
    """With a number here only words interrupt, never duration."""
    backchannel_duration: float = 1.0
    """Speech shorter than this may be a backchannel ("mm-hm"): its words decide."""
    false_interruption_timeout: float = 2.0
    """An interruption that no words have confirmed by then was none: the agent resumes."""
    vad_threshold: float = 0.5
    start_windows: int = 2
    """Consecutive windows (32 ms) of speech that begin an utterance while the agent is silent."""
    barge_in_windows: int = 3
    """The same while the agent speaks."""
    echo_gate_db: float = 14.0
    """While the agent speaks and 0.6 s after, speech starts only above the recent outgoing level less this."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            kind = type(field.default)
            if not _fits(value, kind):
                raise ValueError(f"turn_config.{field.name}: {value!r} is no {_KINDS[kind]}")
        if self.vad_threshold > 1:
            raise ValueError(f"turn_config.vad_threshold: {self.vad_threshold!r} is no probability")
        if not self.tentative_after <= self.min_endpointing_delay <= self.max_endpointing_delay:
            raise ValueError("turn_config: tentative_after <= min_endpointing_delay <= max_endpointing_delay is not so")

    @classmethod
    def of(cls, given: "TurnConfig | dict[str, Any] | None") -> "TurnConfig":
        """Return a `TurnConfig` from what the public API was given.

        Raises:
            ValueError: an unknown knob, or a value out of range.
        """
        if isinstance(given, TurnConfig):
            return given
        if given is not None and not isinstance(given, dict):
            raise ValueError(f"turn_config: {type(given).__name__} is no object of its knobs")
        known = {field.name for field in fields(cls)}
        unknown = sorted(map(str, set(given or ()) - known))
        if unknown:
            raise ValueError(f"turn_config: unknown {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        return cls(**(given or {}))
