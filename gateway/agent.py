"""`FastAgent`: a machine of states, and how it takes turns."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from fastagent.afsm.config import AgentConfig
from fastagent.afsm.declared import fixed_phrases, states_of
from fastagent.afsm.errors import DefinitionError
from fastagent.afsm.machine import AFSM
from fastagent.afsm.state import AFSMState
from fastagent.afsm.tools import Tool, tool
from fastagent.media.turn_config import TurnConfig

if TYPE_CHECKING:
    from types import TracebackType


class FastAgent:
    """An agent that answers calls.

    Args:
        agent_id: its name in routes and metrics.
        states: its states; each session works on copies of its own.
        initial_state: the name of the first one.
        llm_config: of the model that `_generate_response` asks: `model`, `temperature`, `max_tokens`, `base_url`,
            `api_key` or `api_key_env`, `timeout`, `extra`, and `fallbacks`, a list of the same.
        turn_config: see `TurnConfig`; a dict of its fields will do.
        goodbye: said when the line is given back after silence.
        no_input_timeout: seconds of silence, after the agent has spoken, before it asks again.
        max_duration: seconds after which a call is ended.
        max_turns: utterances, keys and silences after which a call is ended.
        turn_timeout: seconds that an answer may take; DEFAULT_TIMEOUT_SECONDS if not given.
        max_history: exchanges that a session remembers.
        phrases: fixed sentences to render at start, so that they cost nothing in a call.
        stt_config, tts_config: of the agent's own speech: `provider` (`openai` or `embedded`), `model`, `base_url`,
            `api_key` or `api_key_env`, `voice`, `language`, `realtime`, `timeout`, `extra`.
        strict: refuse transitions that lead to no state, which are a warning otherwise.

    Raises:
        DefinitionError: the states make no machine, or, with `strict`, lead out of it.
        ValueError: a value is out of range.
    """

    def __init__(
        self,
        agent_id: str,
        states: Sequence[AFSMState],
        initial_state: str,
        llm_config: dict[str, Any] | None = None,
        *,
        turn_config: TurnConfig | dict[str, Any] | None = None,
        goodbye: str = "Goodbye.",
        no_input_timeout: float = 7.0,
        max_duration: float = 3600.0,
        max_turns: int | None = None,
        turn_timeout: float | None = None,
        max_history: int = 10,
        phrases: Iterable[str] = (),
        stt_config: dict[str, Any] | None = None,
        tts_config: dict[str, Any] | None = None,
        strict: bool = False,
    ) -> None:
        if not agent_id:
            raise ValueError("agent_id is empty")
        self.agent_id = agent_id
        self.afsm = AFSM(states, initial_state)
        if strict and self.afsm.warnings:
            raise DefinitionError("; ".join(self.afsm.warnings))
        self.llm_config = dict(llm_config or {})
        self.stt_config, self.tts_config = dict(stt_config or {}), dict(tts_config or {})
        self.turn_config = TurnConfig.of(turn_config)
        self.goodbye = goodbye
        self.no_input_timeout = no_input_timeout
        self.max_duration = max_duration
        self.max_turns, self.turn_timeout = max_turns, turn_timeout
        self.max_history = max_history
        self.phrases = [*phrases, goodbye]

    @classmethod
    def from_config(
        cls, agent_id: str, config: AgentConfig, *, tools: Iterable[Tool | Callable[..., Any]] = ()
    ) -> "FastAgent":
        """Return the agent that a declarative configuration describes; its states name the tools that they offer.

        Raises:
            DefinitionError: the states make no machine.
            ValueError: `turn_config` is wrong.
        """
        return cls(
            agent_id,
            states_of(config, {one.name: one for one in map(tool, tools)}),
            config.initial_state,
            config.llm_config,
            turn_config=config.turn_config,
            goodbye=config.goodbye,
            no_input_timeout=config.no_input_timeout,
            max_duration=config.limits.max_duration,
            max_turns=config.limits.max_turns,
            turn_timeout=config.limits.turn_timeout,
            max_history=config.max_history,
            phrases=fixed_phrases(config),
            stt_config=config.stt_config,
            tts_config=config.tts_config,
        )

    def __repr__(self) -> str:
        return f"<FastAgent {self.agent_id!r}, {len(self.afsm.states)} states>"

    async def start(self) -> None:
        """Serve this agent, as the default one, until the process is told to stop."""
        from fastagent.gateway.app import shared_gateway

        gateway = shared_gateway()
        gateway.add_agent(self, default=True)
        await gateway.start()
        await gateway.wait_closed()

    async def stop(self) -> None:
        """Let live calls finish, then stop the gateway."""
        from fastagent.gateway.app import shared_gateway

        await shared_gateway().stop()

    async def __aenter__(self) -> "FastAgent":
        from fastagent.gateway.app import shared_gateway

        gateway = shared_gateway()
        gateway.add_agent(self, default=True)
        await gateway.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        await self.stop()
