"""Where the requests of a dialog go: to the Contact, or back where the peer is heard from."""

import pytest

from fastagent.connectors.sip.actions import Address
from fastagent.connectors.sip.flow import flow_of_callee, flow_of_caller
from fastagent.connectors.sip.headers import Headers
from fastagent.connectors.sip.uri import Uri

PUBLIC = Address("8.8.4.9", 41000)


@pytest.mark.parametrize(
    ("why", "vias", "contact", "source", "at_source"),
    [
        ("a phone on our network", ["10.0.0.9:5060"], "10.0.0.9:5060", Address("10.0.0.9", 5060), False),
        ("one that sends from another port, and asks for no answer there",
         ["10.0.0.9:5060"], "10.0.0.9:5060", Address("10.0.0.9", 3333), False),
        ("one behind a NAT", ["10.0.0.9:5060;rport"], "10.0.0.9:5060", PUBLIC, True),
        ("one behind a carrier's NAT", ["100.64.0.9:5060;rport"], "100.64.0.9:5060", PUBLIC, True),
        ("one that knows its public address and not its port",
         ["8.8.4.9:5060;rport"], "8.8.4.9:5060", PUBLIC, True),
        ("one that knows both", ["8.8.4.9:41000;rport"], "8.8.4.9:41000", PUBLIC, False),
        ("one whose Via is a name", ["phone.invalid"], "8.8.8.8:5060", PUBLIC, False),
        ("one whose Via is a name, and whose Contact is behind a NAT", ["phone.invalid"], "10.0.0.9", PUBLIC, True),
        ("a proxy that does not stay in the way",
         ["10.0.0.5:5060", "10.0.0.9:5060"], "10.0.0.9:5060", Address("10.0.0.5", 5060), False),
        ("a public one of phones that only it reaches", ["8.8.4.4:5060", "10.0.0.9"], "10.0.0.9", PUBLIC, True),
        ("a public one of public phones", ["8.8.4.4:5060", "8.8.8.8"], "8.8.8.8:5060", PUBLIC, False),
        ("a phone on a connection", ["10.0.0.9:5060"], "10.0.0.9:5060", Address("10.0.0.9", 3333, "tcp"), True),
        ("a proxy on a connection",
         ["8.8.4.4:5060", "8.8.8.8"], "8.8.8.8:5060", Address("8.8.4.4", 3333, "tcp"), False),
    ],
)  # fmt: skip
def test_of_a_caller(why: str, vias: list[str], contact: str, source: Address, at_source: bool) -> None:
    headers = Headers(("Via", f"SIP/2.0/UDP {one};branch=z9hG4bK1") for one in vias)
    found = flow_of_caller(headers, Uri.parse(f"sip:a@{contact}"), source)
    assert (found == source) is at_source, why
    routed = headers.plus(("Record-Route", "<sip:p;lr>"))
    assert flow_of_caller(routed, Uri.parse(f"sip:a@{contact}"), source) is None


@pytest.mark.parametrize(
    ("contact", "hop", "at_hop"),
    [
        ("8.8.8.8:5060", Address("pbx.example", 0), False),
        ("10.0.0.9", Address("pbx.example", 0), True),
        ("pbx.example", Address("pbx.example", 0, "tcp"), True),
        ("8.8.8.8", Address("pbx.example", 0, "tcp"), False),
        ("8.8.8.8", Address("pbx.example", 0, "tls"), True),
    ],
)
def test_of_a_callee(contact: str, hop: Address, at_hop: bool) -> None:
    assert (flow_of_callee(Uri.parse(f"sip:a@{contact}"), hop, ()) == hop) is at_hop
    assert flow_of_callee(Uri.parse(f"sip:a@{contact}"), hop, ("<sip:p;lr>",)) is None
