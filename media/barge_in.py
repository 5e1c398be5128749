"""Barge-in: the caller speaks while the agent does.

    state      input              next       verdict
    -----      -----              ----       -------
    IDLE       speech started     PAUSED     PAUSE        the agent falls silent at once
    PAUSED     speech goes on     IDLE       INTERRUPT    longer than any backchannel
    PAUSED     words              IDLE       INTERRUPT
    PAUSED     backchannel        IDLE       RESUME       "mm-hm": the agent goes on from where it was heard
    PAUSED     no words, a guess  IDLE       RESUME       noise
    PAUSED     nothing decided    IDLE       RESUME       after `false_interruption_timeout` of silence

Speech that starts while the agent is silent, or may not be interrupted, never enters this table.
"""

import re
from enum import Enum

from fastagent.media.turn_config import TurnConfig

_BACKCHANNELS = frozenset(
    "ah aha hm hmm huh mhm mm mmm mmhm mmhmm mm-hm mm-hmm uh uh-huh uhuh uh-hum um yeah yep yup ok okay right sure "
    "oh wow i-see".split()
)

_GUESS = 0.4  # a recogniser that hears "mm-hm" or a cough makes a word of it, but does not believe in it


class Verdict(Enum):
    """What the session shall do."""

    PAUSE = "pause"
    INTERRUPT = "interrupt"
    RESUME = "resume"


def words(text: str) -> list[str]:
    """Return the words of a text, lower case, without punctuation."""
    return re.findall(r"[a-z0-9]+(?:['-][a-z0-9]+)*", text.lower())


def is_backchannel(text: str) -> bool:
    """Whether a text only says that its speaker listens."""
    spoken = words(text.lower().replace("i see", "i-see").replace("uh huh", "uh-huh").replace("mm hmm", "mm-hmm"))
    return 0 < len(spoken) <= 3 and all(word in _BACKCHANNELS for word in spoken)


class BargeIn:
    """The state of one possible interruption."""

    def __init__(self, config: TurnConfig) -> None:
        self._config = config
        self.paused = False

    def speech_started(self) -> Verdict:
        """Speech began while the agent was speaking."""
        self.paused = True
        return Verdict.PAUSE

    def speech_goes_on(self, speech_s: float) -> Verdict | None:
        """The utterance is now `speech_s` seconds long."""
        config = self._config
        surely_speech = max(config.min_interruption_duration, config.backchannel_duration)
        if self.paused and not config.min_interruption_words and speech_s >= surely_speech:
            return self._decide(Verdict.INTERRUPT)
        return None

    def transcript(self, text: str, *, confidence: float | None, speech_s: float) -> Verdict | None:
        """The words so far are known, and how sure the recogniser is of them."""
        if not self.paused:
            return None
        count = len(words(text))
        short = speech_s < self._config.backchannel_duration
        guessed = confidence is not None and confidence < _GUESS
        if count == 0 or is_backchannel(text) or (short and guessed):
            return self._decide(Verdict.RESUME)
        return self._decide(Verdict.INTERRUPT) if count >= self._config.min_interruption_words else None

    def silent(self, silence_s: float) -> Verdict | None:
        """Nobody has spoken for `silence_s` seconds, and the words are still unknown or too few."""
        if self.paused and silence_s >= self._config.false_interruption_timeout:
            return self._decide(Verdict.RESUME)
        return None

    def interrupt(self) -> Verdict:
        """The utterance is over and has to be answered."""
        return self._decide(Verdict.INTERRUPT)

    def _decide(self, verdict: Verdict) -> Verdict:
        self.paused = False
        return verdict
