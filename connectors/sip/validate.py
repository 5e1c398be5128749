"""What a request must have before anything is done with it (RFC 3261 sections 8.1.1 and 8.2)."""

from fastagent.connectors.sip.grammar import Malformed
from fastagent.connectors.sip.headers import NameAddr
from fastagent.connectors.sip.message import Request
from fastagent.connectors.sip.requests import ALLOW, EXTENSIONS, KNOWN, SUPPORTED, Items
from fastagent.connectors.sip.uri import Uri

_ONCE = ("From", "To", "Call-ID", "CSeq")
_LISTS = ("Via", "Contact", "Route", "Record-Route")
_MAX_LIST = 6000
_OFFERED = frozenset(ALLOW.split(", "))


class Refused(Exception):
    """A request that is answered with a refusal."""

    def __init__(self, status: int, reason: str = "", items: Items = ()) -> None:
        super().__init__(f"{status} {reason}")
        self.status, self.reason, self.items = status, reason, items


def check_form(request: Request) -> None:
    """Check what every request must be.

    Raises:
        Refused: 505 for another version, 400 for what is malformed, 416 for an address that is not SIP's.
    """
    if request.version != "SIP/2.0":
        raise Refused(505)
    if request.fault:
        raise Refused(400, f"Bad Request: {request.fault}")
    for name in _ONCE:
        values = request.headers.get_all(name)
        if len(values) != 1 or not values[0]:
            raise Refused(400, f"Bad Request: {name} is {'repeated' if values else 'missing'}")
    try:
        _check_values(request)
    except Malformed as error:
        raise Refused(400, f"Bad Request: {error}") from None


def _check_values(request: Request) -> None:
    _ = request.from_, request.to  # reading them is the check
    if request.cseq.method != request.method:
        raise Malformed("CSeq has another method")
    uri = Uri.parse(request.uri)
    if uri.scheme not in ("sip", "sips", "tel"):
        raise Refused(416)
    if uri.headers:
        raise Malformed("the Request-URI has headers")
    for name in _LISTS:
        if sum(len(value) for value in request.headers.get_all(name)) > _MAX_LIST:
            raise Malformed(f"{name} is too long")
    request.headers.listed("via")  # reading it is the check
    for value in request.headers.listed("contact"):
        if value != "*":
            NameAddr.parse(value)
    for value in (*request.headers.listed("record-route"), *request.headers.listed("route")):
        if not NameAddr.parse(value).uri.is_sip:
            raise Malformed("a route is no SIP address")


def check_method(request: Request) -> None:
    """Check that the method and the required extensions are ours (sections 8.2.1 and 8.2.2.3).

    Raises:
        Refused: 501, 405 or 420.
    """
    if request.method not in KNOWN:
        raise Refused(501, items=(("Allow", ALLOW),))
    if request.method not in _OFFERED and request.method != "REGISTER":
        raise Refused(405, items=(("Allow", ALLOW), ("Supported", SUPPORTED)))
    try:
        missing = [tag for tag in request.headers.listed("require") if tag.lower() not in EXTENSIONS]
    except Malformed:
        raise Refused(400, "Bad Request: Require cannot be read") from None
    if missing:
        raise Refused(420, items=(("Unsupported", ", ".join(missing)),))
