"""What the caller says, as text: asked for at the tentative end of an utterance, void where the caller goes on."""

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastagent.connectors.notices import Failed, Transcribed
from fastagent.gateway.record import Waterfall
from fastagent.media.errors import SpeechError
from fastagent.media.speech.contracts import SttStream, Transcript
from fastagent.media.speech.sentences import looks_complete

if TYPE_CHECKING:
    from fastagent.gateway.session import Session

_log = logging.getLogger(__name__)

_LIMIT_S = 10.0


@dataclass(slots=True)
class Utterance:
    """What is known of one; times are of the loop."""

    last_sound_at: float = 0.0
    text_at: float = 0.0
    delay_s: float = 0.0
    """The silence that ends it, now that its text is known."""
    transcript: Transcript | None = None
    failed: bool = False

    @property
    def text(self) -> str:
        """What was said; "" where nothing was recognised."""
        return self.transcript.text if self.transcript else ""

    def waterfall(self, confirmed_at: float, thought_at: float, spoken_at: float) -> Waterfall:
        """Return where the wait for an answer went, from the last sound to the first audio."""
        ready = min(max(self.text_at, self.last_sound_at), confirmed_at)
        recognition = max(0.0, ready - (self.last_sound_at + self.delay_s))
        endpointing = confirmed_at - self.last_sound_at - recognition
        stages = (endpointing, recognition, thought_at - confirmed_at, spoken_at - thought_at)
        return Waterfall(*(round(stage * 1000, 1) for stage in stages))


class Recognition:
    """A session's; `utterance` is the one under way, or the last one."""

    def __init__(self, session: "Session", stream: SttStream) -> None:
        self.utterance = Utterance()
        self._session, self._stream = session, stream
        self._task: asyncio.Task[None] | None = None

    def begin(self, last_sound_at: float) -> None:
        """The tentative end: have the text ready when the end is confirmed."""
        self.utterance = Utterance(last_sound_at=last_sound_at)
        self.cancel()
        self._task = self._session.spawn(self._recognise(self.utterance))

    def cancel(self) -> None:
        """The text under way is void."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _recognise(self, utterance: Utterance) -> None:
        session = self._session
        try:
            async with asyncio.timeout(_LIMIT_S):
                transcript = await self._stream.finalize()
        except (SpeechError, TimeoutError) as error:
            session.services.metrics.provider_errors.labels(session.stt_name, "recognition").inc()
            _log.warning("recognition failed", extra={"session_id": session.id, "error": str(error)})
            session.tell(Failed("audio_processing_failed", "The caller's speech could not be recognised"))
            utterance.failed = True
            transcript = Transcript("")
        self._task = None
        utterance.transcript, utterance.text_at = transcript, session.now()
        if transcript.text:
            session.tell(Transcribed("user", transcript.text, False, session.record.turn_count + 1))
        complete = self._complete(transcript.text)
        config = session.turn_config
        utterance.delay_s = config.min_endpointing_delay if complete else config.max_endpointing_delay
        session.inbound.transcript(transcript, complete=complete)

    def _complete(self, text: str) -> bool:
        try:
            verdict = self._session.machine.state.utterance_complete(text)
        except Exception:
            _log.exception("utterance_complete failed", extra={"session_id": self._session.id})
            verdict = None
        return looks_complete(text) or not text if verdict is None else verdict
