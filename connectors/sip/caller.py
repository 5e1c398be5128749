"""What an INVITE tells of its caller and of whom they want, for the session and for routing."""

from collections.abc import Iterator

from fastagent.connectors.leg import CallInfo
from fastagent.connectors.sip.actions import CallOffered
from fastagent.connectors.sip.grammar import Malformed, printable
from fastagent.connectors.sip.headers import NameAddr
from fastagent.media.frame import PCMU_8K

_MAX_VALUE = 256
_TOLD = ("p-asserted-identity", "diversion", "history-info", "user-to-user", "call-info", "subject")
"""Headers that agents are told of beside those that begin with X-."""


def caller_of(offer: CallOffered, provider: str) -> CallInfo:
    """Return what the session knows of a call. All of it is the caller's text."""
    headers: dict[str, str] = {}
    for name, value in offer.headers.items:
        plain = name.lower()
        if plain.startswith("x-") or plain in _TOLD:
            headers.setdefault(plain.replace("-", "_")[:64], printable(value)[:_MAX_VALUE])
    own = {"caller_name": printable(offer.from_name)[:128], "sip_host": offer.source.host, "sip_user": offer.user}
    return CallInfo(
        provider=provider,
        call_id=printable(offer.headers.get("call-id") or "")[:128],
        stream_id=offer.call,
        from_=printable(_asserted(offer) or offer.from_user)[:128],
        to=printable(offer.to_user)[:128],
        direction="inbound",
        audio=PCMU_8K,
        metadata={**headers, **own},
    )


def _asserted(offer: CallOffered) -> str:
    """The number that a trusted peer vouches for (RFC 3325); of others it is no more than another From."""
    return "" if offer.user else _user_in(offer, "p-asserted-identity")


def called_in(offer: CallOffered) -> Iterator[str]:
    """Yield whom the caller wants, as trunks write it: in the Request-URI, else behind it (RFC 7315, 4.2), else in To.

    Each as it stands, with a plus, and without.
    """
    for user in (offer.to_user, _user_in(offer, "p-called-party-id"), _user_in(offer, "to")):
        plain = user.partition(";")[0].lstrip("+")
        if plain:
            yield from (user, f"+{plain}", plain)


def _user_in(offer: CallOffered, header: str) -> str:
    try:
        values = offer.headers.listed(header)
        return NameAddr.parse(values[0]).uri.user_text if values else ""
    except Malformed:
        return ""
