"""Requests and responses that follow from another message (RFC 3261 sections 8.2.6, 9.1 and 17.1.1.3)."""

from fastagent.connectors.sip.grammar import Malformed
from fastagent.connectors.sip.headers import Headers, NameAddr
from fastagent.connectors.sip.message import Request, Response

ALLOW = "INVITE, ACK, BYE, CANCEL, OPTIONS, INFO, UPDATE, NOTIFY, PRACK"
"""What we take. REGISTER is not offered, although a trusted peer's is answered: we are no registrar."""
KNOWN = frozenset(
    "INVITE ACK BYE CANCEL OPTIONS INFO UPDATE NOTIFY REGISTER REFER MESSAGE SUBSCRIBE PUBLISH PRACK".split()
)
EXTENSIONS = ("timer", "100rel")
SUPPORTED = ", ".join(EXTENSIONS)
REASONS = {
    100: "Trying",
    180: "Ringing",
    183: "Session Progress",
    200: "OK",
    202: "Accepted",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    408: "Request Timeout",
    415: "Unsupported Media Type",
    416: "Unsupported URI Scheme",
    420: "Bad Extension",
    422: "Session Interval Too Small",
    480: "Temporarily Unavailable",
    481: "Call/Transaction Does Not Exist",
    482: "Loop Detected",
    486: "Busy Here",
    487: "Request Terminated",
    488: "Not Acceptable Here",
    489: "Bad Event",
    491: "Request Pending",
    500: "Server Internal Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    504: "Server Time-out",
    505: "Version Not Supported",
    603: "Decline",
}
_ECHOED = (("Via", True), ("From", False), ("To", False), ("Call-ID", False), ("CSeq", False))

Items = tuple[tuple[str, str], ...]


def response_to(
    request: Request, status: int, tag: str, items: Items = (), body: bytes = b"", reason: str = ""
) -> Response:
    """Answer a request: what it must have back goes back as it came, To with our tag (but on a 100)."""
    echoed: list[tuple[str, str]] = []
    for name, many in _ECHOED:
        values = request.headers.get_all(name)
        echoed += [(name, value) for value in (values if many else values[:1])]
    if status > 100:
        echoed = [(name, tagged(value, tag) if name == "To" else value) for name, value in echoed]
    elif (timestamp := request.headers.get("timestamp")) is not None:
        echoed.append(("Timestamp", timestamp))
    return Response(status, reason or REASONS.get(status, "Unknown"), Headers((*echoed, *items)), body)


def tagged(to: str, tag: str) -> str:
    """Return a To with our tag, if it has none; one that cannot be read is left as it is."""
    try:
        return to if NameAddr.parse(to).tag else f"{to};tag={tag}"
    except Malformed:
        return to


def ack_of_refusal(request: Request, response: Response) -> Request:
    """Acknowledge a final answer that is no 2xx: within the INVITE's own transaction, hop by hop."""
    return _twin(request, "ACK", response.headers.get("to") or "")


def cancel_of(request: Request) -> Request:
    """Take an INVITE back."""
    return _twin(request, "CANCEL", request.headers.get("to") or "")


def credentials_in(request: Request) -> Items:
    """Return what a request proves its sender by."""
    return tuple(
        (name, value) for name in ("Authorization", "Proxy-Authorization") for value in request.headers.get_all(name)
    )


def _twin(request: Request, method: str, to: str) -> Request:
    headers = request.headers
    items = [("Via", headers.get_all("via")[0]), ("Max-Forwards", "70")]
    items += [("Route", value) for value in headers.get_all("route")]
    items += [("From", headers.get("from") or ""), ("To", to), ("Call-ID", request.call_id)]
    items.append(("CSeq", f"{request.cseq.number} {method}"))
    return Request(method, request.uri, Headers(items))
