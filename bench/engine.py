"""What the machine itself costs: a rule-based turn, and a streamed token, in CPU time.

    python -m bench.engine

The baselines of the same run: a turn of the front desk (plain Python states), and an empty async generator.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

from fastagent.afsm import AFSM, Machine
from fastagent.afsm.config import load
from fastagent.afsm.declared import states_of
from fastagent.afsm.llm import LlmRequest, TextDelta
from fastagent.examples.front_desk import front_desk
from fastagent.gateway.agent_files import read
from fastagent.media.speech.sentences import SentenceStream

_PHARMACY = Path(__file__).parents[1] / "examples/pharmacy/pharmacy.yaml"
_REFILL = ("I need a refill", "one two three four five six", "yes", "tomorrow", "yes", "yes")
_DESK = ("My name is Anna", "What are your opening hours?", "yes", "book a visit", "on Tuesday")
_TOKENS = 2000


class Talking:
    """A model that only talks, at no cost."""

    name = "talking"

    async def stream(self, request: LlmRequest) -> AsyncIterator[TextDelta]:
        for at in range(_TOKENS):
            yield TextDelta("word. " if at % 12 == 11 else "word ")


async def _turns(afsm: AFSM, said: tuple[str, ...], rounds: int) -> float:
    """CPU microseconds per turn."""
    began = time.process_time()
    for _ in range(rounds):
        machine = Machine(afsm)
        await machine.enter()
        for text in said:
            await machine.step(text)
    return (time.process_time() - began) / rounds / len(said) * 1e6


async def _tokens() -> tuple[float, float]:
    """CPU microseconds per token: through the machine and the sentence stream, and of the bare generator."""
    config, _ = load({"initial_state": "a", "states": [{"name": "a", "prompt_template": "Talk."}]})
    machine = Machine(AFSM(states_of(config), "a"))
    machine.context.model = Talking()
    await machine.enter()
    sentences = SentenceStream()
    began = time.process_time()
    async for event in machine.respond("go"):
        text = getattr(event, "text", "")
        if text:
            sentences.push(text)
    through = time.process_time() - began
    began = time.process_time()
    async for _ in Talking().stream(LlmRequest([])):
        pass
    return through / _TOKENS * 1e6, (time.process_time() - began) / _TOKENS * 1e6


async def measure() -> dict[str, float]:
    """Return microseconds of CPU."""
    config, _ = load(read(_PHARMACY))
    declared = AFSM(states_of(config), config.initial_state)
    plain = front_desk().afsm
    for afsm, said in ((declared, _REFILL), (plain, _DESK)):
        await _turns(afsm, said, 20)
    token, bare = await _tokens()
    return {
        "declared_turn_us": await _turns(declared, _REFILL, 200),
        "python_turn_us": await _turns(plain, _DESK, 200),
        "token_us": token,
        "bare_token_us": bare,
    }


def main() -> None:
    """Print the table."""
    cost = asyncio.run(measure())
    print("what                                  CPU        baseline                ratio   goal")
    rows = (
        ("rule-based turn of a YAML agent", "declared_turn_us", "Python states", "python_turn_us", 1000),
        ("streamed token to sentences", "token_us", "bare generator", "bare_token_us", 50),
    )
    for what, ours, baseline, theirs, goal in rows:
        ratio = cost[ours] / cost[theirs]
        print(f"{what:34} {cost[ours]:6.1f} us   {baseline:14} {cost[theirs]:6.1f} us {ratio:6.1f}x {goal:5} us")


if __name__ == "__main__":
    main()
