"""The examples of the API document, literally, as a program that somebody runs."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import aiohttp
import pytest

from tests.support.process import free_port

STATES = '''
from fastagent import FastAgent, AFSMState, ConversationContext

# Define custom states
class GreetingState(AFSMState):
    """Initial greeting state that welcomes callers."""

    def __init__(self):
        super().__init__(
            name="greeting",
            description="Welcomes the user and identifies their needs",
            allowed_transitions=["collect_info", "handle_query"]
        )

    async def process(self, input_text, context):
        """Process user input in this state."""
        # Access scratchpad for reasoning
        self.scratchpad = f"User said: {input_text}\\nI should greet them and identify their needs."

        # Generate response using the state-specific logic
        response = await self._generate_response(input_text, context)

        # Determine next state
        next_state = self._determine_next_state(input_text, response)

        return {
            "response": response,
            "next_state": next_state,
            "confidence": 0.95
        }

    def _determine_next_state(self, input_text, response):
        """Determine the next state based on input and response."""
        if "help" in input_text.lower() or "question" in input_text.lower():
            return "handle_query"
        else:
            return "collect_info"

class CollectInfoState(AFSMState):
    def __init__(self):
        super().__init__(name="collect_info", allowed_transitions=["process_info"])

class ProcessInfoState(AFSMState):
    def __init__(self):
        super().__init__(name="process_info")
'''

INTEGRATION = """
# Initialize FastAgent
agent = FastAgent(
    agent_id="customer_service",
    states=[
        GreetingState(),
        CollectInfoState(),
        ProcessInfoState()
    ],
    initial_state="greeting",
    llm_config={
        "model": "gpt-4",
        "temperature": 0.7
    }
)
"""

TWILIO = """
from fastagent.telephony import TwilioConnector

# Initialize connector
twilio = TwilioConnector(
    account_sid="your_twilio_account_sid",
    auth_token="your_twilio_auth_token",
    webhook_url="https://your-server.com/twilio/webhook"
)

# Register agent with connector
await twilio.register_agent(
    agent_id="support_agent",
    phone_number="+18005551235"
)

# Start listening for calls
await twilio.start()
"""

AUDIOCODES = """
from fastagent.telephony import AudiocodesConnector

# Initialize connector
audiocodes = AudiocodesConnector(
    webhook_url="https://your-server.com/audiocodes/webhook",
    api_key="your_audiocodes_api_key"
)

# Register agent with connector
await audiocodes.register_agent(
    agent_id="retail_agent",
    phone_number="+18005551234"
)

# Start listening for calls
await audiocodes.start()
"""

START = """
# Start the agent
await agent.start()
"""


def program(*parts: str) -> str:
    """A program of the document's pieces; those with a top-level await run in one coroutine."""
    definitions = [part for part in parts if "await " not in part.replace("await self.", "")]
    awaiting = [part for part in parts if part not in definitions]
    body = "\n".join(f"    {line}" for part in awaiting for line in part.splitlines())
    return "\n".join(definitions) + f"\nasync def main():\n{body}\nimport asyncio\nasyncio.run(main())\n"


async def run(tmp_path: Path, code: str, port: int) -> asyncio.subprocess.Process:
    path = tmp_path / "program.py"
    path.write_text(code)
    environment = {**os.environ, "PORT": str(port), "HOST": "127.0.0.1", "FASTAGENT_SPEECH": "scripted"}
    environment.pop("OPENAI_API_KEY", None)
    return await asyncio.create_subprocess_exec(sys.executable, str(path), env=environment)


async def healthy(http: aiohttp.ClientSession, url: str) -> None:
    async with asyncio.timeout(40):
        while True:
            try:
                async with http.get(f"{url}/readyz") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.1)


@pytest.mark.real
async def test_the_complete_example_serves_its_agent_beside_both_carriers(tmp_path: Path) -> None:
    port = free_port()
    process = await run(tmp_path, program(STATES, INTEGRATION, AUDIOCODES, TWILIO, START), port)
    url = f"http://127.0.0.1:{port}"
    try:
        async with aiohttp.ClientSession() as http:
            await healthy(http, url)
            async with http.post(f"{url}/twilio/webhook", data={"CallSid": "CA1"}) as answer:
                assert answer.status == 403  # the connector's token counts: this request is not signed
            async with http.get(f"{url}/audiocodes/webhook") as answer:
                assert answer.status == 401  # and so does the other's key
            async with http.get(f"{url}/agents") as answer:
                agents = {one["agent_id"]: one for one in (await answer.json())["agents"]}
            assert agents["customer_service"]["default"]
            async with http.ws_connect(f"{url}/agent/ws") as socket:
                start = {"type": "start_session", "payload": {"agent_id": "customer_service"}}
                await socket.send_json(start)
                started = json.loads((await socket.receive()).data)
                assert started["payload"]["initial_state"] == "greeting"
                await socket.send_json({"type": "text_input", "payload": {"text": "Good morning"}})
                async for message in socket:
                    event = json.loads(message.data)
                    if event["type"] == "state_transition":
                        break
                assert event["payload"]["from_state"] == "greeting"
                assert event["payload"]["to_state"] == "collect_info"
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()


def test_the_context_of_the_document() -> None:
    from fastagent.context import ConversationContext

    # Initialize a new context
    context = ConversationContext(max_history=10)

    # Update context with new information
    context.update_context(
        user_utterance="I need to check my account balance",
        agent_response="I can help you check your account balance. Can you please verify your identity?",
        state="identity_verification",
    )

    # Add a salient fact
    context.add_salient_fact("account_type", "checking")

    # Update user profile
    context.update_user_profile({"authentication_status": "pending", "last_interaction": "2023-06-20T15:45:30Z"})
    assert context.history[0].state == "identity_verification"
    assert context.facts == {"account_type": "checking"}
    assert context.profile["authentication_status"] == "pending"
