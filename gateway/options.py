"""What `llm_config`, `stt_config` and `tts_config` may hold, checked to the last field; each fault has its path."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fastagent.afsm.errors import ConfigError, DefinitionError, Problem

_Seconds = Annotated[float, Field(gt=0, le=600)]
_Word = Annotated[str, Field(min_length=1, max_length=256)]
_Url = Annotated[str, Field(pattern=r"^(https?|wss?)://[^\s/?#]+[^\s]*$", max_length=2000)]


class _Endpoint(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: _Word | None = None
    api_key: str | None = Field(None, max_length=4096, pattern=r"^[!-~]*$")
    api_key_env: _Word | None = None
    base_url: _Url | None = None
    timeout: _Seconds | None = None
    extra: dict[str, Any] | None = None


class LlmOptions(_Endpoint):
    """`llm_config`, and each of its fallbacks."""

    temperature: float | None = Field(None, ge=0, le=10)
    max_tokens: int | None = Field(None, ge=1, le=1_000_000)
    first_token_s: _Seconds | None = None
    between_tokens_s: _Seconds | None = None
    fallbacks: list["LlmOptions"] = Field(default_factory=list, max_length=8)


class SttOptions(_Endpoint):
    """`stt_config`."""

    provider: Literal["openai", "embedded"] | None = None
    language: Annotated[str, Field(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$")] | None = None
    response_format: Literal["json", "text"] | None = None
    realtime: bool | None = None
    realtime_protocol: Literal["ga", "beta"] | None = None
    connect_s: _Seconds | None = None
    timeout_s: _Seconds | None = None
    stall_s: _Seconds | None = None


class TtsOptions(_Endpoint):
    """`tts_config`."""

    provider: Literal["openai", "embedded"] | None = None
    voice: _Word | None = None
    rate_hz: int | None = Field(None, ge=4000, le=96000)
    connect_s: _Seconds | None = None
    first_byte_s: _Seconds | None = None
    between_bytes_s: _Seconds | None = None
    total_s: _Seconds | None = None


def options(kind: type[_Endpoint], name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was given, of the right kinds; what is null counts as not given, but for keys.

    Raises:
        DefinitionError: unknown keys.
        ConfigError: with every other fault at its path.
    """
    if not isinstance(given, Mapping):
        raise DefinitionError(f"{name}: an object is expected")
    unknown = sorted(str(one)[:64] for one in set(given) - set(kind.model_fields))
    if unknown:
        known = ", ".join(sorted(kind.model_fields))
        raise DefinitionError(f"{name}: unknown {', '.join(unknown[:10])}; known are {known}")
    try:
        found = kind.model_validate(dict(given)).model_dump(exclude_unset=True)
    except ValidationError as error:
        raise ConfigError(
            [Problem("error", _path(name, one["loc"]), one["msg"][:300]) for one in error.errors()[:20]]
        ) from None
    return {key: value for key, value in found.items() if value is not None or key == "api_key"}


def _path(name: str, location: tuple[int | str, ...]) -> str:
    return name + "".join(f"[{part}]" if isinstance(part, int) else f".{part}"[:80] for part in location)
