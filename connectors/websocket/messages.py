"""The messages of the WebSocket API, parsed at the edge: the envelope first, then the payload that its type has.

Unknown keys are ignored, so that newer clients work with older servers. What is wrong is told by its place.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

# `$` alone would allow a line break behind it.
Id = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$(?!\n)", description="letters, digits, `_ . -`, 64")
]
Rate = Annotated[int, Meta(ge=4000, le=96000, description="Hz")]


class Envelope(msgspec.Struct, frozen=True):
    """Every message, both ways."""

    type: str
    payload: msgspec.Raw = msgspec.Raw(b"{}")
    session_id: str | None = None
    """Null or absent until `session_started`."""
    timestamp: int | float | None = None
    """Seconds since 1970."""


class AudioSpec(msgspec.Struct, frozen=True):
    """A format of audio: `audio/x-wav`, `audio/pcm` (little-endian, mono), `audio/x-mulaw`, `audio/x-alaw`, or
    `audio/opus` (packets without a container)."""

    format: str = "audio/x-wav"
    sample_rate: Rate | None = None
    """Hz; 16000 if not given, 8000 for the two laws."""


class AudioOptions(msgspec.Struct, frozen=True):
    """What is negotiated at the start."""

    input: AudioSpec = AudioSpec()
    output: AudioSpec = AudioSpec()
    binary: bool = False
    """Audio goes in binary frames: eight bytes (sequence number and milliseconds, big-endian), then the audio."""


class StartSession(msgspec.Struct, frozen=True):
    """Begins a conversation, or takes a lost one up again."""

    agent_id: Id | None = None
    """The default agent, if not given."""
    metadata: dict[str, Any] = {}
    """What is known of the caller: 16 KiB. `caller_id` and `called_id` are shown, masked, in logs."""
    audio: AudioOptions = AudioOptions()
    events: list[str] | None = None
    """Types of the added events that are wanted; all, if not given."""
    session_id: Id | None = None
    """The id to have, or to resume; as the header `X-Session-ID`."""
    resume_secret: str | None = None
    """The one of `session_started`: resumes that session."""


class AudioData(msgspec.Struct, frozen=True):
    """A chunk of the caller's audio, of any length up to ten seconds."""

    data: bytes
    """Base64. A RIFF header tells its form, which goes on through the chunks that follow without one."""
    format: str | None = None
    """What was negotiated, if not given."""
    encoding: Literal["base64"] = "base64"
    chunk_id: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    """Rising: late and repeated chunks are dropped; without it, the order of arrival counts."""


class Dtmf(msgspec.Struct, frozen=True):
    """Keys of the caller."""

    digits: Annotated[str, Meta(pattern=r"^[0-9A-Da-d*#]{1,64}$(?!\n)")]


class EndSession(msgspec.Struct, frozen=True):
    """The caller hangs up."""

    reason: Annotated[str, Meta(max_length=256)] = ""


class TextInput(msgspec.Struct, frozen=True):
    """Words that were typed instead of spoken."""

    text: Annotated[str, Meta(min_length=1, max_length=4000)]


class Interrupt(msgspec.Struct, frozen=True):
    """The agent shall be silent, now."""


class PlaybackStatus(msgspec.Struct, frozen=True):
    """How much of an utterance the caller has heard; a client that tells it once tells it on."""

    utterance_id: Annotated[str, Meta(max_length=64)]
    played_ms: Annotated[float, Meta(ge=0, le=86_400_000)]


CLIENT: dict[str, type[msgspec.Struct]] = {
    "start_session": StartSession,
    "audio_data": AudioData,
    "dtmf": Dtmf,
    "end_session": EndSession,
    "text_input": TextInput,
    "interrupt": Interrupt,
    "playback_status": PlaybackStatus,
    "playback_mark": PlaybackStatus,
}

OPTIONAL_EVENTS = frozenset(
    (
        "transcript",
        "speech_started",
        "speech_stopped",
        "clear_audio",
        "interruption",
        "tool_call",
        "metrics",
        "call_event",
    )
)

decode_envelope = msgspec.json.Decoder(Envelope).decode
decoders = {name: msgspec.json.Decoder(form).decode for name, form in CLIENT.items()}
encode = msgspec.json.Encoder(enc_hook=str).encode
