"""The other examples: sound, and conversing."""

from pathlib import Path
from typing import Any

from fastagent.afsm import AFSM, Machine
from fastagent.afsm.config import load
from fastagent.afsm.declared import states_of
from fastagent.afsm.llm import TextDelta, ToolCall
from fastagent.afsm.proofs import check
from fastagent.examples.customer_service import customer_service
from fastagent.examples.shop import shop
from fastagent.examples.shop.agent import DOCUMENT
from fastagent.gateway.agent_files import examine
from tests.afsm.test_model import ScriptedLlm

EXAMPLES = Path(__file__).parents[2] / "examples"


async def talk(session: Machine, *said: str) -> list[str]:
    """The responses to these."""
    return [(await session.step(text)).response for text in said]


def test_every_example_document_is_sound() -> None:
    files = sorted(EXAMPLES.rglob("*.yaml"))
    files = [file for file in files if not file.stem.endswith(".test")]
    assert len(files) == 2
    for file in files:
        assert [str(problem) for problem in examine(file)[1]] == []
    assert check(load(DOCUMENT)[0], tools=["price", "place_order"]) == []


async def test_customer_service_in_python_with_a_model() -> None:
    session = Machine(customer_service().afsm)
    llm = ScriptedLlm([TextDelta("Your balance is "), TextDelta("ten dollars.")])
    session.context.model = llm
    assert (await session.enter()).response.startswith("Hello, this is Acme")
    assert await talk(session, "My account balance.", "My name is Anna.", "How much is it?", "Thanks, bye.") == [
        "I can help with that. May I have your name, please?",
        "Thank you, Anna. Tell me more, or say goodbye.",
        "Your balance is ten dollars.",
        "Thank you for calling Acme. Goodbye!",
    ]
    assert '"reason": "My account balance."' in llm.requests[0].messages[0]["content"]


async def test_customer_service_in_yaml_does_the_same() -> None:
    config, _ = examine(EXAMPLES / "customer_service/customer_service.yaml")
    assert config is not None
    session = Machine(AFSM(states_of(config), config.initial_state))
    llm = ScriptedLlm([TextDelta("It is ten dollars.")])
    session.context.model = llm
    assert (await session.enter()).response == "Hello, this is Acme customer service. What can I do for you?"
    assert await talk(session, "My account balance.", "Anna", "How much is it?", "That's all, goodbye.") == [
        "I can help with that. May I have your name, please?",
        "Thank you, Anna. Tell me more, or say goodbye.",
        "It is ten dollars.",
        "Thank you for calling Acme. Goodbye!",
    ]
    assert "The caller is Anna; they called because: My account balance." in llm.requests[0].messages[0]["content"]


async def test_the_shop_looks_up_and_orders() -> None:
    session = Machine(shop().afsm)

    def use(name: str, arguments: str) -> list[Any]:
        return [ToolCall("c", name, arguments)]

    session.context.model = ScriptedLlm(
        use("price", '{"item": "tea", "count": 2}'),
        [TextDelta("Two teas are six dollars. Shall I order them?")],
        use("place_order", '{"item": "tea", "count": 2}'),
        [TextDelta("Ordered.")],
    )
    await session.enter()
    assert await talk(session, "How much are two teas?", "Yes please.") == [
        "Two teas are six dollars. Shall I order them?",
        "One moment, I am placing your order. Ordered.",
    ]
    assert session.context.facts["orders"] == [{"item": "tea", "count": 2}]
