"""The core of an API socket: messages in, events and messages out; no socket, no clock.

    OPENED --start_session--> STARTED --end_session, the agent, a close--> ENDED

Bad input never ends a session: it is answered with the documented error, counted under its code, and dropped. Before
`start_session` there is no session to speak to (`invalid_request`), after the end there is none any more
(`session_not_found`).
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import msgspec

from fastagent.connectors.json_depth import MAX_DEPTH, too_deep
from fastagent.connectors.leg import DtmfReceived, InterruptRequested, TextReceived
from fastagent.connectors.websocket import messages
from fastagent.connectors.websocket.audio import DEFAULT_HZ, AudioIn, UnsupportedFormat, Wire, negotiated
from fastagent.media.errors import AudioFormatError

_MAX_METADATA = 16 * 1024
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_HEADER = 8  # bytes before the audio of a binary frame


class Phase(Enum):
    """Where the socket is."""

    OPENED = "opened"
    STARTED = "started"
    ENDED = "ended"


class Refused(Exception):
    """A message that is not done, and what its sender is told."""

    def __init__(self, code: str, message: str, details: object = None) -> None:
        super().__init__(message)
        self.code, self.message, self.details = code, message, details


@dataclass(frozen=True, slots=True)
class StartRequested:
    """The client wants a session; the shell decides, and says `started` or sends an error."""

    agent_id: str | None
    metadata: Mapping[str, str]
    output: Wire
    audio_in: AudioIn
    binary: bool
    events: frozenset[str] | None
    session_id: str | None
    resume_secret: str | None


@dataclass(frozen=True, slots=True)
class AudioReceived:
    """Caller audio: L16 at the rate of the session."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Played:
    """The client has played so much of an utterance."""

    utterance_id: str
    played_ms: float


@dataclass(frozen=True, slots=True)
class EndRequested:
    """The caller hangs up, in the client's own words."""

    reason: str


Event = (
    StartRequested | AudioReceived | DtmfReceived | TextReceived | InterruptRequested | Played | EndRequested | Refused
)


@dataclass(slots=True)
class SocketProtocol:
    """One socket.

    Args:
        session_id: what the header `X-Session-ID` asks for.
    """

    session_id: str | None = None
    phase: Phase = Phase.OPENED
    refused: Counter[str] = field(default_factory=Counter)
    """Messages refused, by code."""
    dropped_chunks: int = 0
    missing_chunks: int = 0
    audio_in: AudioIn | None = None
    _last_chunk: int = -1
    _binary: bool = False

    # -- in --------------------------------------------------------------------------------------------------------

    def receive(self, text: str) -> list[Event]:
        """Take a text message. What is wrong with it is an event, too: `Refused`."""
        try:
            return list(self._receive(text))
        except Refused as refused:
            return [self._count(refused)]

    def receive_binary(self, data: bytes) -> list[Event]:
        """Take a binary frame: eight bytes of header, then audio in the negotiated format."""
        try:
            if self.phase is Phase.OPENED or not self._binary:
                raise Refused("invalid_request", "binary frames were not negotiated", "start_session, audio.binary")
            self._expect_session()
            if len(data) < _HEADER:
                raise Refused("invalid_request", "a binary frame has eight bytes before its audio")
            return list(self._audio(data[_HEADER:], None, int.from_bytes(data[:4], "big")))
        except Refused as refused:
            return [self._count(refused)]

    def _count(self, refused: Refused) -> Refused:
        self.refused[refused.code] += 1
        return refused

    def _receive(self, given: str) -> Iterator[Event]:
        envelope = _envelope(given)
        if envelope.type not in messages.CLIENT:
            raise Refused("invalid_request", f"Unknown message type: {_shown(envelope.type)}", sorted(messages.CLIENT))
        if (
            envelope.session_id is not None
            and self.phase is not Phase.OPENED
            and envelope.session_id != self.session_id
        ):
            raise Refused("session_not_found", "this socket has another session")
        message = self._payload(envelope)
        if isinstance(message, messages.StartSession):
            yield self._start(message)
            return
        self._expect_session()
        match message:
            case messages.AudioData():
                yield from self._audio(message.data, message.format, message.chunk_id)
            case messages.Dtmf():
                for digit in message.digits.upper():
                    yield DtmfReceived(digit)
            case messages.TextInput():
                text = _CONTROL.sub(" ", message.text).strip()
                if not text:
                    raise Refused("invalid_request", "payload.text is empty")
                yield TextReceived(text)
            case messages.Interrupt():
                yield InterruptRequested()
            case messages.PlaybackStatus():
                yield Played(message.utterance_id, message.played_ms)
            case messages.EndSession():
                yield EndRequested(_CONTROL.sub(" ", message.reason).strip())

    def _payload(self, envelope: messages.Envelope) -> msgspec.Struct:
        raw = bytes(envelope.payload)
        try:
            return messages.decoders[envelope.type](b"{}" if raw in (b"", b"null") else raw)
        except msgspec.ValidationError as error:
            raise Refused(*_told(envelope.type, error)) from None
        except (msgspec.DecodeError, RecursionError) as error:
            raise Refused("invalid_request", f"payload: {_shown(str(error))}") from None

    def _expect_session(self) -> None:
        if self.phase is Phase.OPENED:
            raise Refused("invalid_request", "there is no session yet", "start_session comes first")
        if self.phase is Phase.ENDED:
            raise Refused("session_not_found", "the session has ended")

    def _start(self, message: messages.StartSession) -> StartRequested:
        if self.phase is Phase.ENDED:
            raise Refused("session_not_found", "the session has ended", "one session a socket")
        if self.phase is Phase.STARTED:
            raise Refused("invalid_request", "the session has begun already", "one session a socket")
        if message.session_id and self.session_id and message.session_id != self.session_id:
            raise Refused("invalid_request", "X-Session-ID and payload.session_id differ")
        try:
            wire = negotiated(message.audio.input, output=False)
            output = negotiated(message.audio.output, output=True)
        except UnsupportedFormat as error:
            raise Refused("invalid_audio_format", str(error), error.supported) from None
        except AudioFormatError as error:
            raise Refused("invalid_audio_format", str(error)) from None
        return StartRequested(
            message.agent_id,
            _metadata(message.metadata),
            output,
            AudioIn(wire, 8000 if wire.rate_hz == 8000 else DEFAULT_HZ),
            message.audio.binary,
            None if message.events is None else frozenset(message.events),
            message.session_id or self.session_id,
            message.resume_secret,
        )

    def _audio(self, data: bytes, format_: str | None, chunk_id: int | None) -> Iterator[Event]:
        assert self.audio_in is not None
        if chunk_id is not None:
            if chunk_id <= self._last_chunk:
                self.dropped_chunks += 1
                return
            if self._last_chunk >= 0:
                self.missing_chunks += chunk_id - self._last_chunk - 1
            self._last_chunk = chunk_id
        try:
            payload = self.audio_in.push(data, format_)
        except UnsupportedFormat as error:
            raise Refused("invalid_audio_format", str(error), error.supported) from None
        except AudioFormatError as error:
            raise Refused("audio_processing_failed", "The audio could not be read", str(error)) from None
        if payload:
            yield AudioReceived(payload)

    # -- what the shell decides ------------------------------------------------------------------------------------

    def started(self, session_id: str, request: StartRequested) -> None:
        """The session exists."""
        self.phase, self.session_id = Phase.STARTED, session_id
        self.audio_in, self._binary = request.audio_in, request.binary

    def ended(self) -> None:
        """The session is over."""
        self.phase = Phase.ENDED

    # -- out -------------------------------------------------------------------------------------------------------

    def message(self, type_: str, payload: Mapping[str, Any], wall_s: float) -> str:
        """Return a message in its envelope; `wall_s` are seconds since 1970."""
        return envelope(type_, payload, self.session_id, wall_s)

    def error(self, refused: Refused, wall_s: float) -> str:
        """Return the documented error."""
        payload = {"code": refused.code, "message": refused.message, "details": refused.details}
        return envelope("error", payload, self.session_id, wall_s)


def envelope(type_: str, payload: Mapping[str, Any], session_id: str | None, wall_s: float) -> str:
    """Return a message of ours: whole seconds as documented, and milliseconds beside them."""
    body = {
        "type": type_,
        "payload": payload,
        "session_id": session_id,
        "timestamp": int(wall_s),
        "timestamp_ms": int(wall_s * 1000),
    }
    try:
        return messages.encode(body).decode()
    except UnicodeEncodeError:  # half a character of a model's
        return json.dumps(body, default=str)


def _envelope(text: str) -> messages.Envelope:
    if too_deep(text):
        raise Refused("invalid_request", f"JSON is nested more than {MAX_DEPTH} deep")
    try:
        return messages.decode_envelope(text)
    except msgspec.ValidationError as error:
        raise Refused("invalid_request", _shown(str(error))) from None
    except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError):
        raise Refused("invalid_request", "the message is no JSON object with `type` and `payload`") from None


def _told(type_: str, error: msgspec.ValidationError) -> tuple[str, str, object]:
    text = _shown(str(error).replace("`$", "`payload"))
    if type_ == "audio_data" and ".data" in text:
        return "audio_processing_failed", "The audio could not be read", text
    return "invalid_request", f"{type_}: {text}", None


def _shown(text: str) -> str:
    """What is echoed is short and printable."""
    return _CONTROL.sub(" ", text)[:200]


def _metadata(given: Mapping[str, Any]) -> dict[str, str]:
    """Metadata as texts without control characters.

    Raises:
        Refused: there is too much of it.
    """
    if len(messages.encode(given)) > _MAX_METADATA:
        raise Refused("invalid_request", f"payload.metadata has {_MAX_METADATA} bytes at most")
    return {
        _CONTROL.sub(" ", name)[:64]: _CONTROL.sub(
            " ", value if isinstance(value, str) else messages.encode(value).decode()
        )
        for name, value in given.items()
    }
