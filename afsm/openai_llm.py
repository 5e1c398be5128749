"""Chat completions of any OpenAI-compatible endpoint, streamed through the official client.

The client's own retries are off: what is tried again, and how often, is decided in one place (`endpoints.py`), inside
the turn's budget.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from fastagent.afsm.llm import LlmError, LlmRequest, TextDelta, ToolCall

_MAX_TEXT = 16_000
_MAX_CALLS = 16


@dataclass(frozen=True, slots=True)
class OpenAiConfig:
    """One endpoint; the names are those of `llm_config`."""

    model: str = "gpt-4o-mini"
    api_key: str | None = None
    base_url: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    first_token_s: float = 8.0
    between_tokens_s: float = 4.0
    extra: dict[str, Any] = field(default_factory=dict)


class OpenAiLlm:
    """One endpoint."""

    def __init__(self, config: OpenAiConfig) -> None:
        self.name = config.model
        self._config = config
        self._client: Any = None
        self._limit_name = "max_tokens"

    def _open(self) -> Any:
        if self._client is None:
            from openai import AsyncOpenAI, DefaultAsyncHttpxClient

            config = self._config
            self._client = AsyncOpenAI(
                api_key=config.api_key or "none",
                base_url=config.base_url,
                max_retries=0,
                timeout=config.first_token_s,
                # Neither a conversation nor a key goes anywhere but to the endpoint that was configured.
                http_client=DefaultAsyncHttpxClient(follow_redirects=False, timeout=config.first_token_s),
            )
        return self._client

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()

    async def refuses_key(self) -> bool:
        """Whether the endpoint refuses the key, asked by a list of its models, which costs nothing."""
        from openai import AuthenticationError, OpenAIError, PermissionDeniedError

        try:
            await self._open().models.list(timeout=5.0)
        except (AuthenticationError, PermissionDeniedError):
            return True
        except OpenAIError:
            pass
        return False

    async def stream(self, request: LlmRequest) -> AsyncIterator[TextDelta | ToolCall]:
        """Yield the answer."""
        spoken = 0
        calls: dict[int, list[str]] = {}
        try:
            async for delta in self._deltas(request):
                if delta.content:
                    spoken += len(delta.content)
                    if spoken > _MAX_TEXT:
                        raise LlmError("broken", "the answer has no end", spoken=True)
                    yield TextDelta(delta.content)
                for piece in delta.tool_calls or ():
                    _gather(calls, piece)
        except LlmError as error:
            raise LlmError(error.kind, str(error), retry_after_s=error.retry_after_s, spoken=bool(spoken)) from error
        if not spoken and not calls:
            raise LlmError("empty", "the answer is empty")
        for call_id, name, arguments in calls.values():
            yield ToolCall(call_id, name, arguments)

    async def _deltas(self, request: LlmRequest) -> AsyncIterator[Any]:
        """Yield the deltas of the first choice; every failure becomes an `LlmError`."""
        config = self._config
        stream = None
        self._open()  # the library is slow to load: not on the endpoint's account
        try:
            async with asyncio.timeout(config.first_token_s):
                stream = await self._create(request)
                chunk = await anext(stream, None)
            while chunk is not None:
                if chunk.choices:
                    yield chunk.choices[0].delta
                async with asyncio.timeout(config.between_tokens_s):
                    chunk = await anext(stream, None)
        except TimeoutError as error:
            raise LlmError("silent", "the model is silent") from error
        except LlmError:
            raise
        except Exception as error:  # the client's own, its transport's and its parser's
            raise _fault(error) from error
        finally:
            if stream is not None:
                await stream.close()

    async def _create(self, request: LlmRequest) -> Any:
        from openai import BadRequestError

        try:
            return await self._request(request)
        except BadRequestError as error:
            # Newer models want the limit under another name, and say so.
            if self._limit_name == "max_tokens" and "max_completion_tokens" in str(error):
                self._limit_name = "max_completion_tokens"
                return await self._request(request)
            raise

    async def _request(self, request: LlmRequest) -> Any:
        config = self._config
        options: dict[str, Any] = {"model": config.model, "messages": list(request.messages)}
        if config.temperature is not None:
            options["temperature"] = config.temperature
        if config.max_tokens is not None:
            options[self._limit_name] = config.max_tokens
        if request.tools:
            options["tools"] = list(request.tools)
        return await self._open().chat.completions.create(**options, stream=True, extra_body=config.extra or None)


def _gather(calls: dict[int, list[str]], piece: Any) -> None:
    """Put a fragment of a tool call to the others of its index."""
    if piece.index not in calls and len(calls) >= _MAX_CALLS:
        raise LlmError("broken", "too many tool calls")
    call = calls.setdefault(piece.index, ["", "", ""])
    if piece.id:
        call[0] = piece.id
    if piece.function is not None:
        call[1] += piece.function.name or ""
        call[2] += piece.function.arguments or ""
    if len(call[2]) > _MAX_TEXT:
        raise LlmError("broken", "the arguments have no end")


def _fault(error: Exception) -> LlmError:
    """Say whose fault it is, without repeating what the endpoint wrote."""
    status = getattr(error, "status_code", None)
    name = type(error).__name__
    if status in (401, 403):
        return LlmError("auth", f"the endpoint refuses the key: {status}")
    if status == 429:
        return LlmError("rate_limited", "too many requests", retry_after_s=_retry_after(error))
    if status is not None and status < 500 and status != 408:
        return LlmError("refused", f"the endpoint refuses the request: {status}")
    if status is not None or "Connection" in name or "Timeout" in name:
        return LlmError("unavailable", f"the endpoint does not answer: {status or name}")
    return LlmError("broken", f"the answer cannot be read: {name}")


def _retry_after(error: Any) -> float | None:
    try:
        return max(0.0, float(error.response.headers.get("retry-after", "")))
    except (AttributeError, ValueError):
        return None
