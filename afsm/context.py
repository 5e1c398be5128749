"""What a conversation remembers: exchanges as they were heard, facts, and the caller's profile."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastagent.afsm.http_tools import WebClient
    from fastagent.afsm.llm import Llm

_VERSION = 1
_PARTS = ("facts", "profile", "metadata", "slots", "variables")


@dataclass(slots=True)
class Exchange:
    """One utterance of the caller and the agent's answer to it."""

    user: str
    spoken: str
    """The whole answer, as the agent meant it."""
    state: str
    heard: str
    """As much of it as the caller heard."""
    interrupted: bool = False


@dataclass(frozen=True, slots=True)
class ToolUse:
    """One call of a tool; arguments and results are the caller's business and are not told here."""

    name: str
    seconds: float
    error: str = ""
    """Why it failed, in a fixed word or two; empty if it did not."""


def _exchange(user: str, spoken: str, state: str, heard: str, interrupted: bool) -> Exchange:
    """Return an exchange of a snapshot; raises `TypeError` where a part is missing, too many, or of another type."""
    if not all(isinstance(text, str) for text in (user, spoken, state, heard)) or type(interrupted) is not bool:
        raise TypeError("an exchange is four texts and whether it was interrupted")
    return Exchange(user, spoken, state, heard, interrupted)


class ConversationContext:
    """The memory of one session.

    Args:
        max_history: exchanges to remember; older ones are dropped.
    """

    def __init__(self, max_history: int = 10) -> None:
        if max_history < 1:
            raise ValueError("max_history must be at least 1")
        self.max_history = max_history
        self._history: deque[Exchange] = deque(maxlen=max_history)
        self._facts: dict[str, Any] = {}
        self._profile: dict[str, Any] = {}
        self.metadata: dict[str, Any] = {}
        """What the provider or client told of the call."""
        self.slots: dict[str, Any] = {}
        """What was asked for and given, by slot."""
        self.variables: dict[str, Any] = {}
        """The agent's own variables."""
        self.model: Llm | None = None
        """The session's language model, if it has one."""
        self.web: WebClient | None = None
        """The session's way to web services, for tools."""
        self.tool_used: Callable[[ToolUse], None] = lambda use: None
        """Told of every tool that the model has called."""
        self._speak: Callable[[str], None] | None = None

    def say(self, text: str) -> None:
        """Speak at once, while the state goes on working; behind what was said before.

        Raises:
            RuntimeError: outside a turn there is nobody to speak to.
        """
        if self._speak is None:
            raise RuntimeError("say() works inside a turn only")
        self._speak(text)

    @contextmanager
    def speaking(self, speak: Callable[[str], None]) -> Iterator[None]:
        """Let `say` speak by this, for the length of a turn."""
        before, self._speak = self._speak, speak
        try:
            yield
        finally:
            self._speak = before

    def values(self) -> dict[str, Any]:
        """Return what templates and conditions see: metadata, profile, facts, variables and slots, the later over the
        earlier."""
        return {**self.metadata, **self._profile, **self._facts, **self.variables, **self.slots}

    @property
    def history(self) -> list[Exchange]:
        """The remembered exchanges, oldest first."""
        return list(self._history)

    @property
    def facts(self) -> dict[str, Any]:
        """The salient facts."""
        return dict(self._facts)

    @property
    def profile(self) -> dict[str, Any]:
        """What is known of the caller."""
        return dict(self._profile)

    def update_context(
        self,
        user_utterance: str,
        agent_response: str,
        state: str,
        *,
        heard: str | None = None,
        interrupted: bool = False,
    ) -> None:
        """Add an exchange; `heard` is the part of the response that the caller heard, all of it if not given."""
        spoken_part = agent_response if heard is None else heard
        self._history.append(Exchange(user_utterance, agent_response, state, spoken_part, interrupted))

    def add_salient_fact(self, key: str, value: Any) -> None:
        """Remember a fact, in place of what was known under this key."""
        self._facts[key] = value

    def update_user_profile(self, updates: dict[str, Any]) -> None:
        """Merge what was learnt of the caller."""
        self._profile.update(updates)

    def to_messages(self) -> list[dict[str, str]]:
        """Return the history as chat messages; the assistant said only what was heard."""
        messages: list[dict[str, str]] = []
        for exchange in self._history:
            if exchange.user:
                messages.append({"role": "user", "content": exchange.user})
            if exchange.heard:
                cut = " [interrupted]" if exchange.interrupted else ""
                messages.append({"role": "assistant", "content": exchange.heard + cut})
        return messages

    def snapshot(self) -> dict[str, Any]:
        """Return all of it as a versioned JSON document, which does not change any more."""
        return deepcopy(
            {
                "version": _VERSION,
                "max_history": self.max_history,
                "history": [asdict(exchange) for exchange in self._history],
                "facts": self._facts,
                "profile": self._profile,
                "metadata": self.metadata,
                "slots": self.slots,
                "variables": self.variables,
            }
        )

    @classmethod
    def restore(cls, snapshot: dict[str, Any]) -> "ConversationContext":
        """Return the context that a `snapshot` describes.

        Raises:
            ValueError: a snapshot of another version, or a damaged one.
        """
        version = snapshot.get("version") if isinstance(snapshot, dict) else None
        if version != _VERSION:
            raise ValueError(f"cannot restore a snapshot of version {version!r}")
        try:
            context = cls(max_history=int(snapshot["max_history"]))
            context._history.extend(_exchange(**exchange) for exchange in snapshot["history"])
            parts = {
                name: deepcopy(snapshot.get(name, {}) if name == "metadata" else snapshot[name]) for name in _PARTS
            }
            if not all(isinstance(part, dict) for part in parts.values()):
                raise TypeError(f"{', '.join(_PARTS)} are objects")
        except (KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(f"the snapshot is damaged: {error}") from error
        context._facts, context._profile = parts["facts"], parts["profile"]
        context.slots, context.variables = parts["slots"], parts["variables"]
        context.metadata = parts["metadata"]
        return context
