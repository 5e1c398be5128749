"""What the gateway asks of a recogniser and a synthesiser.

Both work off the event loop or over the network, can be cancelled, and raise `SpeechError` for every failure of theirs.
The gateway sets the deadlines.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from fastagent.media.frame import AudioFormat, AudioFrame


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was said; an empty text means that there were no words."""

    text: str
    confidence: float | None = None
    """0 to 1, where the recogniser tells it."""


class SttStream(Protocol):
    """One caller's recognition, utterance by utterance."""

    def push(self, payload: bytes) -> None:
        """Take the next wire audio of the utterance; never blocks."""
        ...

    async def finalize(self) -> Transcript:
        """Return the text of all that was pushed since the last `restart`.

        More may be pushed afterwards: the next `finalize` then speaks of the joined utterance.

        Raises:
            SpeechError: recognition failed.
        """
        ...

    def restart(self) -> None:
        """Begin the next utterance."""
        ...

    async def aclose(self) -> None:
        """Release everything; may be called twice."""
        ...


class Stt(Protocol):
    """A recogniser."""

    name: str

    def open(self, audio: AudioFormat) -> SttStream:
        """Begin recognising wire audio of this format."""
        ...

    async def warm_up(self) -> None:
        """Load what must be loaded; returns when the first real call would be served at full speed."""
        ...


class Tts(Protocol):
    """A synthesiser."""

    name: str

    def stream(self, text: str) -> AsyncIterator[AudioFrame]:
        """Yield the audio of a sentence, in order, at the synthesiser's own rate.

        Raises:
            SpeechError: synthesis failed.
        """
        ...

    async def warm_up(self) -> None:
        """As for `Stt`."""
        ...


@dataclass(frozen=True, slots=True)
class Speech:
    """A recogniser and a synthesiser that go together."""

    stt: Stt
    tts: Tts
