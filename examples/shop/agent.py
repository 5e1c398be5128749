"""A shop: the model looks prices up and places orders with two Python functions.

OPENAI_API_KEY=... python -m fastagent.examples.shop.agent
"""

import asyncio
from typing import Any

from fastagent import ConversationContext, FastAgent
from fastagent.afsm.config import load
from fastagent.afsm.tools import tool

PRICES = {"tea": 3.0, "coffee": 3.5, "cake": 4.25}

DOCUMENT = {
    "initial_state": "counter",
    "no_input": ["Are you still there?", "I can't hear you."],
    "greeting": "Hello, this is the tea shop.",
    "llm_config": {"model": "gpt-4o-mini", "max_tokens": 150},
    "states": [
        {
            "name": "counter",
            "description": "Tells prices and takes orders",
            "say": "What would you like?",
            "prompt_template": "You sell tea, coffee and cake. Look prices up with `price`, never guess one. "
            "Place an order with `place_order` only after the caller has confirmed it.",
            "tools": ["price", "place_order"],
            "allowed_transitions": ["goodbye"],
        },
        {"name": "goodbye", "description": "The caller wants nothing more", "say": "Goodbye!", "terminal": True},
    ],
}


def price(item: str, count: int = 1) -> dict[str, Any]:
    """Look up what a number of items costs, in dollars."""
    each = PRICES.get(item.lower())
    return {"error": f"there is no {item}"} if each is None else {"item": item, "total": each * count}


async def place_order(item: str, count: int, context: ConversationContext) -> dict[str, Any]:
    """Place an order that the caller has confirmed."""
    orders = [*context.facts.get("orders", []), {"item": item, "count": count}]
    context.add_salient_fact("orders", orders)
    return {"placed": True, "orders": len(orders)}


def shop() -> FastAgent:
    """Return the agent."""
    config, _ = load(DOCUMENT)
    order = tool(place_order, finishes=True, filler="One moment, I am placing your order.")
    return FastAgent.from_config("shop", config, tools=[price, order])


if __name__ == "__main__":
    asyncio.run(shop().start())
