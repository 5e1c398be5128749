"""What the machine asks of a language model: a chat that streams text and tool calls, and fails in named ways."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from fastagent.afsm.errors import AfsmError

Message = dict[str, Any]
FaultKind = Literal["silent", "unavailable", "rate_limited", "auth", "broken", "empty", "refused", "open"]


class LlmError(AfsmError):
    """A model did not answer.

    Attributes:
        kind: a fixed word for counters.
        retry_after_s: what the endpoint asked to wait for, if it did.
        spoken: whether a part of the answer was already given out; then nothing may be tried again.
    """

    def __init__(
        self, kind: FaultKind, message: str, *, retry_after_s: float | None = None, spoken: bool = False
    ) -> None:
        super().__init__(message)
        self.kind, self.retry_after_s, self.spoken = kind, retry_after_s, spoken


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model asks for, complete; the arguments are JSON as the model wrote them, checked by nobody."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class LlmRequest:
    """One request: chat messages, and the tools on offer as OpenAI function schemas."""

    messages: Sequence[Message]
    tools: Sequence[dict[str, Any]] = field(default=())


class Llm(Protocol):
    """A model behind an endpoint."""

    name: str

    def stream(self, request: LlmRequest) -> AsyncIterator[TextDelta | ToolCall]:
        """Yield text as it comes, and each tool call once it is complete.

        Raises:
            LlmError: no answer, or not to its end.
        """
        ...
