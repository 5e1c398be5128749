"""Dialogs: where requests go and what they carry; the session timer."""

import pytest

from fastagent.connectors.sip.actions import Address
from fastagent.connectors.sip.dialog import (
    Dialog,
    SessionTimer,
    dialog_of_caller,
    timer_items,
    timer_of_request,
)
from fastagent.connectors.sip.flow import address_of
from fastagent.connectors.sip.grammar import Malformed
from fastagent.connectors.sip.message import Request, parse
from fastagent.connectors.sip.uri import Uri
from tests.connectors.sip.rig import invite

SOURCE = Address("127.0.0.1", 5070)


def asked(extra: str = "") -> Request:
    message = parse(invite(extra=extra))
    assert isinstance(message, Request)
    return message


def dialog(*route: str) -> Dialog:
    return Dialog("id", "<sip:us@a>;tag=l", "<sip:them@b>;tag=r", "sip:them@10.0.0.9:5070", route)


def test_a_dialog_of_a_caller() -> None:
    one = dialog_of_caller(asked("Record-Route: <sip:p1;lr>, <sip:p2;lr>"), "ours", SOURCE)
    assert (one.local, one.local_tag) == ("<sip:desk@192.0.2.1>;tag=ours", "ours")
    assert (one.remote, one.remote_tag) == ('"Ann" <sip:ann@127.0.0.1>;tag=ft', "ft")
    assert (one.target, one.route, one.remote_seq) == ("sip:ann@127.0.0.1:5070", ("<sip:p1;lr>", "<sip:p2;lr>"), 1)


def test_loose_routing() -> None:
    one = dialog("<sip:p1.example:5080;lr;transport=tcp>", "<sip:p2;lr>")
    uri, routes, hop = one.addressed()
    assert uri == "sip:them@10.0.0.9:5070"
    assert [value for _, value in routes] == ["<sip:p1.example:5080;lr;transport=tcp>", "<sip:p2;lr>"]
    assert hop == Address("p1.example", 5080, "tcp")


def test_strict_routing() -> None:
    uri, routes, hop = dialog("<sip:p1.example;method=INVITE?x=y>", "<sip:p2;lr>").addressed()
    assert uri == "sip:p1.example"
    assert [value for _, value in routes] == ["<sip:p2;lr>", "<sip:them@10.0.0.9:5070>"]
    assert hop == Address("p1.example", 0), "its port is what the DNS says"


def test_requests_count_up_and_an_ack_has_the_number_of_its_invite() -> None:
    one = dialog()
    first = one.request("INVITE", "SIP/2.0/UDP a;branch=z9hG4bK1", "<sip:us@a>")
    second = one.request("BYE", "SIP/2.0/UDP a;branch=z9hG4bK2", "")
    ack = one.ack(1, "SIP/2.0/UDP a;branch=z9hG4bK3")
    assert [str(message.cseq) for message in (first, second, ack)] == ["1 INVITE", "2 BYE", "1 ACK"]
    assert (first.headers.get("contact"), second.headers.get("contact")) == ("<sip:us@a>", None)
    assert ack.headers.get("to") == "<sip:them@b>;tag=r"


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("sip:a@h", Address("h", 0)),
        ("sip:a@h;transport=TCP", Address("h", 0, "tcp")),
        ("sip:a@h;transport=tls", Address("h", 0, "tls")),
        ("sip:a@h:5060", Address("h", 5060)),
        ("sip:a@192.0.2.4", Address("192.0.2.4", 5060)),
        ("sips:a@[2001:db8::1]", Address("2001:db8::1", 5061, "tls")),
        ("sips:a@h:5071", Address("h", 5071, "tls")),
        ("sip:a@[2001:db8::1]:5070", Address("2001:db8::1", 5070)),
        ("sip:a@h;maddr=192.0.2.4", Address("192.0.2.4", 5060)),
    ],
)
def test_next_hops(uri: str, address: Address) -> None:
    assert address_of(Uri.parse(uri)) == address
    with pytest.raises(Malformed):
        address_of(Uri.parse("tel:+1"))


@pytest.mark.parametrize(
    ("extra", "timer", "headers"),
    [
        ("", None, {}),
        ("Session-Expires: x", None, {}),
        ("x: 1800", SessionTimer(1800, "us"), {"Session-Expires": "1800;refresher=uas"}),
        (
            "Supported: timer\nSession-Expires: 1800",
            SessionTimer(1800, "them"),
            {"Require": "timer", "Session-Expires": "1800;refresher=uac"},
        ),
        (
            "Supported: timer\nSession-Expires: 90 ; refresher=UAS",
            SessionTimer(90, "us"),
            {"Session-Expires": "90;refresher=uas"},
        ),
    ],
)
def test_whose_turn_a_refresh_is(extra: str, timer: SessionTimer | None, headers: dict[str, str]) -> None:
    assert timer_of_request(asked(extra)) == timer
    assert dict(timer_items(asked(extra), timer)) == headers


def test_when_a_session_is_refreshed_or_given_up() -> None:
    assert SessionTimer(1800, "us").due_s == 900
    assert SessionTimer(1800, "them").due_s == 1768
    assert SessionTimer(90, "them").due_s == 60
