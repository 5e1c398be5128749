"""What is said over a realtime transcription socket, and what has to be remembered of an utterance meanwhile.

The wire format is that of the API since August 2025 (`session.update` with a session of type `transcription`, on a
socket opened with `?intent=transcription` and without a model); `beta` is what servers before it speak. The server's
own turn detection is off: our endpointing says when an utterance is committed.
"""

import base64
import json
from collections import deque
from dataclasses import dataclass
from typing import Any

from fastagent.media.frame import AudioFormat
from fastagent.media.g711 import Int16Array
from fastagent.media.resample import StreamResampler
from fastagent.media.speech.openai_config import OpenAiSttConfig, SpeechFault, SpeechFaultKind
from fastagent.media.speech.openai_stt import MAX_UTTERANCE_S, MIN_UTTERANCE_S

RATE_HZ = 24000  # the only one for PCM
_MAX_TEXT = 16_000
_SESSION = "session"  # the event id of the session's configuration


class Utterance:
    """What a caller said since the last restart: audio, where it was committed, and the texts of these pieces."""

    def __init__(self, audio: AudioFormat) -> None:
        self.audio = bytearray()
        self.fault: SpeechFault | None = None
        self._commits: list[int] = []  # ends of the pieces, in bytes
        self._texts: dict[int, str] = {}
        self._size = audio.sample_bytes
        self._room = int(MAX_UTTERANCE_S * audio.rate_hz) * self._size
        self._least = int(MIN_UTTERANCE_S * audio.rate_hz) * self._size

    def push(self, payload: bytes) -> None:
        """Keep more of it; what is beyond 30 s is dropped."""
        self.audio += payload[: max(0, self._room - len(self.audio))]

    def commit(self) -> None:
        """End a piece here, if there is enough since the last one for a server to accept it."""
        end = len(self.audio) - len(self.audio) % self._size
        if end - (self._commits[-1] if self._commits else 0) >= self._least:
            self._commits.append(end)

    def next_commit(self, after: int) -> int | None:
        """Return the end of the first piece that ends after this."""
        return next((end for end in self._commits if end > after), None)

    def answer(self, end: int, text: str) -> None:
        """The text of the piece that ends here is known."""
        self._texts[end] = text

    def text(self) -> str | None:
        """Return the text of all pieces; None while one is missing."""
        if any(end not in self._texts for end in self._commits):
            return None
        return " ".join(filter(None, (self._texts[end].strip() for end in self._commits)))

    def start_over(self) -> int:
        """For a new socket: make one piece of those without a text, and return where it begins."""
        known = 0
        while known < len(self._commits) and self._commits[known] in self._texts:
            known += 1
        self._commits = self._commits[:known] + self._commits[known:][-1:]
        return self._commits[known - 1] if known else 0


@dataclass(frozen=True, slots=True)
class Completed:
    """The text of a piece."""

    utterance: Utterance
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The server reports a fault; it does not say of which piece."""

    fault: SpeechFault
    final: bool = False
    """Whether another socket would be told the same."""


class Protocol:
    """The messages of one socket (core: no socket, no clock)."""

    def __init__(self, config: OpenAiSttConfig, audio: AudioFormat) -> None:
        self._config, self._audio = config, audio
        self._resampler = StreamResampler(audio.rate_hz, RATE_HZ)
        self._unnamed: deque[tuple[Utterance, int]] = deque()  # committed, in order; the server names them
        self._named: dict[str, tuple[Utterance, int]] = {}
        self._configured = False

    def hello(self) -> str:
        """Configure the session."""
        config = self._config
        transcription: dict[str, Any] = {"model": config.model, **config.extra}
        if config.language is not None:
            transcription["language"] = config.language
        if config.realtime_protocol == "beta":
            flat = {"input_audio_format": "pcm16", "input_audio_transcription": transcription, "turn_detection": None}
            return _event("transcription_session.update", event_id=_SESSION, session=flat)
        sound = {"type": "audio/pcm", "rate": RATE_HZ}
        heard = {"format": sound, "transcription": transcription, "turn_detection": None}
        session = {"type": "transcription", "audio": {"input": heard}}
        return _event("session.update", event_id=_SESSION, session=session)

    def append(self, payload: bytes) -> list[str]:
        """Send wire audio, whole samples."""
        return _appended(self._resampler.push(self._audio.decode(payload)))

    def commit(self, utterance: Utterance, end: int) -> list[str]:
        """End a piece; its text will be told with its utterance and end."""
        self._unnamed.append((utterance, end))
        tail = _appended(self._resampler.flush())
        self._resampler = StreamResampler(self._audio.rate_hz, RATE_HZ)
        return [*tail, _event("input_audio_buffer.commit")]

    def clear(self) -> list[str]:
        """Take back what was sent since the last commit."""
        self._resampler = StreamResampler(self._audio.rate_hz, RATE_HZ)
        return [_event("input_audio_buffer.clear")]

    def receive(self, data: str) -> Completed | Failed | None:
        """Take a message; many say nothing that matters here.

        Raises:
            SpeechFault: it is none.
        """
        try:
            event = json.loads(data)
            return self._receive(event["type"], event)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise SpeechFault("broken", "the realtime socket sent something that is no event") from None

    def _receive(self, kind: str, event: dict[str, Any]) -> Completed | Failed | None:
        match kind:
            case "session.updated" | "transcription_session.updated":
                self._configured = True
            case "input_audio_buffer.committed" if self._unnamed:
                self._configured = True
                self._named[event["item_id"]] = self._unnamed.popleft()
            case "conversation.item.input_audio_transcription.completed":
                return self._completed(event["item_id"], event["transcript"])
            case "conversation.item.input_audio_transcription.failed":
                return Failed(_fault(event.get("error") or {}))
            case "error":
                return self._error(event.get("error") or {})
        return None

    def _completed(self, item: str, text: str) -> Completed | None:
        if not isinstance(text, str) or len(text) > _MAX_TEXT:
            raise SpeechFault("broken", "the transcription has no end")
        if item in self._named:
            return Completed(*self._named.pop(item), text)
        # Some servers do not confirm a commit; then they answer in order.
        return Completed(*self._unnamed.popleft(), text) if self._unnamed else None

    def _error(self, error: dict[str, Any]) -> Failed:
        fault = _fault(error)
        about = error.get("event_id") or (None if self._configured else _SESSION)
        return Failed(fault, fault.kind == "auth" or (fault.kind == "refused" and about == _SESSION))


def _event(kind: str, **fields: Any) -> str:
    return json.dumps({"type": kind, **fields})


def _appended(samples: Int16Array) -> list[str]:
    if not len(samples):
        return []
    audio = base64.b64encode(samples.astype("<i2", copy=False).tobytes()).decode()
    return [_event("input_audio_buffer.append", audio=audio)]


def _fault(error: dict[str, Any]) -> SpeechFault:
    """Name the fault of an error event, without its message, which may repeat what it was sent."""
    words = f"{error.get('type')} {error.get('code')}"
    kind: SpeechFaultKind = "refused"
    if "api_key" in words or "auth" in words or "permission" in words:
        kind = "auth"
    elif "rate_limit" in words or "quota" in words:
        kind = "rate_limited"
    elif "server_error" in words or "session_expired" in words:
        kind = "unavailable"
    return SpeechFault(kind, f"the realtime endpoint reports a fault: {kind}")
