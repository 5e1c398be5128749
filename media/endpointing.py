"""Endpointing: from the verdicts on windows to the beginning and the end of utterances, in two steps.

            speech                silence > tentative_after          silence > min or max delay
    QUIET ----------> SPEECH ------------------------------> PAUSE --------------------------> QUIET
                         ^                                     |
                         +------------- speech ----------------+

A pause is the *tentative* end: recognition is finalised while the caller may still go on. Whether the end is confirmed
after the short or the long delay depends on the text, which `offer` brings. Time is the stream's own sample count, so
that a burst of late packets is not mistaken for anything else.
"""

from dataclasses import dataclass
from enum import Enum

from fastagent.media.level import FLOOR_DB
from fastagent.media.turn_config import TurnConfig
from fastagent.media.vad.service import VadWindow

_HYSTERESIS = 0.15  # speech, once begun, goes on down to this much below the threshold
_DROP_DB = 26.0  # but a window this far below the utterance's loudest is silence whatever the model says: the model
# needs 100 to 150 ms to believe in an end, and the caller waits for each of them (bench/endpoint.py)


class Phase(Enum):
    """Where the caller's speech is."""

    QUIET = "quiet"
    SPEECH = "speech"
    PAUSE = "pause"


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """Speech began at sample `start`, recognised as such at sample `at`."""

    start: int
    at: int


@dataclass(frozen=True, slots=True)
class SpeechPaused:
    """The tentative end: the last speech was at sample `end`."""

    end: int


@dataclass(frozen=True, slots=True)
class SpeechResumed:
    """The caller went on: the tentative end was none."""

    at: int


@dataclass(frozen=True, slots=True)
class SpeechEnded:
    """The confirmed end of the utterance from `start` to `end`."""

    start: int
    end: int


EndpointEvent = SpeechStarted | SpeechPaused | SpeechResumed | SpeechEnded


class Endpointer:
    """One caller's utterances."""

    def __init__(self, config: TurnConfig, *, rate_hz: int, window_samples: int) -> None:
        self._config = config
        self._rate_hz = rate_hz
        self._window = window_samples
        self.phase = Phase.QUIET
        self._run = 0
        self._start = self._end = self._now = 0
        self._loudest_db = FLOOR_DB
        self._forced = False  # ended for its length: it is over as soon as its text is known
        self._complete: bool | None = None  # what the text of this pause looks like, once it is known

    @property
    def speech_s(self) -> float:
        """Length of the utterance so far, in seconds; 0 while it is quiet."""
        return 0.0 if self.phase is Phase.QUIET else (self._end - self._start) / self._rate_hz

    @property
    def silence_s(self) -> float:
        """Seconds since the last speech."""
        return (self._now - self._end) / self._rate_hz

    def observe(self, window: VadWindow, *, start_windows: int, gate_db: float) -> EndpointEvent | None:
        """Take the next window. A start needs `start_windows` windows in a row, each louder than `gate_db`."""
        self._now = window.end
        if self.phase is Phase.QUIET:
            speech = window.speech >= self._config.vad_threshold and window.level_db > gate_db
            self._run = self._run + 1 if speech else 0
            if self._run < max(1, start_windows):
                return None
            self.phase = Phase.SPEECH
            self._start, self._end = window.end - self._run * self._window, window.end
            self._run = 0
            self._loudest_db = window.level_db
            return SpeechStarted(self._start, window.end)
        if self._forced:
            return self._confirm()
        if self._goes_on(window):
            self._end = window.end
            self._loudest_db = max(self._loudest_db, window.level_db)
            if self.phase is Phase.PAUSE:
                self.phase = Phase.SPEECH
                self._complete = None
                return SpeechResumed(window.end)
            if self.speech_s < self._config.max_utterance:
                return None
            self.phase, self._forced = Phase.PAUSE, True  # as if there were a pause: recognition has to finish first
            return SpeechPaused(self._end)
        if self.phase is Phase.SPEECH:
            if not self._silent(self._config.tentative_after):
                return None
            self.phase = Phase.PAUSE
            return SpeechPaused(self._end)
        return self._confirm()

    def _goes_on(self, window: VadWindow) -> bool:
        threshold = self._config.vad_threshold - (_HYSTERESIS if self.phase is Phase.SPEECH else 0)
        return window.speech >= threshold and window.level_db > self._loudest_db - _DROP_DB

    def offer(self, complete: bool) -> SpeechEnded | None:
        """The text of this pause is known: does it look complete?"""
        if self.phase is not Phase.PAUSE:
            return None
        self._complete = complete
        return self._confirm()

    def reset(self) -> None:
        """Forget the utterance: it was no speech, or it is dealt with."""
        self.phase = Phase.QUIET
        self._run = 0
        self._complete = None
        self._forced = False

    def _confirm(self) -> SpeechEnded | None:
        """Confirm the end if the silence is long enough for what is known of the text."""
        if self._complete is None:
            return None  # recognition has a deadline of its own; without its text there is nothing to answer
        config = self._config
        delay = config.min_endpointing_delay if self._complete else config.max_endpointing_delay
        return self._ended() if self._forced or self._silent(delay) else None

    def _silent(self, seconds: float) -> bool:
        # Windows are coarse: the nearest one counts, not the next.
        return self._now - self._end >= seconds * self._rate_hz - self._window / 2

    def _ended(self) -> SpeechEnded:
        self.reset()
        return SpeechEnded(self._start, self._end)
