"""What one stream of a description says, and what is said back (RFC 3264 sections 5 and 6)."""

from fastagent.connectors.sip.grammar import NUMBER
from fastagent.connectors.sip.media import Codec, Direction
from fastagent.connectors.sip.sdp import (
    Attributes,
    MediaLine,
    SessionDescription,
    canonical_host,
    is_nowhere,
    usable_host,
)

DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")


def _is_payload_type(text: str) -> bool:
    return len(text) <= 3 and NUMBER.fullmatch(text) is not None and int(text) < 128


def codec_of(line: MediaLine, number: str, codecs: tuple[Codec, ...]) -> Codec | None:
    """Return which of some codecs a number stands for, by name, clock and channels."""
    encoding = line.encoding(number) if _is_payload_type(number) else None
    for codec in codecs:
        if (codec.name.lower(), codec.clock_hz, codec.channels) == encoding:
            return codec
    return None


def events_of(line: MediaLine, codec: Codec) -> str | None:
    """Return the number of telephone-event: of the codec's clock (RFC 4733 section 2.1), else of any. Phones that offer
    Opus list 8000 alone, as a rule, and mean it for Opus, too."""
    found: dict[str, int] = {}
    for number in line.formats:
        encoding = line.encoding(number)
        if encoding is not None and encoding[0] == "telephone-event" and encoding[2] == 1 and _is_payload_type(number):
            found[number] = encoding[1]
    return next((number for number, clock in found.items() if clock == codec.clock_hz), next(iter(found), None))


def codec_lines(codec: Codec, number: str) -> Attributes:
    """Return what tells a codec's number."""
    lines: Attributes = (("rtpmap", f"{number} {codec.rtpmap}"),)
    return (*lines, ("fmtp", f"{number} {codec.fmtp}")) if codec.fmtp else lines


def event_lines(number: str | None, encoding: tuple[str, int, int] | None) -> Attributes:
    """Return what tells the number of telephone-event and its clock, and that we know all sixteen keys."""
    if number is None or encoding is None:
        return ()
    return ("rtpmap", f"{number} telephone-event/{encoding[1]}"), ("fmtp", f"{number} 0-15")


def refused_line(line: MediaLine) -> MediaLine:
    """Return the answer to a stream that is not wanted (RFC 3264 section 6): one format must stay."""
    return MediaLine(line.kind, 0, line.proto, line.formats[:1])


def ptime_of(line: MediaLine, ours_ms: int, codec: Codec) -> int:
    """Return the packets' length that the peer wishes for, if the codec has it, at most its `maxptime`."""
    wish, most = (line.get(name) or "" for name in ("ptime", "maxptime"))
    ptime = int(wish) if wish in map(str, codec.ptimes_ms) else ours_ms
    if NUMBER.fullmatch(most) and len(most) < 5:
        ptime = min(ptime, max((one for one in codec.ptimes_ms if one <= int(most)), default=codec.ptimes_ms[0]))
    return ptime


def rtcp_of(line: MediaLine, host: str) -> tuple[str, int]:
    """Return where reports go (RFC 3605): the next port, unless another is told."""
    port, _, place = (line.get("rtcp") or "").partition(" ")
    if not NUMBER.fullmatch(port) or len(port) > 5 or not 0 < int(port) < 65536:
        return host, min(line.port + 1, 65535)
    parts = place.split()
    ipv6 = ":" in host
    return (canonical_host(parts[2]) if len(parts) == 3 and usable_host(parts[2], ipv6=ipv6) else host), int(port)


def _wishes(description: SessionDescription, line: MediaLine) -> tuple[bool, bool]:
    """Whether the other side sends, and whether it listens. A connection to nowhere is a hold of the old kind."""
    direction = description.of(line, *DIRECTIONS) or "sendrecv"
    nowhere = is_nowhere(description.host_of(line) or "")
    return direction in ("sendrecv", "sendonly"), direction in ("sendrecv", "recvonly") and not nowhere


def answered_direction(offer: SessionDescription, line: MediaLine, on_hold: bool) -> Direction:
    """Return what we answer: we do what the other side lets us, but do not listen to whom we hold."""
    sends, listens = _wishes(offer, line)
    return _direction(listens, sends and not on_hold)


def agreed_direction(theirs: SessionDescription, line: MediaLine, ours: MediaLine) -> Direction:
    """Return what is left for us, of what both sides say."""
    sends, listens = _wishes(theirs, line)
    said = next(name for name, _ in ours.attributes if name in DIRECTIONS)
    return _direction(listens and said in ("sendrecv", "sendonly"), sends and said in ("sendrecv", "recvonly"))


def _direction(send: bool, receive: bool) -> Direction:
    if send:
        return "sendrecv" if receive else "sendonly"
    return "recvonly" if receive else "inactive"
