"""Settings of the SIP connector, and the configuration that they come to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from fastagent.connectors.sip.admission import LOOPBACK, Trust
from fastagent.connectors.sip.config import SipConfig, TlsFiles, Trunk
from fastagent.connectors.sip.grammar import Malformed
from fastagent.connectors.sip.media import ALL_CODECS, Codec
from fastagent.connectors.sip.uri import Uri
from fastagent.connectors.trust import networks

_LEAST_PROBE_S = 5
_TRANSPORTS = (None, "udp", "tcp", "tls")


class SipSettings(BaseSettings):
    """The variables whose names begin with `SIP_`, and `RTP_PORTS`."""

    model_config = SettingsConfigDict(frozen=True, populate_by_name=True, extra="ignore")

    sip_host: str = Field("127.0.0.1", alias="SIP_HOST")
    sip_port: int = Field(5060, alias="SIP_PORT", ge=0, le=65535)
    sip_public_host: str | None = Field(None, alias="SIP_PUBLIC_HOST")
    sip_users: Annotated[dict[str, str], NoDecode] = Field(default_factory=dict, alias="SIP_USERS", repr=False)
    sip_trusted: Annotated[tuple[str, ...], NoDecode] = Field((), alias="SIP_TRUSTED")
    sip_trust_loopback: bool = Field(True, alias="SIP_TRUST_LOOPBACK")
    sip_routes: Annotated[dict[str, str], NoDecode] = Field(default_factory=dict, alias="SIP_ROUTES")
    sip_codecs: Annotated[tuple[str, ...], NoDecode] = Field((), alias="SIP_CODECS")
    sip_srtp: Literal["off", "optional", "required"] = Field("optional", alias="SIP_SRTP")
    sip_full_status: Literal["503", "486"] = Field("503", alias="SIP_FULL_STATUS")
    sip_tls_cert: str | None = Field(None, alias="SIP_TLS_CERT")
    sip_tls_key: str | None = Field(None, alias="SIP_TLS_KEY")
    sip_tls_port: int = Field(5061, alias="SIP_TLS_PORT", ge=0, le=65535)
    sip_tls_ca: str | None = Field(None, alias="SIP_TLS_CA")
    sip_trunk: str | None = Field(None, alias="SIP_TRUNK")
    sip_trunk_user: str = Field("", alias="SIP_TRUNK_USER")
    sip_trunk_password: SecretStr = Field(SecretStr(""), alias="SIP_TRUNK_PASSWORD")
    sip_trunk_register: bool | None = Field(None, alias="SIP_TRUNK_REGISTER")
    sip_trunk_caller: str = Field("", alias="SIP_TRUNK_CALLER")
    sip_trunk_proxy: str | None = Field(None, alias="SIP_TRUNK_PROXY")
    sip_trunk_probe_s: float = Field(0.0, alias="SIP_TRUNK_PROBE_S", ge=0, le=3600)
    sip_ring_s: float = Field(0.0, alias="SIP_RING_S", ge=0, le=60)
    sip_transfer: Literal["blind", "attended"] = Field("blind", alias="SIP_TRANSFER")
    sip_inband_dtmf: bool = Field(False, alias="SIP_INBAND_DTMF")
    sip_hold_music: str | None = Field(None, alias="SIP_HOLD_MUSIC")
    sip_trace: bool = Field(False, alias="SIP_TRACE")
    rtp_ports: Annotated[tuple[int, int], NoDecode] = Field((20000, 29999), alias="RTP_PORTS")

    @field_validator("sip_trusted", "sip_codecs", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """A list is separated by commas."""
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("sip_users", mode="before")
    @classmethod
    def _passwords(cls, value: object) -> object:
        return _pairs(value, ":", "user:password")

    @field_validator("sip_routes", mode="before")
    @classmethod
    def _routes(cls, value: object) -> object:
        return _pairs(value, "=", "number=agent")

    @field_validator("rtp_ports", mode="before")
    @classmethod
    def _range(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        low, _, high = value.partition("-")
        if not (low.strip().isdecimal() and high.strip().isdecimal() and 1024 <= int(low) < int(high) <= 65535):
            raise ValueError("a range like 20000-29999 is expected")
        return (int(low), int(high))

    @field_validator("sip_trusted")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        networks(value)
        return value

    @field_validator("sip_codecs")
    @classmethod
    def _are_codecs(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        codecs_of(value)
        return value

    @field_validator("sip_trunk", "sip_trunk_proxy")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        if value is not None:
            _address(value)
        return value

    @field_validator(
        "sip_public_host", "sip_tls_cert", "sip_tls_key", "sip_tls_ca", "sip_trunk", "sip_trunk_proxy",
        "sip_hold_music", "sip_trunk_register", mode="before",
    )  # fmt: skip
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value

    @model_validator(mode="after")
    def _is_whole(self) -> "SipSettings":
        if bool(self.sip_tls_cert) != bool(self.sip_tls_key):
            raise ValueError("SIP_TLS_CERT and SIP_TLS_KEY belong together")
        if self.sip_trunk_register and not self.sip_trunk_user:
            raise ValueError("SIP_TRUNK_REGISTER needs SIP_TRUNK_USER")
        trunk = (self.sip_trunk_user, self.sip_trunk_proxy, self.sip_trunk_caller, self.sip_trunk_probe_s)
        if self.sip_trunk is None and any(trunk):
            raise ValueError("SIP_TRUNK is missing")
        if 0 < self.sip_trunk_probe_s < _LEAST_PROBE_S:
            raise ValueError(f"SIP_TRUNK_PROBE_S is 0, or at least {_LEAST_PROBE_S} seconds")
        return self


def _pairs(value: object, between: str, form: str) -> object:
    """Read `a:b,c:d`."""
    if not isinstance(value, str):
        return value
    pairs = [part.strip().partition(between) for part in value.split(",") if part.strip()]
    if not all(left and right for left, _, right in pairs):
        raise ValueError(f"{form} pairs are expected, separated by commas")
    return {left.strip(): right.strip() for left, _, right in pairs}


def _address(text: str) -> Uri:
    try:
        uri = Uri.parse(text if text.startswith(("sip:", "sips:")) else f"sip:{text}")
    except Malformed as error:
        raise ValueError(str(error)) from None
    if uri.user or uri.param("transport") not in _TRANSPORTS:
        raise ValueError("an address like sip:pbx.example.com or sip:10.0.0.5:5080;transport=tcp is expected")
    return uri


def codecs_of(names: tuple[str, ...]) -> tuple[Codec, ...]:
    """Return codecs by their names, in that order; all of ours where none is named.

    Raises:
        ValueError: one is none of ours.
    """
    known: Mapping[str, tuple[Codec, ...]] = {
        name: tuple(one for one in ALL_CODECS if one.name.lower() == name)
        for name in dict.fromkeys(one.name.lower() for one in ALL_CODECS)
    }
    unknown = [name for name in names if name.lower() not in known]
    if unknown:
        raise ValueError(f"no codec {unknown[0]!r:.40}; there are {', '.join(known)}")
    return tuple(codec for name in names for codec in known[name.lower()]) or ALL_CODECS


def sip_config(settings: SipSettings) -> SipConfig:
    """Return the configuration that the environment asks for.

    Raises:
        ValueError: the gateway would be open to everybody.
    """
    trunk = _trunk(settings)
    local = settings.sip_host == "localhost" or settings.sip_host in Trust(LOOPBACK)
    if not (local or settings.sip_users or settings.sip_trusted or trunk):
        raise ValueError("SIP_HOST is open to others: set SIP_USERS, SIP_TRUSTED or SIP_TRUNK")
    tls = None
    if settings.sip_tls_cert and settings.sip_tls_key:
        tls = TlsFiles(Path(settings.sip_tls_cert), Path(settings.sip_tls_key))
    return SipConfig(
        host=settings.sip_host,
        port=settings.sip_port,
        tls=tls,
        tls_port=settings.sip_tls_port,
        tls_ca=Path(settings.sip_tls_ca) if settings.sip_tls_ca else None,
        public_host=settings.sip_public_host,
        rtp_ports=settings.rtp_ports,
        users=settings.sip_users,
        trusted=tuple(networks(settings.sip_trusted)),
        trust_loopback=settings.sip_trust_loopback,
        agents=dict(settings.sip_routes),
        trunk=trunk,
        codecs=codecs_of(settings.sip_codecs),
        prefer_ours=bool(settings.sip_codecs),
        srtp=settings.sip_srtp,
        full_status=int(settings.sip_full_status),
        ring_s=settings.sip_ring_s,
        attended=settings.sip_transfer == "attended",
        inband_keys=settings.sip_inband_dtmf,
        hold_music=Path(settings.sip_hold_music) if settings.sip_hold_music else None,
        trace=settings.sip_trace,
    )


def _trunk(settings: SipSettings) -> Trunk | None:
    if settings.sip_trunk is None:
        return None
    register = settings.sip_trunk_register
    return Trunk(
        _address(settings.sip_trunk),
        settings.sip_trunk_user,
        settings.sip_trunk_password.get_secret_value(),
        bool(settings.sip_trunk_user) if register is None else register,
        settings.sip_trunk_caller,
        _address(settings.sip_trunk_proxy) if settings.sip_trunk_proxy else None,
        settings.sip_trunk_probe_s,
    )
