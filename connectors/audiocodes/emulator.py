"""VoiceAI Connect's side of a streaming conversation, as a core: what it sends, and a player that keeps its habits.

Used by `fastagent call --wire audiocodes` and by the tests. What it does where the facts are not documented is what was
seen of it, or the harsher of two guesses:

* The caller hears ringing, and is not heard, until the bot has played something.
* With barge-in off the user stream stops while a play stream is open or plays, and starts again behind it. With
  barge-in on it goes on, and speech that the bot reports silences what waits to be played.
* `playStream.stop` cuts nothing off. `playFinished` comes if it was asked for.

It also judges: whatever a bot must not send is in `violations`.
"""

import json
import uuid
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections import deque
from typing import Any

from fastagent.connectors.audiocodes.formats import PREFERENCE, MediaFormat

LIVE_OFFER = tuple(f"{kind}/{name}" for name in ("lpcm16_8", "mulaw", "lpcm16", "lpcm16_24") for kind in ("raw", "wav"))
_FIELDS: dict[str, tuple[set[str], set[str]]] = {  # what must be there, and what may
    "connection.validated": ({"success"}, set()),
    "session.accepted": (set(), {"mediaFormat"}),
    "session.error": ({"reason"}, set()),
    "userStream.started": (set(), {"participant"}),
    "userStream.stopped": (set(), {"participant"}),
    "userStream.speech.started": (set(), {"participant"}),
    "userStream.speech.stopped": (set(), {"participant"}),
    "userStream.speech.committed": (set(), {"participant"}),
    "userStream.speech.hypothesis": ({"alternatives"}, {"participant"}),
    "userStream.speech.recognition": ({"alternatives"}, {"participant"}),
    "playStream.start": ({"streamId", "mediaFormat"}, {"altText", "activityParams", "participant", "targetPlayer"}),
    "playStream.chunk": ({"streamId", "audioChunk"}, set()),
    "playStream.stop": ({"streamId"}, set()),
    "activities": ({"activities"}, set()),
}
_EVENTS = frozenset(
    (
        "hangup transfer handover playurl senddtmf config startrecognition stoprecognition startcallrecording "
        "stopcallrecording pausecallrecording resumecallrecording sendmetadata abortprompts expectanotherbotmessage"
    ).split()
)

Json = dict[str, Any]


class VoiceAiEmulator:
    """One conversation.

    Args:
        formats: what is offered, in this order.
        voice: whether the bot's audio is wanted; else its words.
        barge_in: the setting as the administrator made it; a `config` of the bot's changes it.
        connect_on_prompt: whether the call is answered only when the bot plays something.
        transfer_fails: what becomes of a transfer: a reason code, or None for success.
    """

    def __init__(
        self,
        *,
        conversation_id: str | None = None,
        caller: str = "+15550100001",
        callee: str = "+15550100002",
        bot_name: str = "bot",
        formats: tuple[str, ...] = LIVE_OFFER,
        voice: bool = True,
        barge_in: bool = False,
        connect_on_prompt: bool = True,
        transfer_fails: str | None = None,
    ) -> None:
        self.conversation_id = conversation_id or str(uuid.uuid4())
        self.violations: list[str] = []
        self.params: Json = {"bargeIn": barge_in}
        self.form: MediaFormat | None = None
        self.refused: str | None = None
        """The reason of a `session.error`."""
        self.ended = False
        self.answered = not connect_on_prompt
        self.received_bytes = self.max_buffered = self.streams = self.finished = self.interruptions = 0
        self.texts: list[str] = []
        self.recognised: list[str] = []
        self.speech: list[str] = []
        self.events: list[str] = []
        self.hung_up: str | None = None
        self.transferred_to: str | None = None
        self._caller, self._callee, self._bot_name = caller, callee, bot_name
        self._formats, self._voice, self._transfer_fails = formats, voice, transfer_fails
        self._accepted = False
        self._open: str | None = None
        self._cut = False  # the open stream was interrupted: nothing more of it may come
        self._used: set[str] = set()
        self._buffer: deque[tuple[str, bytes]] = deque()
        self._buffered = 0
        self._unfinished: deque[str] = deque()  # closed, and still to be played or to be reported
        self._asked = self._flowing = False  # a user stream was asked for; it flows

    # -- what VoiceAI Connect sends --------------------------------------------------------------------------------

    def _message(self, type_: str, **fields: Any) -> str:
        return json.dumps({"type": type_, "conversationId": self.conversation_id, **fields})

    def opening(self) -> str:
        """Return `session.initiate`."""
        return self._message(
            "session.initiate",
            botName=self._bot_name,
            caller=self._caller,
            expectAudioMessages=self._voice,
            supportedMediaFormats=list(self._formats),
        )

    def resume(self) -> str:
        """The connection was lost: return `session.resume` for another one."""
        self._accepted = self._asked = self._flowing = False
        if self._open is not None:
            self._unfinished.append(self._open)
        self._open, self._cut = None, False
        return self._message("session.resume", supportedMediaFormats=list(self._formats))

    def _event(self, name: str, **fields: Any) -> str:
        stamp = {"id": str(uuid.uuid4()), "timestamp": "2026-01-01T00:00:00.000Z", "language": "en-US"}
        return self._message("activities", activities=[{"type": "event", "name": name, **stamp, **fields}])

    def start(self) -> str:
        """Return the `start` activity."""
        parameters = {
            "vaigConversationId": self.conversation_id,
            "caller": self._caller,
            "callee": self._callee,
            "callerHost": "sip.example.net",
            "calleeHost": "192.0.2.15",
        }
        return self._event("start", parameters=parameters)

    def ask_for_stream(self) -> str:
        """Return `userStream.start`."""
        self._asked = True
        return self._message("userStream.start")

    def stop_stream(self) -> str:
        """Return `userStream.stop`."""
        self._asked = self._flowing = False
        return self._message("userStream.stop")

    @property
    def hears_caller(self) -> bool:
        """Whether the caller's audio goes to the bot."""
        return self._flowing and self.answered and not self.ended

    def media(self, payload: bytes) -> str:
        """Return a `userStream.chunk`."""
        return self._message("userStream.chunk", audioChunk=b64encode(payload).decode())

    def dtmf(self, digits: str) -> str:
        """Return a `DTMF` activity."""
        return self._event("DTMF", value=digits)

    def message(self, text: str) -> str:
        """Return the caller's words, recognised by VoiceAI Connect."""
        activity = {"type": "message", "id": str(uuid.uuid4()), "text": text, "parameters": {"confidence": 0.9}}
        return self._message("activities", activities=[activity])

    def end(self, code: str = "client-disconnected", reason: str = "Client Side") -> str:
        """Return `session.end`."""
        self.ended = True
        return self._message("session.end", reasonCode=code, reason=reason)

    # -- what the bot sends ----------------------------------------------------------------------------------------

    def receive(self, text: str) -> tuple[str, list[str]]:
        """Take a message; return what it was, and the messages that answer it at once.

        What it was is its type; `clear` where it has silenced playback, and the name of an event that ends the call.
        """
        try:
            message = json.loads(text)
            type_ = message["type"]
        except (ValueError, KeyError, TypeError):
            self.violations.append("not JSON with a type")
            return "", []
        if self.ended:
            return type_, []  # it was on its way
        if not self._well_formed(message):
            return type_, []
        if type_.startswith("playStream."):
            return type_, self._play_stream(type_.partition(".")[2], message)
        if type_.startswith("userStream.speech."):
            return self._told_of_speech(type_, message), []
        if type_ == "activities":
            return self._activities(message["activities"])
        return type_, self._session(type_, message)

    def _well_formed(self, message: Json) -> bool:
        type_ = message["type"]
        if not isinstance(type_, str) or type_ not in _FIELDS:
            self.violations.append(f"unknown type {type_!r:.40}")
            return False
        needed, allowed = _FIELDS[type_]
        given = set(message) - {"type", "conversationId"}
        if not needed <= given <= needed | allowed:
            self.violations.append(f"{type_}: wrong fields {sorted(given)}")
            return False
        opening = type_ in ("session.accepted", "session.error", "connection.validated")
        if not opening and not self._accepted:
            self.violations.append(f"{type_} before session.accepted")
            return False
        return True

    def _session(self, type_: str, message: Json) -> list[str]:
        if type_ == "session.error":
            self.refused, self.ended = message["reason"], True
        elif type_ == "session.accepted":
            return self._take_accepted(message.get("mediaFormat"))
        elif type_ == "userStream.started":
            if not self._asked:
                self.violations.append("userStream.started without userStream.start")
            self._flowing = self._asked
        return []

    def _take_accepted(self, name: str | None) -> list[str]:
        resumed = self.form is not None
        if self._accepted or (self._voice and name not in self._formats) or (name and name not in PREFERENCE):
            self.violations.append(f"session.accepted with {name!r:.40}, or twice")
            return []
        if resumed and self.form is not None and name not in (None, self.form.name):
            self.violations.append("another format after session.resume")
        self._accepted = True
        self.form = MediaFormat(name) if name else self.form
        if resumed:
            return [self.ask_for_stream()] if self._may_stream else []
        return [self.start(), *([self.ask_for_stream()] if self.form is not None else [])]

    def _play_stream(self, what: str, message: Json) -> list[str]:
        stream = message["streamId"]
        if what == "start":
            return self._start_playing(stream, message["mediaFormat"])
        if stream != self._open:
            self.violations.append(f"playStream.{what} outside the open stream")
        elif what == "chunk":
            self._take_audio(stream, message["audioChunk"])
        else:
            self._open = None
            self._unfinished.append(stream)
        return []

    def _start_playing(self, stream: str, form: str) -> list[str]:
        if self._open is not None or stream in self._used or form not in self._formats or not self._voice:
            self.violations.append(f"playStream.start {stream!r:.20}: two at once, used before, or not as offered")
        self._used.add(stream)
        self._open, self._cut = stream, False
        self.streams += 1
        return [self.stop_stream()] if self._flowing and not self.params.get("bargeIn") else []

    def _take_audio(self, stream: str, chunk: str) -> None:
        assert self.form is not None
        try:
            payload = b64decode(chunk, validate=True)
        except (Base64Error, TypeError, ValueError):
            self.violations.append("playStream.chunk: no base64")
            return
        if self.form.wav and payload.startswith(b"RIFF"):
            payload = payload[44:]
        if not payload or len(payload) % self.form.audio.sample_bytes or payload.startswith(b"RIFF"):
            self.violations.append(f"playStream.chunk: {len(payload)} bytes are not whole samples of {self.form.name}")
            return
        if self._cut:
            self.violations.append("audio of an answer that was interrupted")
        self.answered = True
        self.received_bytes += len(payload)
        self._buffer.append((stream, payload))
        self._buffered += len(payload)
        self.max_buffered = max(self.max_buffered, self._buffered)

    def _told_of_speech(self, type_: str, message: Json) -> str:
        kind = type_.rpartition(".")[2]
        self.speech.append(kind)
        if kind in ("hypothesis", "recognition"):
            self._words(kind, message["alternatives"])
        if kind not in ("started", "hypothesis") or not self.params.get("bargeIn"):
            return type_
        if not self._buffer and self._open is None:
            return type_
        self._buffer.clear()
        self._buffered = 0
        self._cut = self._open is not None
        self._unfinished.clear()  # nothing was finished
        self.interruptions += 1
        return "clear"

    def _words(self, kind: str, alternatives: Any) -> None:
        try:
            (first,) = alternatives
            text, confidence = first["text"], first.get("confidence")
            right = isinstance(text, str) and (kind == "hypothesis" or 0 <= confidence <= 1)
        except (TypeError, KeyError, ValueError, AttributeError):
            right = False
        if not right:
            self.violations.append(f"userStream.speech.{kind}: wrong alternatives")
        elif kind == "recognition":
            self.recognised.append(text)

    # -- activities ------------------------------------------------------------------------------------------------

    def _activities(self, activities: Any) -> tuple[str, list[str]]:
        what, answers = "activities", list[str]()
        for one in activities if isinstance(activities, list) else [None]:
            if not isinstance(one, dict) or one.get("type") not in ("message", "event") or not one.get("id"):
                self.violations.append("activities: no message and no event, or no id")
                continue
            if one["type"] == "message":
                self.texts.append(one.get("text", ""))
                self.answered = True
                what = "message"
                continue
            name = str(one.get("name", "")).lower()
            if name not in _EVENTS:
                self.violations.append(f"activities: unknown event {name!r:.40}")
            self.events.append(name)
            self.params |= one.get("sessionParams") or {}
            ending = self._ending(name, one.get("activityParams") or {})
            if ending:
                what, answers = name, [*answers, *ending]
        return what, answers

    def _ending(self, name: str, params: Json) -> list[str]:
        if name == "hangup":
            self.hung_up = str(params.get("hangupReason", ""))
            return [self.end("bot-disconnected", self.hung_up)]
        if name == "senddtmf" and not 0 < len(str(params.get("dtmfDigits", ""))) <= 20:
            self.violations.append("sendDtmf: would be ignored")
        if name not in ("transfer", "handover"):
            return []
        self.transferred_to = params.get("transferTarget")
        if not self.transferred_to:
            self.violations.append("transfer: no transferTarget")
        if self._transfer_fails and params.get("transferNotifications"):
            status = {"status": "failed", "reasonCode": self._transfer_fails, "reason": ""}
            return [self._event("transferStatus", value=status)]
        return [self.end("transferred", "")]

    # -- playback --------------------------------------------------------------------------------------------------

    @property
    def buffered_ms(self) -> int:
        """Audio still to be played."""
        return self._buffered * 1000 // self._bytes_per_s if self.form else 0

    @property
    def _bytes_per_s(self) -> int:
        assert self.form is not None
        return self.form.audio.rate_hz * self.form.audio.sample_bytes

    @property
    def received_s(self) -> float:
        """All audio that came."""
        return self.received_bytes / self._bytes_per_s if self.form else 0.0

    @property
    def max_buffered_ms(self) -> int:
        """The most that ever waited to be played."""
        return self.max_buffered * 1000 // self._bytes_per_s if self.form else 0

    @property
    def _may_stream(self) -> bool:
        playing = self._open is not None or bool(self._buffer)
        return self.form is not None and (bool(self.params.get("bargeIn")) or not playing)

    def play(self) -> tuple[bytes, list[str]]:
        """Play 20 ms: return what the caller hears (silence if there is nothing), and the messages that this brings."""
        if self.form is None:
            return b"", []
        frame, heard = self.form.audio.frame_bytes, b""
        while len(heard) < frame and self._buffer:
            stream, payload = self._buffer.popleft()
            rest = payload[frame - len(heard) :]
            heard += payload[: frame - len(heard)]
            if rest:
                self._buffer.appendleft((stream, rest))
        self._buffered -= len(heard)
        missing = (frame - len(heard)) // self.form.audio.sample_bytes
        return heard + self.form.audio.silence(missing), self._after_playing()

    def _after_playing(self) -> list[str]:
        if self.ended or not self._accepted:
            return []
        messages = []
        waiting = {stream for stream, _ in self._buffer}
        while self._unfinished and self._unfinished[0] not in waiting:
            stream = self._unfinished.popleft()
            self.finished += 1
            if "playFinished" in self.params.get("sendEventsToBot", ()):
                messages.append(self._event("playFinished", streamId=stream))
        if not self._asked and self._may_stream:
            messages.append(self.ask_for_stream())
        return messages
