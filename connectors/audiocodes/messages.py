"""What VoiceAI Connect sends, parsed at the edge: the streaming mode's messages, and the activities of both modes.

Unknown fields are ignored. Activities stay loose here, and one by one: a bad one must not cost its neighbours. Audio is
decoded from base64 by the JSON decoder itself, strictly.
"""

from typing import Any

import msgspec


class Validate(msgspec.Struct, frozen=True, tag_field="type", tag="connection.validate"):
    """A connectivity check; no call."""


class Initiate(msgspec.Struct, frozen=True, tag_field="type", tag="session.initiate", rename="camel"):
    """A new conversation."""

    conversation_id: str
    bot_name: str = ""
    caller: str = ""
    expect_audio_messages: bool = True
    supported_media_formats: list[str] = []


class Resume(msgspec.Struct, frozen=True, tag_field="type", tag="session.resume", rename="camel"):
    """The conversation goes on, on this socket."""

    conversation_id: str
    supported_media_formats: list[str] = []


class End(msgspec.Struct, frozen=True, tag_field="type", tag="session.end", rename="camel"):
    """The conversation is over."""

    conversation_id: str = ""
    reason_code: str = ""
    reason: str = ""


class StreamStart(msgspec.Struct, frozen=True, tag_field="type", tag="userStream.start", rename="camel"):
    """Wants to stream a caller's audio."""

    conversation_id: str = ""
    participant: str | None = None


class Chunk(msgspec.Struct, frozen=True, tag_field="type", tag="userStream.chunk", rename="camel"):
    """Caller audio."""

    audio_chunk: bytes
    conversation_id: str = ""
    participant: str | None = None


class StreamStop(msgspec.Struct, frozen=True, tag_field="type", tag="userStream.stop", rename="camel"):
    """No more of it for now."""

    conversation_id: str = ""
    participant: str | None = None


class Activities(msgspec.Struct, frozen=True, tag_field="type", tag="activities", rename="camel"):
    """Events and messages of the call."""

    conversation_id: str = ""
    activities: list[Any] = []


Message = Validate | Initiate | Resume | End | StreamStart | Chunk | StreamStop | Activities


class Activity(msgspec.Struct, frozen=True):
    """One of them: an event with a name, or a message with a text."""

    type: str
    id: str | None = None
    name: str = ""
    text: str | None = None
    value: Any = None
    parameters: dict[str, Any] | None = None
    stream_id: str | None = msgspec.field(name="streamId", default=None)


class Create(msgspec.Struct, frozen=True):
    """The chat mode's first request."""

    conversation: str
    bot: str = ""
    capabilities: list[Any] = []


class Talk(msgspec.Struct, frozen=True):
    """Activities, in the chat mode."""

    conversation: str = ""
    activities: list[Any] = []


class Disconnect(msgspec.Struct, frozen=True, rename="camel"):
    """The chat mode's last request; the same fields serve to refresh."""

    conversation: str = ""
    reason: str = ""
    reason_code: str = ""


decode = msgspec.json.Decoder(Message).decode
decode_create = msgspec.json.Decoder(Create).decode
decode_talk = msgspec.json.Decoder(Talk).decode
decode_disconnect = msgspec.json.Decoder(Disconnect).decode
encode = msgspec.json.Encoder().encode


def activity(raw: Any) -> Activity | None:
    """Return one activity; None where it is none."""
    try:
        return msgspec.convert(raw, Activity)
    except (msgspec.ValidationError, RecursionError):
        return None
