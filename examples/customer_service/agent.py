"""The API document's complete example, with its states filled in.

    python -m fastagent.examples.customer_service.agent

serves it. With `OPENAI_API_KEY` set the states' answers come from the model; without one they say what rules can.
"""

import asyncio
from typing import Any

from fastagent import AFSMState, ConversationContext, FastAgent
from fastagent.afsm import understand


class GreetingState(AFSMState):
    """Initial greeting state that welcomes callers."""

    def __init__(self) -> None:
        super().__init__(
            name="greeting",
            description="Welcomes the caller to Acme's customer service and finds out what they need",
            allowed_transitions=["collect_info", "process_info"],
        )

    async def on_enter(self, context: ConversationContext) -> str:
        """Greet."""
        return "Hello, this is Acme customer service. What can I do for you?"

    async def process(self, input_text: str, context: ConversationContext) -> Any:
        """Note the reason and go on."""
        self.scratchpad = f"User said: {input_text}\nI should find out who they are."
        context.add_salient_fact("reason", input_text)
        return {"response": "I can help with that.", "next_state": "collect_info", "confidence": 0.95}


class CollectInfoState(AFSMState):
    """Asks who is calling."""

    def __init__(self) -> None:
        super().__init__("collect_info", "Asks for the caller's name", ["process_info"])

    async def on_enter(self, context: ConversationContext) -> str:
        """Ask."""
        return "May I have your name, please?"

    async def process(self, input_text: str, context: ConversationContext) -> Any:
        """Take the name."""
        name = understand.name(input_text)
        if name is None:
            return {"response": "Sorry, I didn't catch your name.", "next_state": None, "confidence": 0.2}
        context.update_user_profile({"name": name})
        return {"response": f"Thank you, {name}.", "next_state": "process_info", "confidence": 0.9}


class ProcessInfoState(AFSMState):
    """Answers, by the model if there is one."""

    def __init__(self) -> None:
        super().__init__("process_info", "Helps the caller with the reason of their call, briefly", ["goodbye"])

    async def on_enter(self, context: ConversationContext) -> str:
        """Invite the details."""
        return "Tell me more, or say goodbye."

    async def process(self, input_text: str, context: ConversationContext) -> Any:
        """Answer until they say goodbye."""
        if {"goodbye", "bye", "thanks"} & {*understand.words(input_text)}:
            return {"response": "", "next_state": "goodbye", "confidence": 0.95}
        response = await self._generate_response(input_text, context)
        return {"response": response, "next_state": None, "confidence": 0.8}


class GoodbyeState(AFSMState):
    """Ends the call."""

    def __init__(self) -> None:
        super().__init__("goodbye", "Says goodbye", terminal=True)

    async def on_enter(self, context: ConversationContext) -> str:
        """Say goodbye."""
        return "Thank you for calling Acme. Goodbye!"


def customer_service() -> FastAgent:
    """Return the agent."""
    return FastAgent(
        agent_id="customer_service",
        states=[GreetingState(), CollectInfoState(), ProcessInfoState(), GoodbyeState()],
        initial_state="greeting",
        llm_config={"model": "gpt-4", "temperature": 0.7},
    )


if __name__ == "__main__":
    asyncio.run(customer_service().start())
