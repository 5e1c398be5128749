"""The messages of Twilio Media Streams, parsed at the edge.

Twilio sends `sequenceNumber`, `chunk` and `timestamp` as decimal strings, some of its clones as numbers; both are
taken. The payload is decoded from base64 by the JSON decoder itself, strictly.
"""

from typing import Any

import msgspec

Number = str | int


class Connected(msgspec.Struct, frozen=True, tag_field="event", tag="connected"):
    """First message of a socket."""

    protocol: str = "Call"
    version: str = "1.0.0"


class MediaFormat(msgspec.Struct, frozen=True, rename="camel"):
    """Documented as always mu-law, 8000, 1; read all the same."""

    encoding: str = ""
    sample_rate: Number = 0
    channels: Number = 0


class StartBody(msgspec.Struct, frozen=True, rename="camel"):
    """The stream's particulars."""

    call_sid: str
    stream_sid: str = ""
    account_sid: str = ""
    tracks: list[str] = []
    custom_parameters: dict[str, Any] = {}
    media_format: MediaFormat = MediaFormat()


class Start(msgspec.Struct, frozen=True, tag_field="event", tag="start", rename="camel"):
    """The stream begins."""

    start: StartBody
    stream_sid: str = ""


class MediaBody(msgspec.Struct, frozen=True):
    """A stretch of the caller's audio."""

    payload: bytes
    track: str = "inbound"
    chunk: Number = 0
    timestamp: Number | None = None


class Media(msgspec.Struct, frozen=True, tag_field="event", tag="media"):
    """Caller audio, about 50 times a second."""

    media: MediaBody


class DtmfBody(msgspec.Struct, frozen=True):
    """A key."""

    digit: str
    track: str = "inbound_track"


class Dtmf(msgspec.Struct, frozen=True, tag_field="event", tag="dtmf"):
    """A key was pressed."""

    dtmf: DtmfBody


class MarkBody(msgspec.Struct, frozen=True):
    """A mark's name."""

    name: str


class Mark(msgspec.Struct, frozen=True, tag_field="event", tag="mark"):
    """Playback reached a mark, or flushed past it."""

    mark: MarkBody


class Stop(msgspec.Struct, frozen=True, tag_field="event", tag="stop"):
    """The stream or the call ended."""

    stop: dict[str, Any] = {}


Message = Connected | Start | Media | Dtmf | Mark | Stop

decode = msgspec.json.Decoder(Message).decode
