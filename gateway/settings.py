"""Settings: read once from the environment into a frozen object, and passed down."""

import re
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from fastagent.connectors.trust import networks


class Settings(BaseSettings):
    """The environment's variables; the documented names have no prefix, our own have `FASTAGENT_`."""

    model_config = SettingsConfigDict(frozen=True, populate_by_name=True, extra="ignore")

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

    ice_servers: Annotated[tuple[str, ...], NoDecode] = Field((), alias="FASTAGENT_ICE_SERVERS")
    sip_host: str = Field("127.0.0.1", alias="SIP_HOST")
    sip_port: int = Field(5060, alias="SIP_PORT", ge=0, le=65535)
    sip_public_host: str | None = Field(None, alias="SIP_PUBLIC_HOST")
    sip_users: Annotated[dict[str, str], NoDecode] = Field(default_factory=dict, alias="SIP_USERS", repr=False)
    sip_trusted: Annotated[tuple[str, ...], NoDecode] = Field((), alias="SIP_TRUSTED")
    rtp_ports: Annotated[tuple[int, int], NoDecode] = Field((20000, 29999), alias="RTP_PORTS")
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
        "trusted_proxies", "allowed_hosts", "transfer_to", "api_keys", "ice_servers", "sip_trusted", mode="before"
    )
    @classmethod
    def _split(cls, value: object) -> object:
        """A list is separated by commas."""
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("sip_users", mode="before")
    @classmethod
    def _pairs(cls, value: object) -> object:
        """`user:password` pairs, separated by commas."""
        if not isinstance(value, str):
            return value
        pairs = [part.strip().partition(":") for part in value.split(",") if part.strip()]
        if not all(user and password for user, _, password in pairs):
            raise ValueError("user:password pairs are expected, separated by commas")
        return {user: password for user, _, password in pairs}

    @field_validator("rtp_ports", mode="before")
    @classmethod
    def _range(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        low, _, high = value.partition("-")
        if not (low.strip().isdecimal() and high.strip().isdecimal() and 1024 <= int(low) < int(high) <= 65535):
            raise ValueError("a range like 20000-29999 is expected")
        return (int(low), int(high))

    @field_validator("trusted_proxies", "sip_trusted")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
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
        "sip_public_host",
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
