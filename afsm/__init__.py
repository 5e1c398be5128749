"""The Agentic Finite State Machine: a conversation, text in and text out."""

from fastagent.afsm.context import ConversationContext, Exchange
from fastagent.afsm.machine import AFSM, Machine, Step, Transition
from fastagent.afsm.state import AFSMState, Ending, StateResult

__all__ = [
    "AFSM",
    "AFSMState",
    "ConversationContext",
    "Ending",
    "Exchange",
    "Machine",
    "StateResult",
    "Step",
    "Transition",
]
