"""The core of a Media Streams socket: messages in, events and messages out; no socket, no clock.

    OPENED --connected--> CONNECTED --start--> STREAMING --stop, close--> ENDED

`start` may also come first: its content is what counts. Bad input never ends a stream that runs: what is malformed,
unknown or out of place is counted under a fixed word and dropped. Before `start` the peer is a stranger, and a message
that is not part of the opening ends the socket.

We send `media`, `mark` and `clear`, with exactly the documented fields: anything else earns warning 31951.
"""

import re
from base64 import b64encode
from collections import Counter
from dataclasses import dataclass
from enum import Enum

import msgspec

from fastagent.connectors.errors import PeerError
from fastagent.connectors.leg import DtmfReceived, HangupReason, LegEnded, LegEvent, MarkReached
from fastagent.connectors.twilio import messages
from fastagent.media.frame import PCMU_8K

_MAX_AUDIO = 10 * PCMU_8K.rate_hz  # bytes a message: ten seconds
_DIGITS = frozenset("0123456789*#ABCD")
_SID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


class Phase(Enum):
    """Where the socket is."""

    OPENED = "opened"
    CONNECTED = "connected"
    STREAMING = "streaming"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class StreamStarted:
    """The stream's particulars; `parameters` are the strings of its `<Parameter>`s."""

    call_sid: str
    stream_sid: str
    account_sid: str
    parameters: dict[str, str]


@dataclass(frozen=True, slots=True)
class AudioReceived:
    """Caller audio: raw mu-law, and the media time of its start."""

    payload: bytes
    timestamp_ms: int | None


ProtocolEvent = StreamStarted | AudioReceived | LegEvent


class TwilioProtocol:
    """One socket."""

    def __init__(self) -> None:
        self.phase = Phase.OPENED
        self.stream_sid = ""
        self.dropped: Counter[str] = Counter()
        """Messages dropped, by reason."""
        self._head = ""

    def receive(self, text: str | bytes) -> ProtocolEvent | None:
        """Take a message.

        Raises:
            PeerError: the opening is not Twilio's, or its audio is in a form that we do not decode; close the socket.
        """
        try:
            message = messages.decode(text)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:  # ValidationError is a DecodeError
            self._unreadable(text, error)
            return None
        if type(message) is messages.Media:
            return self._media(message.media)
        match message:
            case messages.Mark():
                return MarkReached(message.mark.name) if self._streaming("mark") else None
            case messages.Dtmf():
                return self._dtmf(message.dtmf)
            case messages.Stop():
                return self._stop()
            case messages.Start():
                return self._start(message)
            case messages.Connected():
                if self.phase is Phase.OPENED:
                    self.phase = Phase.CONNECTED
                else:
                    self.dropped["out_of_place"] += 1
        return None

    def closed(self, *, broken: bool = False) -> LegEnded | None:
        """The socket is gone: without a `stop` before, the connection was lost, or the peer broke its protocol."""
        if self.phase is not Phase.STREAMING:
            return None
        self.phase = Phase.ENDED
        return LegEnded(HangupReason.PROTOCOL_ERROR if broken else HangupReason.CONNECTION_LOST)

    def _streaming(self, kind: str) -> bool:
        if self.phase is Phase.STREAMING:
            return True
        if self.phase is not Phase.ENDED:
            raise PeerError("early_message", f"{kind} before start")
        self.dropped["after_stop"] += 1
        return False

    def _media(self, media: messages.MediaBody) -> AudioReceived | None:
        if self.phase is not Phase.STREAMING:
            self._streaming("media")
            return None
        if media.track != "inbound":
            self.dropped["foreign_track"] += 1
            return None
        if not 0 < len(media.payload) <= _MAX_AUDIO:
            self.dropped["payload_size"] += 1
            return None
        return AudioReceived(media.payload, _milliseconds(media.timestamp))

    def _dtmf(self, dtmf: messages.DtmfBody) -> DtmfReceived | None:
        if not self._streaming("dtmf"):
            return None
        if dtmf.digit not in _DIGITS:
            self.dropped["digit"] += 1
            return None
        return DtmfReceived(dtmf.digit)

    def _stop(self) -> LegEnded | None:
        if not self._streaming("stop"):
            return None
        self.phase = Phase.ENDED
        return LegEnded(HangupReason.CALLER_HUNG_UP)

    def _start(self, message: messages.Start) -> StreamStarted | None:
        if self.phase in (Phase.STREAMING, Phase.ENDED):
            self.dropped["second_start"] += 1
            return None
        body = message.start
        form = body.media_format
        if (form.encoding, str(form.sample_rate), str(form.channels)) != ("audio/x-mulaw", "8000", "1"):
            raise PeerError("media_format", f"cannot decode {form.encoding[:40]!r} at {form.sample_rate!s:.10}")
        stream_sid = body.stream_sid or message.stream_sid
        if not _SID.fullmatch(stream_sid) or not _SID.fullmatch(body.call_sid):
            raise PeerError("start", "start names no stream or no call")
        self.phase = Phase.STREAMING
        self.stream_sid = stream_sid
        self._head = f'","streamSid":{msgspec.json.encode(stream_sid).decode()}'
        parameters = {str(name): str(value) for name, value in body.custom_parameters.items()}
        return StreamStarted(body.call_sid, stream_sid, body.account_sid, parameters)

    def _unreadable(self, text: str | bytes, error: Exception) -> None:
        known = _KNOWN_EVENT.search(text if isinstance(text, str) else text.decode("utf-8", "replace"))
        kind = "malformed" if known or not isinstance(error, msgspec.ValidationError) else "unknown_event"
        if self.phase in (Phase.OPENED, Phase.CONNECTED) and kind == "malformed":
            raise PeerError("opening", "the opening cannot be read")
        self.dropped[kind] += 1

    # -- out -------------------------------------------------------------------------------------------------------

    def audio(self, payload: bytes) -> str:
        """Return a `media` message."""
        return f'{{"event":"media{self._head},"media":{{"payload":"{b64encode(payload).decode()}"}}}}'

    def mark(self, name: str) -> str:
        """Return a `mark` message; names are our own and need no escaping."""
        return f'{{"event":"mark{self._head},"mark":{{"name":"{name}"}}}}'

    def clear(self) -> str:
        """Return a `clear` message."""
        return f'{{"event":"clear{self._head}}}'


_KNOWN_EVENT = re.compile(r'"event"\s*:\s*"(?:connected|start|media|dtmf|mark|stop)"')


def _milliseconds(value: messages.Number | None) -> int | None:
    """Return a media time; what is no plain number within a day counts as not told."""
    if isinstance(value, str):
        value = int(value) if len(value) <= 12 and value.isascii() and value.isdecimal() else None
    return value if value is not None and 0 <= value <= 86_400_000 else None
