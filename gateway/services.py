"""What all sessions of a process share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastagent.afsm.http_tools import WebClient
from fastagent.afsm.llm import Llm
from fastagent.gateway.agent import FastAgent
from fastagent.gateway.destinations import DestinationPolicy
from fastagent.gateway.metrics import Metrics
from fastagent.gateway.traces import NoTracer, Tracer
from fastagent.media.speech.contracts import Stt
from fastagent.media.speech.rendering import Renderer
from fastagent.media.ticker import Ticker
from fastagent.media.vad.service import VadService

if TYPE_CHECKING:
    from fastagent.gateway.session import Session


@dataclass(slots=True)
class Services:
    """Models, clocks and policies."""

    vad: VadService
    stt: Stt
    renderer: Renderer
    ticker: Ticker
    metrics: Metrics
    lead_ms: int = 400
    turn_timeout_s: float = 30.0
    max_failures: int = 3
    log_transcripts: bool = False
    model_for: Callable[[FastAgent], Llm | None] = lambda agent: None
    """The language model of an agent, if there is one."""
    agent_for: Callable[[str], FastAgent | None] = lambda agent_id: None
    """The agent of an id, for a hand-over."""
    web: WebClient | None = None
    transfers: DestinationPolicy = field(default_factory=lambda: DestinationPolicy((), 0))
    on_response: Callable[[float], None] = lambda seconds: None
    """Told of every answer: seconds from the caller's last sound to its first audio."""
    speech_for: Callable[[FastAgent], tuple[Stt, Renderer] | None] = lambda agent: None
    """The speech of an agent that has its own."""
    keep: Callable[["Session"], None] = lambda session: None
    """Told after each turn: the session's state is worth storing."""
    tracer: Tracer = field(default_factory=NoTracer)
