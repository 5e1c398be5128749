"""Settings: read once from the environment into a frozen object, and passed down."""

import re
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from fastagent.connectors.trust import networks
from fastagent.gateway.sip_settings import SipSettings


class Settings(SipSettings):
    """The environment's variables; the documented names have no prefix, our own have `FASTAGENT_`."""

    host: str = Field("0.0.0.0", alias="HOST")
    port: int = Field(8000, alias="PORT", ge=0, le=65535)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", alias="LOG_LEVEL")
    openai_api_key: SecretStr | None = Field(None, alias="OPENAI_API_KEY")
    openai_base_url: str | None = Field(None, alias="OPENAI_BASE_URL")
    max_sessions: int = Field(100, alias="MAX_SESSIONS", ge=1)
    default_timeout_seconds: float = Field(30.0, alias="DEFAULT_TIMEOUT_SECONDS", gt=0, le=600)
    websocket_ping_interval: float = Field(5.0, alias="WEBSOCKET_PING_INTERVAL", gt=0)
    redis_url: str | None = Field(None, alias="REDIS_URL")

    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field((), alias="FASTAGENT_API_KEYS")
    auth: Literal["auto", "open", "required"] = Field("auto", alias="FASTAGENT_AUTH")
    metrics_token: SecretStr | None = Field(None, alias="FASTAGENT_METRICS_TOKEN")
    rest_rate: float = Field(50.0, alias="FASTAGENT_REST_RATE", gt=0)
    require_redis: bool = Field(False, alias="FASTAGENT_REQUIRE_REDIS")
    websocket_refuse_after_accept: bool = Field(False, alias="FASTAGENT_WS_REFUSE_AFTER_ACCEPT")
    websocket_hold_seconds: float = Field(30.0, alias="FASTAGENT_WS_HOLD_SECONDS", ge=0, le=600)
    speech: Literal["auto", "embedded", "openai", "scripted"] = Field("auto", alias="FASTAGENT_SPEECH")
    default_agent: str = Field("front_desk", alias="FASTAGENT_DEFAULT_AGENT")
    agents_dir: str = Field("agents", alias="FASTAGENT_AGENTS")
    drain_seconds: float = Field(300.0, alias="FASTAGENT_DRAIN_SECONDS", ge=0)
    log_format: Literal["json", "console", "auto"] = Field("auto", alias="FASTAGENT_LOG_FORMAT")
    log_pii: Literal["mask", "full", "hash"] = Field("mask", alias="FASTAGENT_LOG_PII")
    log_transcripts: bool = Field(False, alias="FASTAGENT_LOG_TRANSCRIPTS")
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field((), alias="FASTAGENT_TRUSTED_PROXIES")
    playout_lead_ms: int = Field(400, alias="FASTAGENT_PLAYOUT_LEAD_MS", ge=200, le=5000)

    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field((), alias="FASTAGENT_ALLOWED_HOSTS")
    transfer_to: Annotated[tuple[str, ...], NoDecode] = Field((), alias="FASTAGENT_TRANSFER_TO")
    transfers_per_hour: int = Field(60, alias="FASTAGENT_TRANSFERS_PER_HOUR", ge=0)
    call_to: Annotated[tuple[str, ...], NoDecode] = Field((), alias="FASTAGENT_CALL_TO")
    calls_per_hour: int = Field(60, alias="FASTAGENT_CALLS_PER_HOUR", ge=0)
    calls_at_once: int = Field(10, alias="FASTAGENT_CALLS_AT_ONCE", ge=0)

    ice_servers: Annotated[tuple[str, ...], NoDecode] = Field((), alias="FASTAGENT_ICE_SERVERS")
    otel_endpoint: str | None = Field(None, alias="OTEL_EXPORTER_OTLP_ENDPOINT")
    otel_service: str = Field("fastagent", alias="OTEL_SERVICE_NAME")

    public_base_url: str | None = Field(None, alias="PUBLIC_BASE_URL")
    twilio_account_sid: str | None = Field(None, alias="TWILIO_ACCOUNT_SID")
    twilio_auth_token: SecretStr | None = Field(None, alias="TWILIO_AUTH_TOKEN")

    audiocodes_api_key: SecretStr | None = Field(None, alias="AUDIOCODES_API_KEY")
    audiocodes_barge_in: bool = Field(True, alias="AUDIOCODES_BARGE_IN")
    audiocodes_oauth_issuer: str | None = Field(None, alias="AUDIOCODES_OAUTH_ISSUER")
    audiocodes_oauth_audience: str | None = Field(None, alias="AUDIOCODES_OAUTH_AUDIENCE")
    audiocodes_oauth_jwks_url: str | None = Field(None, alias="AUDIOCODES_OAUTH_JWKS_URL")
    audiocodes_oauth_introspection_url: str | None = Field(None, alias="AUDIOCODES_OAUTH_INTROSPECTION_URL")
    audiocodes_oauth_client_id: str | None = Field(None, alias="AUDIOCODES_OAUTH_CLIENT_ID")
    audiocodes_oauth_client_secret: SecretStr | None = Field(None, alias="AUDIOCODES_OAUTH_CLIENT_SECRET")

    @field_validator(
        "trusted_proxies", "allowed_hosts", "transfer_to", "call_to", "api_keys", "ice_servers", mode="before"
    )
    @classmethod
    def _lists(cls, value: object) -> object:
        """A list is separated by commas."""
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("trusted_proxies")
    @classmethod
    def _are_proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        networks(value)
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _are_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            if not re.fullmatch(r"https?://[^/?#@\s]+|(\*\.)?[A-Za-z0-9.:\[\]-]+", entry):
                raise ValueError(f"{entry!r} is no host like api.example.com and no origin like http://10.0.0.5:8080")
        return value

    @field_validator(
        "public_base_url",
        "twilio_account_sid",
        "twilio_auth_token",
        "audiocodes_api_key",
        "audiocodes_oauth_issuer",
        "audiocodes_oauth_audience",
        "audiocodes_oauth_jwks_url",
        "audiocodes_oauth_introspection_url",
        "audiocodes_oauth_client_id",
        "audiocodes_oauth_client_secret",
        "openai_api_key",
        "openai_base_url",
        "redis_url",
        "metrics_token",
        "otel_endpoint",
        mode="before",
    )
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("public_base_url")
    @classmethod
    def _is_origin(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"https?://[^/?#\s]+/?", value):
            raise ValueError("an origin like https://voice.example.com is expected")
        return value


def secret(value: SecretStr | None) -> str | None:
    """Return a secret's text."""
    return value.get_secret_value() if value is not None else None
