"""The registrar's rule: a phone that insists on registering before it dials gets 200, and nothing is stored."""

from fastagent.connectors.sip.grammar import NUMBER, Malformed
from fastagent.connectors.sip.headers import NameAddr
from fastagent.connectors.sip.message import Request
from fastagent.connectors.sip.requests import Items
from fastagent.connectors.sip.validate import Refused

_LONGEST_S = 3600


def bindings(request: Request) -> Items:
    """Return the Contacts of the 200: the phone looks for its own, with its time (RFC 3261 section 10.3, step 8).

    Raises:
        Refused: the address of record is none of SIP's.
    """
    if not request.to.uri.is_sip:
        raise Refused(400, "Bad Request: To is no SIP address")
    try:
        contacts = [NameAddr.parse(value) for value in request.headers.listed("contact") if value != "*"]
    except Malformed as error:
        raise Refused(400, f"Bad Request: {error}") from None
    asked = request.headers.get("expires") or ""
    timed = [(contact, _seconds(contact.param("expires") or asked)) for contact in contacts]
    return tuple(("Contact", str(one.with_param("expires", str(time)))) for one, time in timed if time)


def _seconds(text: str) -> int:
    """Return a time that we grant; what is no number, or too big for one, counts as the longest (section 20.10)."""
    if not NUMBER.fullmatch(text) or len(text) > 6:
        return _LONGEST_S
    return min(int(text), _LONGEST_S)
