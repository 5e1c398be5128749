"""Settings."""

import pytest
from pydantic import ValidationError

from fastagent.gateway.settings import Settings, secret


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PORT", "HOST", "MAX_SESSIONS", "TWILIO_AUTH_TOKEN", "FASTAGENT_SPEECH", "FASTAGENT_DRAIN_SECONDS"):
        monkeypatch.delenv(name, raising=False)


def test_the_documented_defaults() -> None:
    settings = Settings()
    documented = (settings.port, settings.host, settings.log_level, settings.max_sessions)
    assert documented == (8000, "0.0.0.0", "INFO", 100)
    assert settings.default_timeout_seconds == 30
    assert settings.websocket_ping_interval == 5
    assert settings.drain_seconds == 300
    assert settings.speech == "auto"
    assert settings.default_agent == "front_desk"


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "9001")
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", "very secret")
    monkeypatch.setenv("FASTAGENT_TRUSTED_PROXIES", "10.0.0.0/8, 192.168.1.4")
    settings = Settings()
    assert settings.port == 9001
    assert secret(settings.twilio_auth_token) == "very secret"
    assert settings.trusted_proxies == ("10.0.0.0/8", "192.168.1.4")
    assert "very secret" not in repr(settings)


def test_an_empty_credential_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", "")
    assert Settings().twilio_auth_token is None


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "0x"), ("MAX_SESSIONS", "0"), ("FASTAGENT_LOG_PII", "some"), ("DEFAULT_TIMEOUT_SECONDS", "-1")],
)
def test_wrong_values_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError):
        Settings()
