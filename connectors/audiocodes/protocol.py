"""The core of the streaming mode: messages in; events, and messages out; no socket, no clock.

    OPENED --session.initiate / session.resume--> ASKED --accept--> ACTIVE --session.end--> ENDED
       \\--connection.validate--> ENDED               \\--refuse--> ENDED

One socket, one core. A resumed conversation gets a new one, which `take_over`s what must go on: the format, the numbers
of play streams, the activities seen. What is malformed, unknown or out of place is counted under a fixed word and
dropped, and never ends a conversation.

What must be answered at once (`userStream.started`, `connection.validated`) waits in `replies` after each `receive`.
"""

import json
import re
from base64 import b64encode
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

import msgspec

from fastagent.connectors.audiocodes import messages
from fastagent.connectors.audiocodes.activities import ActivityEvent, ActivityReader, ActivityWriter, Json
from fastagent.connectors.audiocodes.formats import CallerAudio, MediaFormat
from fastagent.connectors.json_depth import too_deep
from fastagent.media.errors import AudioFormatError

CONVERSATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")
_KNOWN = re.compile(
    r'"type"\s*:\s*"(?:connection\.validate|session\.(?:initiate|resume|end)|userStream\.(?:start|chunk|stop)|activities)"'
)
_MAX_PARTICIPANT = 64

SpeechKind = Literal["started", "stopped", "hypothesis", "recognition", "committed"]


class Phase(Enum):
    """Where the socket is."""

    OPENED = "opened"
    ASKED = "asked"
    ACTIVE = "active"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Validated:
    """It was only a check; the reply is ready."""


@dataclass(frozen=True, slots=True)
class Initiated:
    """A conversation is offered: `accept` it or `refuse` it."""

    conversation_id: str
    bot_name: str
    caller: str
    voice: bool
    """Whether our audio is wanted; else our words."""
    formats: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Resumed:
    """A conversation is to go on here: `accept` it or `refuse` it."""

    conversation_id: str
    formats: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AudioReceived:
    """Caller audio in the accepted format, in whole samples."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class AudioStopped:
    """The user stream is closed."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The conversation is over, and why, in the other side's words."""

    reason_code: str
    reason: str


Event = Validated | Initiated | Resumed | AudioReceived | AudioStopped | Ended | ActivityEvent


class StreamProtocol:
    """One socket."""

    def __init__(self, writer: ActivityWriter | None = None) -> None:
        self.phase = Phase.OPENED
        self.conversation_id = ""
        self.form: MediaFormat | None = None
        self.replies: list[str] = []
        self.dropped: Counter[str] = Counter()
        """Messages dropped, by reason."""
        self.write = writer or ActivityWriter()
        self.playing: str | None = None
        """The play stream that is open."""
        self.played = 0
        """The number of the last one."""
        self._reader = ActivityReader()
        self._reader.dropped = self.dropped
        self._open: set[str | None] = set()  # user streams
        self._speaker: str | None = None  # the participant whose audio we take
        self._audio: CallerAudio | None = None
        self._lenient = False  # after a resume, audio may go on without another userStream.start

    # -- in --------------------------------------------------------------------------------------------------------

    def receive(self, text: str) -> list[Event]:
        """Take a text frame; never raises."""
        if too_deep(text):
            self.dropped["malformed"] += 1
            return []
        try:
            message = messages.decode(text)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:  # ValidationError is a DecodeError
            self._unreadable(text, error)
            return []
        if type(message) is messages.Chunk:
            return self._chunk(message)
        if isinstance(message, messages.Validate):
            return self._validate()
        if isinstance(message, messages.Initiate | messages.Resume):
            return self._asked(message)
        assert not isinstance(message, messages.Chunk)
        if not self._active(message.conversation_id):
            return []
        match message:
            case messages.StreamStart():
                self._start_stream(message.participant)
            case messages.StreamStop():
                return self._stop_stream(message.participant)
            case messages.Activities():
                return list(self._reader.read(message.activities))
            case messages.End():
                self.phase, self.playing = Phase.ENDED, None
                return [Ended(message.reason_code[:64], message.reason[:200])]
        return []

    def _unreadable(self, text: str, error: Exception) -> None:
        unknown = isinstance(error, msgspec.ValidationError) and not _KNOWN.search(text[:4096])
        self.dropped["unknown_type" if unknown else "malformed"] += 1

    def _active(self, conversation_id: str) -> bool:
        """Whether a message is for the conversation of this socket, while there is one."""
        if self.phase is not Phase.ACTIVE:
            self.dropped["early_message" if self.phase is not Phase.ENDED else "after_end"] += 1
            return False
        if conversation_id and conversation_id != self.conversation_id:
            self.dropped["other_conversation"] += 1
            return False
        return True

    def _validate(self) -> list[Event]:
        if self.phase is not Phase.OPENED:
            self.dropped["out_of_place"] += 1
            return []
        self.phase = Phase.ENDED
        self.replies.append('{"type":"connection.validated","success":true}')
        return [Validated()]

    def _asked(self, message: messages.Initiate | messages.Resume) -> list[Event]:
        if self.phase is not Phase.OPENED:
            self.dropped["second_session"] += 1
            return []
        if not CONVERSATION.fullmatch(message.conversation_id):
            self.dropped["malformed"] += 1
            return []
        self.phase, self.conversation_id = Phase.ASKED, message.conversation_id
        formats = tuple(message.supported_media_formats[:64])
        if isinstance(message, messages.Resume):
            return [Resumed(message.conversation_id, formats)]
        voice = message.expect_audio_messages
        return [Initiated(message.conversation_id, message.bot_name[:64], message.caller[:128], voice, formats)]

    def _chunk(self, message: messages.Chunk) -> list[Event]:
        if not self._active(message.conversation_id):
            return []
        if self._audio is None or message.participant not in self._open:
            if not self._lenient or self._open:
                self.dropped["chunk_without_stream"] += 1
                return []
            self._hear(message.participant)
        if message.participant != self._speaker:
            self.dropped["second_participant"] += 1
            return []
        assert self._audio is not None
        try:
            payload = self._audio.push(message.audio_chunk)
        except AudioFormatError:
            self.dropped["audio"] += 1
            return []
        return [AudioReceived(payload)] if payload else []

    def _hear(self, participant: str | None) -> None:
        if not self._open:
            self._speaker = participant
            self._audio = CallerAudio(self.form) if self.form is not None else None
        self._open.add(participant)

    def _start_stream(self, participant: str | None) -> None:
        if participant is not None and len(participant) > _MAX_PARTICIPANT:
            self.dropped["malformed"] += 1
            return
        if len(self._open) < 8:
            self._hear(participant)
        self.replies.append(encoded({"type": "userStream.started", **_of(participant)}))

    def _stop_stream(self, participant: str | None) -> list[Event]:
        self._lenient = False
        if participant not in self._open:
            self.dropped["out_of_place"] += 1
        self._open.discard(participant)
        self.replies.append(encoded({"type": "userStream.stopped", **_of((participant or "")[:64] or None)}))
        return [AudioStopped()] if participant == self._speaker and self._audio is not None else []

    # -- what the shell decides ------------------------------------------------------------------------------------

    def accept(self, form: MediaFormat | None) -> str:
        """Return `session.accepted`; without a format in a session that has no audio at all."""
        self.phase, self.form = Phase.ACTIVE, form
        return encoded({"type": "session.accepted", **({"mediaFormat": form.name} if form else {})})

    def take_over(self, before: "StreamProtocol") -> None:
        """Go on with a conversation of another socket: its streams are closed, their numbers are used."""
        self._reader = before._reader
        self._reader.dropped = self.dropped
        self.played = before.played
        self._lenient = True

    def go_on(self, played: int) -> None:
        """Go on with a conversation of another process, of which only the number of play streams is known."""
        self.played, self._lenient = played, True

    def refuse(self, reason: str) -> str:
        """Return `session.error`; the socket is closed after it."""
        self.phase = Phase.ENDED
        return encoded({"type": "session.error", "reason": reason})

    @property
    def hears(self) -> bool:
        """Whether a user stream is open."""
        return bool(self._open)

    # -- out -------------------------------------------------------------------------------------------------------

    def start_playing(self) -> str:
        """Open a play stream; there is none, or this is a fault of ours."""
        assert self.form is not None
        if self.playing is not None:
            raise RuntimeError("two play streams at once")
        self.played += 1
        self.playing = str(self.played)
        return encoded({"type": "playStream.start", "streamId": self.playing, "mediaFormat": self.form.name})

    def audio(self, payload: bytes) -> str:
        """Return a chunk for the open play stream."""
        if self.playing is None:
            raise RuntimeError("audio outside a play stream")
        return f'{{"type":"playStream.chunk","streamId":"{self.playing}","audioChunk":"{b64encode(payload).decode()}"}}'

    def stop_playing(self) -> str | None:
        """Close the play stream; None where there is none. What was sent of it is still played."""
        stream, self.playing = self.playing, None
        return encoded({"type": "playStream.stop", "streamId": stream}) if stream is not None else None

    def speech(self, kind: SpeechKind, text: str | None = None, confidence: float | None = None) -> str:
        """Tell what we hear: VoiceAI Connect interrupts its playback by it, and knows that somebody is there."""
        told: Json = {"type": f"userStream.speech.{kind}", **_of(self._speaker)}
        if text is not None:
            said: Json = {"text": text}
            if kind == "recognition":
                said["confidence"] = 1.0 if confidence is None else min(1.0, max(0.0, confidence))
            told["alternatives"] = [said]
        return encoded(told)

    @staticmethod
    def activities(*activities: Json) -> str:
        """Return activities as a message."""
        return encoded({"type": "activities", "activities": list(activities)})


def _of(participant: str | None) -> dict[str, str]:
    return {} if participant is None else {"participant": participant}


def encoded(message: dict[str, Any]) -> str:
    """Return a message as text."""
    try:
        return messages.encode(message).decode()
    except UnicodeEncodeError:  # half a character of a model's
        return json.dumps(message)
