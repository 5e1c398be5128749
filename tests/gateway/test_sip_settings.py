"""The SIP connector's settings."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fastagent.connectors.sip.media import ALL_CODECS, OPUS, PCMU
from fastagent.gateway.settings import Settings
from fastagent.gateway.sip_settings import sip_config


def config(**given: Any) -> Any:
    return sip_config(Settings(**given))


def test_by_default_phones_on_this_machine_may_call() -> None:
    one = config()
    assert (one.host, one.port, one.trust_loopback, one.trunk, one.tls) == ("127.0.0.1", 5060, True, None, None)
    assert (one.codecs, one.prefer_ours, one.srtp, one.full_status) == (ALL_CODECS, False, "optional", 503)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "pbx.example.com"])
def test_a_gateway_that_anybody_may_call_does_not_start(host: str) -> None:
    with pytest.raises(ValueError, match="open to others"):
        config(SIP_HOST=host)
    for closed in ({"SIP_USERS": "a:b"}, {"SIP_TRUSTED": "192.0.2.0/24"}, {"SIP_TRUNK": "sip:pbx.example.com"}):
        assert config(SIP_HOST=host, **closed).host == host


def test_a_trunk_with_a_user_is_registered_at_unless_told_otherwise() -> None:
    trunk = config(
        SIP_TRUNK="pbx.example.com:5080;transport=tcp", SIP_TRUNK_USER="1001", SIP_TRUNK_PASSWORD="secret"
    ).trunk
    assert (trunk.register, trunk.hop.host, trunk.hop.port, trunk.hop.transport) == (
        True,
        "pbx.example.com",
        5080,
        "tcp",
    )
    assert "secret" not in repr(trunk)
    assert not config(SIP_TRUNK="sip:a.example", SIP_TRUNK_USER="1", SIP_TRUNK_REGISTER="0").trunk.register
    trunk = config(SIP_TRUNK="sip:a.example", SIP_TRUNK_PROXY="sips:edge.a.example").trunk
    assert (trunk.register, trunk.credentials, str(trunk.hop)) == (False, None, "tls:edge.a.example")


def test_codecs_routes_and_files() -> None:
    one = config(
        SIP_CODECS="opus, pcmu", SIP_ROUTES="+15550100002=front_desk, 200=pharmacy",
        SIP_TLS_CERT="/a", SIP_TLS_KEY="/b", SIP_HOLD_MUSIC="/tune.wav", SIP_TRANSFER="attended", SIP_FULL_STATUS="486",
    )  # fmt: skip
    assert (one.codecs, one.prefer_ours) == ((OPUS, PCMU), True)
    assert one.agents == {"+15550100002": "front_desk", "200": "pharmacy"}
    assert (one.tls.certificate, one.hold_music) == (Path("/a"), Path("/tune.wav"))
    assert (one.attended, one.full_status) == (True, 486)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"SIP_CODECS": "g729"}, "no codec 'g729'"),
        ({"SIP_USERS": "ann"}, "user:password"),
        ({"SIP_ROUTES": "200"}, "number=agent"),
        ({"SIP_TRUNK": "sip:user@pbx.example.com"}, "an address like"),
        ({"SIP_TRUNK": "http://pbx"}, "no host"),
        ({"SIP_TRUNK": "sip:pbx;transport=ws"}, "an address like"),
        ({"SIP_TRUNK_USER": "a"}, "SIP_TRUNK is missing"),
        ({"SIP_TRUNK": "sip:a.example", "SIP_TRUNK_REGISTER": "1"}, "SIP_TRUNK_USER"),
        ({"SIP_TLS_CERT": "/a"}, "belong together"),
        ({"SIP_TRUSTED": "everyone"}, "everyone"),
        ({"RTP_PORTS": "30000"}, "a range"),
        ({"RTP_PORTS": "80-100"}, "a range"),
    ],
)
def test_what_is_wrong_is_told(wrong: dict[str, str], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Settings(**wrong)  # type: ignore[arg-type]
