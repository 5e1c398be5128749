"""Offer and answer (RFC 3264) for the one audio stream of a call.

`MediaSession` is one call's side of it. What is agreed changes only when an answer is complete: an offer that is
refused, theirs or ours, leaves everything as it was.

    take_offer(theirs) -> our answer          the other side offers
    make_offer()  ...  take_answer(theirs)    we offer; withdraw() when it was refused
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from fastagent.connectors.sip.crypto import choose_crypto, format_crypto, new_key, parse_crypto
from fastagent.connectors.sip.grammar import Malformed
from fastagent.connectors.sip.media import Capabilities, Codec, Crypto, NegotiatedMedia
from fastagent.connectors.sip.sdp import MediaLine, Origin, SessionDescription, canonical_host, parse_sdp, usable_host
from fastagent.connectors.sip.streams import (
    agreed_direction,
    answered_direction,
    codec_lines,
    codec_of,
    event_lines,
    events_of,
    ptime_of,
    refused_line,
    rtcp_of,
)

_PLAIN = ("RTP/AVP", "RTP/AVPF")
_SECURE = ("RTP/SAVP", "RTP/SAVPF")
_DTMF = {8000: 101, 16000: 103, 48000: 102}  # our offers' number of telephone-event, by clock


class NotAcceptable(Exception):
    """No stream of an offer can be had: 488. The text goes into the Warning."""


@dataclass(frozen=True, slots=True)
class _Choice:
    """What we take of an offer."""

    index: int
    codec: Codec
    payload_type: str
    dtmf: str | None
    crypto: Crypto | None


class MediaSession:
    """One call's media as agreed, and what is under way.

    Args:
        capabilities: what the media layer can do.
        token: random bytes, for the session's number and the keys.
        nearby: whether the other side is on this machine, or may be: only then our packets go to addresses of it.
    """

    def __init__(self, capabilities: Capabilities, token: Callable[[int], bytes], *, nearby: bool = True) -> None:
        self.local: tuple[str, int] | None = None
        """Where we listen."""
        self.on_hold = False
        """Whether we do not want to hear the other side."""
        self.agreed: NegotiatedMedia | None = None
        self._can, self._token, self._nearby = capabilities, token, nearby
        self._session_id = int.from_bytes(token(4), "big")
        self._version = 1
        self._sent: SessionDescription | None = None
        self._lines: tuple[MediaLine, ...] = ()  # of the agreed session, for the shape of the next offer
        self._keys: dict[str, Crypto] = {}
        self._offered: SessionDescription | None = None
        self._before: tuple[tuple[str, int] | None, bool] | None = None

    # -- they offer ------------------------------------------------------------------------------------------------

    def check_offer(self, body: bytes) -> None:
        """See whether an offer can be had, before anything is spent on it.

        Raises:
            NotAcceptable: it cannot.
            Malformed: it is no description.
        """
        self._choose(parse_sdp(body))

    def take_offer(self, body: bytes) -> bytes:
        """Answer an offer; `agreed` is what came of it.

        Raises:
            NotAcceptable: nothing of it can be had; nothing has changed.
            Malformed: it is no description.
        """
        offer = parse_sdp(body)
        choice = self._choose(offer)
        line = offer.media[choice.index]
        answer = self._answer_line(offer, line, choice)
        lines = tuple(answer if at == choice.index else refused_line(one) for at, one in enumerate(offer.media))
        self.agreed = self._agree(offer, line, answer, choice)
        self._lines = lines
        return self._describe(lines)

    def _choose(self, offer: SessionDescription) -> _Choice:
        reason = "no audio was offered"
        usable = [(at, line) for at, line in enumerate(offer.media) if line.kind == "audio" and line.port]
        for at, line in sorted(usable, key=lambda one: one[1].proto.upper() not in _SECURE):
            if not self._reaches(offer.host_of(line)):
                reason = "no usable address"
                continue
            secure, crypto = self._secured(line)
            if not secure:
                reason = "incompatible transport protocol"
                continue
            codec = self._codec(line)
            if codec is not None:
                return _Choice(at, codec[0], codec[1], events_of(line, codec[0]), crypto)
            reason = "no common codec"
        raise NotAcceptable(reason)

    def _reaches(self, host: str | None) -> bool:
        return host is not None and usable_host(host, ipv6=self._can.ipv6, nearby=self._nearby)

    def _secured(self, line: MediaLine) -> tuple[bool, Crypto | None]:
        """Whether a line's protocol is ours, and with which key. Plain RTP with keys is a best-effort offer."""
        if line.proto.upper() in _PLAIN:
            return self._can.srtp != "required", None
        if line.proto.upper() not in _SECURE or self._can.srtp == "off":
            return False, None
        crypto = choose_crypto(line.get_all("crypto"))
        return crypto is not None, crypto

    def _codec(self, line: MediaLine) -> tuple[Codec, str] | None:
        found = [(codec, number) for number in line.formats if (codec := codec_of(line, number, self._can.codecs))]
        if self._can.prefer_ours:
            found.sort(key=lambda one: self._can.codecs.index(one[0]))
        return found[0] if found else None

    def _answer_line(self, offer: SessionDescription, line: MediaLine, choice: _Choice) -> MediaLine:
        assert self.local is not None  # the media layer has told its port before it answers
        formats = (choice.payload_type, *([choice.dtmf] if choice.dtmf else []))
        attributes: list[tuple[str, str | None]] = [*codec_lines(choice.codec, choice.payload_type)]
        attributes += event_lines(choice.dtmf, line.encoding(choice.dtmf) if choice.dtmf else None)
        attributes.append(("ptime", str(ptime_of(line, self._can.ptime_ms, choice.codec))))
        if choice.crypto is not None:
            attributes.append(("crypto", format_crypto(self._key(choice.crypto.suite, choice.crypto.tag))))
        attributes.append((answered_direction(offer, line, self.on_hold), None))
        return MediaLine("audio", self.local[1], line.proto, formats, None, tuple(attributes))

    # -- we offer --------------------------------------------------------------------------------------------------

    def make_offer(self) -> bytes:
        """Offer what we have: all codecs, under the numbers that the call uses already."""
        lines = self._lines or (MediaLine("audio", 0, "", ()),)
        ours = next((at for at, line in enumerate(lines) if line.kind == "audio" and (line.port or not line.proto)), 0)
        offer = self._offer_line()
        body = self._describe(tuple(offer if at == ours else one for at, one in enumerate(lines)))
        self._offered = self._sent
        return body

    def take_answer(self, body: bytes) -> None:
        """Take the answer to our offer; `agreed` is what came of it.

        Raises:
            NotAcceptable: it takes no stream of ours, or none as it was offered.
            Malformed: it is no description.
        """
        offered, self._offered, self._before = self._offered, None, None
        answer = parse_sdp(body)
        if offered is None or len(answer.media) != len(offered.media):
            raise NotAcceptable("the answer does not match an offer")
        for ours, theirs in zip(offered.media, answer.media, strict=True):
            if ours.port and theirs.port and theirs.kind == "audio":
                self.agreed = self._agree(answer, theirs, ours, self._answered_choice(answer, ours, theirs))
                self._lines = offered.media
                return
        raise NotAcceptable("the answer takes nothing")

    def save(self) -> object:
        """Return all that is agreed and under way, for `restore`."""
        return self.agreed, self._lines, self._offered, self._sent, self._version, dict(self._keys)

    def restore(self, saved: Any) -> None:
        """Let everything be as it was, but for the version, which only rises."""
        self.agreed, self._lines, self._offered, self._sent, version, self._keys = saved
        self._version = max(self._version, version)

    def wish(self, local: tuple[str, int] | None = None, hold: bool | None = None) -> None:
        """Wish for a change; the next offer asks for it."""
        self._before = self.local, self.on_hold
        self.local = local or self.local
        self.on_hold = self.on_hold if hold is None else hold

    def withdraw(self) -> None:
        """Our offer was refused: all is as it was before the wish."""
        if self._before is not None:
            self.local, self.on_hold = self._before
        self._offered = self._before = None

    def _answered_choice(self, answer: SessionDescription, ours: MediaLine, theirs: MediaLine) -> _Choice:
        """Read an answer; a number without rtpmap is ours, as we offered it."""
        if not self._reaches(answer.host_of(theirs)) or theirs.proto.upper() != ours.proto:
            raise NotAcceptable("the answer is for another transport")
        for number in theirs.formats:
            line = theirs if theirs.encoding(number) else ours
            codec = codec_of(line, number, self._can.codecs)
            if codec is not None:
                crypto = self._answered_key(theirs)
                return _Choice(0, codec, number, events_of(theirs, codec), crypto)
        raise NotAcceptable("the answer has no codec of ours")

    def _answered_key(self, theirs: MediaLine) -> Crypto | None:
        if theirs.proto.upper() not in _SECURE:
            return None
        crypto = next((one for text in theirs.get_all("crypto") if (one := parse_crypto(text))), None)
        if crypto is None or crypto.suite not in self._keys:
            raise NotAcceptable("the answer has no key")
        return crypto

    def _offer_line(self) -> MediaLine:
        assert self.local is not None  # as above
        codecs = self._numbered()
        dtmf = self._events(codecs)
        formats = (*(str(codec.payload_type) for codec in codecs), *(str(one) for one in dtmf.values()))
        attributes: list[tuple[str, str | None]] = []
        for codec in codecs:
            attributes += codec_lines(codec, str(codec.payload_type))
        for clock, number in dtmf.items():
            attributes += event_lines(str(number), ("telephone-event", clock, 1))
        attributes.append(("ptime", str(self._can.ptime_ms)))
        secure = self._can.srtp == "required" or (self.agreed is not None and self.agreed.crypto_send is not None)
        if secure:
            ours = self.agreed.crypto_send if self.agreed else None
            attributes.append(("crypto", format_crypto(ours or self._key("AES_CM_128_HMAC_SHA1_80", 1))))
        attributes.append(("sendonly" if self.on_hold else "sendrecv", None))
        return MediaLine("audio", self.local[1], "RTP/SAVP" if secure else "RTP/AVP", formats, None, tuple(attributes))

    def _numbered(self) -> list[Codec]:
        """Our codecs under the numbers of the call (RFC 3264 section 8.3.2), the one in use first, so that a hold does
        not change it; one whose number is taken is left out."""
        agreed = self.agreed
        if agreed is None:
            return list(self._can.codecs)
        used = {(codec.name, codec.clock_hz): number for number, codec in agreed.receivable}
        taken = {*used.values(), agreed.dtmf_receivable}
        codecs = []
        for codec in self._can.codecs:
            number = used.get((codec.name, codec.clock_hz))
            if number is not None:
                codecs.append(replace(codec, payload_type=number))
            elif codec.payload_type not in taken:
                codecs.append(codec)
        return sorted(codecs, key=lambda one: (one.name, one.clock_hz) != (agreed.codec.name, agreed.codec.clock_hz))

    def _events(self, codecs: list[Codec]) -> dict[int, int]:
        """Return the numbers of telephone-event by clock: the call's own stays, others are nobody else's."""
        found: dict[int, int] = {}
        if self.agreed and self.agreed.dtmf_receivable is not None and self.agreed.dtmf_clock is not None:
            found[self.agreed.dtmf_clock] = self.agreed.dtmf_receivable
        taken = {codec.payload_type for codec in codecs} | set(found.values())
        for clock in dict.fromkeys(codec.clock_hz for codec in codecs):
            number = _DTMF.get(clock)
            if number is not None and clock not in found and number not in taken:
                found[clock] = number
        return found

    # -- both ------------------------------------------------------------------------------------------------------

    def _agree(self, theirs: SessionDescription, line: MediaLine, ours: MediaLine, choice: _Choice) -> NegotiatedMedia:
        assert self.local is not None  # as above
        host = canonical_host(theirs.host_of(line) or "")
        receivable = tuple(
            (int(number), codec) for number in ours.formats if (codec := codec_of(ours, number, self._can.codecs))
        )
        dtmf = events_of(ours, choice.codec)
        return NegotiatedMedia(
            local=self.local,
            remote=(host, line.port),
            remote_rtcp=rtcp_of(line, host),
            codec=choice.codec,
            payload_type=int(choice.payload_type),
            receivable=receivable,
            dtmf_payload_type=int(choice.dtmf) if choice.dtmf else None,
            dtmf_receivable=int(dtmf) if dtmf else None,
            dtmf_clock=encoding[1] if dtmf and (encoding := ours.encoding(dtmf)) else None,
            ptime_ms=ptime_of(line, self._can.ptime_ms, choice.codec),
            direction=agreed_direction(theirs, line, ours),
            fmtp=line.about("fmtp", choice.payload_type) or "",
            crypto_send=self._kept_key(choice.crypto.suite) if choice.crypto else self._kept_key(""),
            crypto_receive=choice.crypto,
        )

    def _kept_key(self, suite: str) -> Crypto | None:
        """Return our key for the suite that was agreed on, and forget all others."""
        self._keys = {name: key for name, key in self._keys.items() if name == suite}
        return self._keys.get(suite)

    def _key(self, suite: str, tag: int) -> Crypto:
        """Our key for a suite, as long as that is agreed on: a new one means a new stream, and an old one that comes
        back would encrypt other audio with the same stream."""
        if suite not in self._keys:
            self._keys[suite] = new_key(suite, tag, self._token)
        self._keys[suite] = replace(self._keys[suite], tag=tag)
        return self._keys[suite]

    def _describe(self, lines: tuple[MediaLine, ...]) -> bytes:
        """Return the description; its version rises when it is not the one that was sent last (RFC 3264 section 8)."""
        assert self.local is not None  # as above
        host = self.local[0]
        origin = self._sent.origin.host if self._sent else host  # kept when the media moves elsewhere
        new = SessionDescription(Origin(self._session_id, self._version, origin), lines, host)
        if self._sent is not None and new != self._sent:
            self._version += 1
            new = replace(new, origin=replace(new.origin, version=self._version))
        self._sent = new
        return bytes(new)


__all__ = ["Malformed", "MediaSession", "NotAcceptable"]
