"""Who a request comes from (S2, S3): loopback for certain, a trusted proxy, or the rest of the world."""

from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from fastagent.connectors.trust import forwarded_origin, is_loopback, networks

PROXIES = networks(["10.0.0.0/8", "fd00::/8"])


class Peer:
    """A transport that knows its peer."""

    def __init__(self, address: str | None) -> None:
        self._peer = (address, 40000) if address is not None else None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._peer if name == "peername" else default

    def is_closing(self) -> bool:
        return False


def request(peer: str | None = "127.0.0.1", host: str = "localhost:8000", **headers: str) -> web.Request:
    named = {"Host": host} | {name.replace("_", "-"): value for name, value in headers.items()}
    return make_mocked_request("POST", "/twilio/webhook", headers=named, transport=Peer(peer))


# -- loopback ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.9.10", "::1"])
@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "LOCALHOST", "127.0.0.1:80", "127.1.2.3", "[::1]:80"])
def test_a_local_peer_under_a_local_name_is_loopback(peer: str, host: str) -> None:
    assert is_loopback(request(peer, host))
    assert is_loopback(request(peer, host, Origin="http://localhost:3000"))
    assert is_loopback(request(peer, host, Origin="http://[::1]"))


@pytest.mark.parametrize("peer", ["10.0.0.1", "192.168.0.1", "203.0.113.9", "0.0.0.0", "fe80::1", "::", "", None])
def test_a_peer_elsewhere_is_not(peer: str | None) -> None:
    assert not is_loopback(request(peer))


@pytest.mark.parametrize(
    "host",
    [
        "gw.example.com",
        "localhost.example.com",
        "127.0.0.1.example.com",
        "localhost@example.com",
        "0.0.0.0",
        "2130706433",
        "0x7f000001",
        "[::2]",
        "abc.ngrok.app",
        "",
    ],
)
def test_a_local_peer_under_another_name_is_a_tunnel_or_a_rebound_page(host: str) -> None:
    assert not is_loopback(request(host=host))


@pytest.mark.parametrize("host", ["[::1", "[", "]", "[::1]:x", "localhost:99999", "[127.0.0.1]", "[v1.x]", "a[b"])
def test_a_host_that_cannot_be_read_raises_nothing(host: str) -> None:
    is_loopback(request(host=host))


@pytest.mark.parametrize(
    "origin",
    [
        "https://example.com",
        "http://localhost.example.com",
        "null",
        "",
        "file://",
        "http://",
        "http://[",
        "http://[::1",
    ],
)
def test_a_page_from_elsewhere_is_not_loopback(origin: str) -> None:
    assert not is_loopback(request(Origin=origin))


@pytest.mark.parametrize(
    "header", ["Forwarded", "X_Forwarded_For", "X_Forwarded_Host", "X_Forwarded_Proto", "X_Real_IP", "Via"]
)
def test_a_request_that_was_forwarded_is_not_loopback(header: str) -> None:
    assert not is_loopback(request(**{header: "127.0.0.1"}))
    assert not is_loopback(request(**{header: ""}))
    assert not is_loopback(request(**{header.lower(): "localhost"}))


@given(st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=30))
def test_arbitrary_hosts_and_origins_raise_nothing(text: str) -> None:
    local = "localhost" in text.lower() or any(letter.isdigit() or letter == ":" for letter in text)
    assert is_loopback(request(host=text)) <= local
    is_loopback(request(Origin=text))
    forwarded_origin(request("10.1.2.3", X_Forwarded_Host=text, X_Forwarded_Proto=text, X_Forwarded_Port=text), PROXIES)


# -- proxies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("peer", ["10.1.2.3", "fd00::7"])
def test_a_trusted_proxy_tells_the_origin(peer: str) -> None:
    told = request(peer, "inner:8000", X_Forwarded_Host="gw.example.com", X_Forwarded_Proto="https")
    assert forwarded_origin(told, PROXIES) == "https://gw.example.com"


@pytest.mark.parametrize("peer", ["127.0.0.1", "11.0.0.1", "::1", "fe00::1", "", None])
def test_nobody_else_does(peer: str | None) -> None:
    told = request(peer, X_Forwarded_Host="gw.example.com", X_Forwarded_Proto="https")
    assert forwarded_origin(told, PROXIES) is None
    assert forwarded_origin(told, []) is None


@pytest.mark.parametrize(
    ("headers", "origin"),
    [
        ({}, None),
        ({"X_Forwarded_Proto": "https"}, None),
        ({"X_Forwarded_Host": ""}, None),
        ({"X_Forwarded_Host": "gw.example.com/path"}, None),
        ({"X_Forwarded_Host": "gw.example.com"}, "https://gw.example.com"),
        ({"X_Forwarded_Host": "gw.example.com", "X_Forwarded_Proto": "http"}, "http://gw.example.com"),
        ({"X_Forwarded_Host": "gw.example.com", "X_Forwarded_Proto": "javascript"}, "https://gw.example.com"),
        ({"X_Forwarded_Host": "one.example.com, two", "X_Forwarded_Proto": "https, http"}, "https://one.example.com"),
        ({"X_Forwarded_Host": "gw.example.com", "X_Forwarded_Port": "443"}, "https://gw.example.com"),
        ({"X_Forwarded_Host": "gw.example.com", "X_Forwarded_Port": "8443"}, "https://gw.example.com:8443"),
        ({"X_Forwarded_Host": "gw.example.com:9", "X_Forwarded_Port": "8443"}, "https://gw.example.com:9"),
        ({"X_Forwarded_Host": "gw.example.com", "X_Forwarded_Port": "8443, 80"}, "https://gw.example.com:8443"),
        ({"X_Forwarded_Host": "gw.example.com", "X_Forwarded_Port": "x"}, "https://gw.example.com"),
    ],
)
def test_the_forwarded_headers_are_read_with_care(headers: dict[str, str], origin: str | None) -> None:
    assert forwarded_origin(request("10.1.2.3", "inner:8000", **headers), PROXIES) == origin


# -- networks ----------------------------------------------------------------------------------------------------------


def test_networks_are_read_with_or_without_a_mask() -> None:
    assert [str(one) for one in networks(["10.1.2.3/8", " ::1 ", "", "192.0.2.1"])] == [
        "10.0.0.0/8",
        "::1/128",
        "192.0.2.1/32",
    ]


@pytest.mark.parametrize("text", ["10.0.0.0/33", "proxy.example.com", "10.0.0", "::g"])
def test_what_is_no_network_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        networks([text])
