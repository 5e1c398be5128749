"""The core of an API socket: chunks, binary frames, and what is negotiated."""

import json

import pytest

from fastagent.connectors.websocket.protocol import AudioReceived, Phase, SocketProtocol, StartRequested
from tests.connectors.websocket.test_protocol import NOW, audio, refused, started, text

# -- chunks (10) -------------------------------------------------------------------------------------------------------


def test_late_and_repeated_chunks_are_dropped_and_gaps_counted() -> None:
    protocol = started()
    taken = [at for at in (5, 6, 6, 4, 9, 10, 7) if protocol.receive(audio(bytes((at, 0)), chunk_id=at))]
    assert taken == [5, 6, 9, 10]
    assert (protocol.dropped_chunks, protocol.missing_chunks) == (3, 2)
    assert not protocol.refused, "no error: the network did it"


def test_chunks_without_an_id_come_as_they_come() -> None:
    protocol = started()
    protocol.receive(audio(b"\1\0", chunk_id=7))
    assert protocol.receive(audio(b"\2\0")) == [AudioReceived(b"\2\0")]
    assert protocol.receive(audio(b"\3\0", chunk_id=8)) == [AudioReceived(b"\3\0")]
    assert protocol.missing_chunks == 0


@pytest.mark.parametrize("chunk_id", ["-1", "1.5", '"1"', "true", str(2**53 + 1)])
def test_a_chunk_id_is_a_whole_number(chunk_id: str) -> None:
    payload = f'{{"data": "AAAA", "chunk_id": {chunk_id}}}'
    assert refused(started().receive(text("audio_data", payload))).code == "invalid_request"


@pytest.mark.parametrize("data", ["AAA", "AA AA", "AAAA\\n", "-_-_", "A===", "é"])
def test_base64_is_strict(data: str) -> None:
    found = refused(started().receive(text("audio_data", f'{{"data": "{data}"}}')))
    assert found.code == "audio_processing_failed"


# -- binary frames (9) -------------------------------------------------------------------------------------------------

BINARY = '{"audio": {"input": {"format": "audio/pcm"}, "binary": true}}'


def test_binary_frames_carry_audio_behind_eight_bytes() -> None:
    protocol = started(BINARY)
    assert protocol.receive_binary(b"\0\0\0\1\0\0\0\0" + b"\1\2") == [AudioReceived(b"\1\2")]
    assert protocol.receive_binary(b"\0\0\0\1\0\0\0\0" + b"\1\2") == []
    assert protocol.receive_binary(b"\0\0\0\4\0\0\0\0") == []
    assert (protocol.dropped_chunks, protocol.missing_chunks) == (1, 2)


def test_binary_frames_that_were_not_negotiated_or_have_no_header_are_refused() -> None:
    assert refused(SocketProtocol().receive_binary(bytes(10))).code == "invalid_request"
    assert refused(started().receive_binary(bytes(10))).code == "invalid_request"
    protocol = started(BINARY)
    assert refused(protocol.receive_binary(bytes(7))).code == "invalid_request"
    protocol.ended()
    assert refused(protocol.receive_binary(bytes(10))).code == "session_not_found"


# -- negotiation (8) ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "name", "rate_hz", "encoding"),
    [
        ("{}", "audio/x-wav", 16000, "L16"),
        ('{"format": "audio/pcm", "sample_rate": 24000}', "audio/pcm", 24000, "L16"),
        ('{"format": "audio/pcm;rate=8000"}', "audio/pcm", 8000, "L16"),
        ('{"format": "audio/x-mulaw"}', "audio/x-mulaw", 8000, "PCMU"),
        ('{"format": "audio/x-alaw"}', "audio/x-alaw", 8000, "PCMA"),
        ('{"format": "audio/opus", "sample_rate": 48000}', "audio/opus", 48000, "L16"),
    ],
)
def test_a_client_may_choose_what_it_hears(output: str, name: str, rate_hz: int, encoding: str) -> None:
    (request,) = SocketProtocol().receive(text("start_session", f'{{"audio": {{"output": {output}}}}}', None))
    assert isinstance(request, StartRequested)
    assert (request.output.name, request.output.rate_hz) == (name, rate_hz)
    assert (request.output.internal.encoding, request.output.internal.rate_hz) == (encoding, rate_hz)


@pytest.mark.parametrize(
    ("side", "spec", "code"),
    [
        ("output", '{"format": "audio/mp3"}', "invalid_audio_format"),
        ("input", '{"format": "audio/mp3"}', "invalid_audio_format"),
        ("output", '{"format": "audio/pcm", "sample_rate": 11025}', "invalid_audio_format"),
        ("input", '{"format": "audio/x-mulaw", "sample_rate": 16000}', "invalid_audio_format"),
        ("input", '{"format": "audio/pcm;rate=3999"}', "invalid_audio_format"),
        ("input", '{"sample_rate": 96001}', "invalid_request"),
        ("input", '{"sample_rate": "fast"}', "invalid_request"),
    ],
)
def test_what_cannot_be_had_is_refused_before_a_session_begins(side: str, spec: str, code: str) -> None:
    protocol = SocketProtocol()
    found = refused(protocol.receive(text("start_session", f'{{"audio": {{"{side}": {spec}}}}}', None)))
    assert found.code == code
    assert protocol.phase is Phase.OPENED


def test_halves_of_characters_do_not_break_a_message() -> None:
    sent = started().message("transcript", {"text": "\ud83d"}, NOW)
    assert json.loads(sent)["payload"] == {"text": "\ud83d"}
