"""The agent `bench`: answers every utterance with three seconds of speech, 200 ms after its end.

With `FASTAGENT_SPEECH=scripted` it costs nothing itself, so that what is measured is the gateway.
"""

from typing import Any

from fastagent import AFSMState, ConversationContext, FastAgent, StateResult

ANSWER = "This is an answer of exactly eight words."  # which scripted speech says in three seconds


class Answering(AFSMState):
    """Says the same again and again."""

    async def on_enter(self, context: ConversationContext) -> str:
        """Greet with it, too."""
        return ANSWER

    async def process(self, input_text: str, context: ConversationContext) -> Any:
        """Whatever is said."""
        return StateResult(ANSWER)


def bench() -> FastAgent:
    """Return the agent."""
    return FastAgent(
        agent_id="bench",
        states=[Answering("answering", "Answers")],
        initial_state="answering",
        turn_config={"min_endpointing_delay": 0.2, "max_endpointing_delay": 0.2},
        no_input_timeout=60.0,
        phrases=[ANSWER],
    )
