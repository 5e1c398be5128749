"""The description that a request brings, and how it is refused."""

from collections.abc import Callable
from typing import TypeVar

from fastagent.connectors.sip.bodies import SDP, Unsupported, accepts_sdp, sdp_of
from fastagent.connectors.sip.grammar import Malformed
from fastagent.connectors.sip.message import Request
from fastagent.connectors.sip.offer_answer import NotAcceptable
from fastagent.connectors.sip.validate import Refused

T = TypeVar("T")


def offer_in(request: Request) -> bytes | None:
    """Return the description that a request brings.

    Raises:
        Refused: 415 for another body, 406 where the sender would not take ours.
    """
    try:
        body = sdp_of(request.headers, request.body)
    except Unsupported as unsupported:
        raise Refused(415, items=(unsupported.item,)) from None
    if not accepts_sdp(request.headers):
        raise Refused(406, items=(("Accept", SDP),))
    return body


def taken(work: Callable[[], T]) -> T:
    """Do something with a description of the peer's.

    Raises:
        Refused: 488 for what cannot be had, 400 for what is no description.
    """
    try:
        return work()
    except NotAcceptable as error:  # the agent is an opaque word to the reader of a warning (section 20.43)
        raise Refused(488, items=(("Warning", f'305 fastagent "{error}"'),)) from None
    except Malformed as error:
        raise Refused(400, f"Bad Request: {error}") from None
