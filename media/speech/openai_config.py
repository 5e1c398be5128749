"""What OpenAI-compatible recognition and synthesis share: configuration, the client, and the names of faults.

The client's own retries are off, and redirects are not followed: neither a caller's voice nor a key goes anywhere but
to the endpoint that was configured.
"""

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any, Literal

from fastagent.media.errors import SpeechError

OPENAI_URL = "https://api.openai.com/v1"

SpeechFaultKind = Literal["auth", "rate_limited", "refused", "unavailable", "silent", "broken", "closed", "failed"]
"""The words of `afsm.llm.FaultKind`, as far as speech has such faults; `failed` where the provider names none."""

_JITTER_S = (0.05, 0.25)


class SpeechFault(SpeechError):
    """A fault whose kind is known; its message holds nothing of what the endpoint wrote, and no key."""

    def __init__(self, kind: SpeechFaultKind, message: str) -> None:
        super().__init__(message)
        self.kind: SpeechFaultKind = kind


def fault_kind(error: SpeechError) -> SpeechFaultKind:
    """Return the word for a provider's fault."""
    return error.kind if isinstance(error, SpeechFault) else "failed"


@dataclass(frozen=True, slots=True)
class OpenAiSttConfig:
    """An endpoint that recognises, by request or (`realtime`) by WebSocket."""

    model: str = "gpt-4o-mini-transcribe"
    api_key: str | None = field(default=None, repr=False)
    base_url: str = OPENAI_URL
    """With `/v1`; for `realtime` it may carry a query string, which is kept."""
    language: str | None = None
    """ISO 639-1; None lets the model find out."""
    response_format: Literal["json", "text"] = "json"
    realtime: bool = False
    realtime_protocol: Literal["ga", "beta"] = "ga"
    """`beta` for servers that still speak what OpenAI took away in May 2026."""
    connect_s: float = 3.0
    timeout_s: float = 8.0
    """From `finalize` to the text, a retry included."""
    stall_s: float = 2.0
    """How long a realtime socket may take no audio; as much is backlog, then it counts as lost."""
    extra: dict[str, Any] = field(default_factory=dict, repr=False)
    """More fields of the request; with `realtime` of the session's transcription object (`prompt`, ...)."""


@dataclass(frozen=True, slots=True)
class OpenAiTtsConfig:
    """An endpoint that synthesises."""

    model: str = "gpt-4o-mini-tts"
    api_key: str | None = field(default=None, repr=False)
    base_url: str = OPENAI_URL
    voice: str = "alloy"
    rate_hz: int = 24000
    """Rate of headless PCM; a server that answers as WAV says its own."""
    connect_s: float = 3.0
    first_byte_s: float = 5.0
    between_bytes_s: float = 3.0
    total_s: float = 30.0
    """Of waiting for the endpoint; the time that playout takes does not count."""
    extra: dict[str, Any] = field(default_factory=dict, repr=False)
    """More fields of the request (`instructions`, `speed`, ...)."""


class OpenAiEndpoint:
    """A client that is made when it is first used."""

    def __init__(self, config: OpenAiSttConfig | OpenAiTtsConfig) -> None:
        self._config = config
        self._client: Any = None

    def open(self) -> Any:
        """Return the client; the first time this loads the library, which is slow."""
        if self._client is None:
            from openai import AsyncOpenAI, DefaultAsyncHttpxClient, Timeout

            config = self._config
            total_s = config.timeout_s if isinstance(config, OpenAiSttConfig) else config.total_s
            timeout = Timeout(total_s, connect=config.connect_s)
            self._client = AsyncOpenAI(
                api_key=config.api_key or "none",
                base_url=config.base_url,
                max_retries=0,
                timeout=timeout,
                http_client=DefaultAsyncHttpxClient(follow_redirects=False, timeout=timeout),
            )
        return self._client

    async def load(self) -> None:
        """Load the library off the event loop, and make the client."""
        await asyncio.get_running_loop().run_in_executor(None, __import__, "openai")
        self.open()

    async def aclose(self) -> None:
        """Close the connections; may be called twice, and the next use opens new ones."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()


def fault_of(error: Exception) -> SpeechFault:
    """Say whose fault the client's exception is, without repeating what the endpoint wrote."""
    if isinstance(error, SpeechFault):
        return error
    status = getattr(error, "status_code", None)
    if status is not None:
        return fault_of_status(status)
    name = type(error).__name__
    if type(error.__cause__).__name__ == "ConnectTimeout":
        return SpeechFault("unavailable", "the endpoint cannot be reached in time")
    if isinstance(error, TimeoutError) or "Timeout" in name:
        return SpeechFault("silent", "the endpoint is silent")
    # The client wraps what goes wrong before the answer begins, and hands on its transport's own errors afterwards.
    names = {base.__name__ for base in type(error).__mro__}
    if names & {"APIConnectionError", "TransportError", "OSError"}:
        return SpeechFault("unavailable", f"the endpoint does not answer: {name}")
    return SpeechFault("broken", f"the answer cannot be read: {name}")


def fault_of_status(status: int) -> SpeechFault:
    """Name the fault of an HTTP status that is no success."""
    if status in (401, 403):
        return SpeechFault("auth", f"the endpoint refuses the key: {status}")
    if status == 429:
        return SpeechFault("rate_limited", "too many requests")
    if status < 500 and status != 408:
        return SpeechFault("refused", f"the endpoint refuses the request: {status}")
    return SpeechFault("unavailable", f"the endpoint does not answer: {status}")


async def may_try_again(fault: SpeechFault) -> None:
    """Return after a short jitter where a second attempt may help.

    Raises:
        SpeechFault: it may not: the endpoint would say the same again, or take as long.
    """
    if fault.kind != "unavailable":
        raise fault
    await asyncio.sleep(random.uniform(*_JITTER_S))
