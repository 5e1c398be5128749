"""The proofs: every planted defect is found at its place, and sound machines have none."""

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fastagent.afsm.config import load
from fastagent.afsm.proofs import check

Document = dict[str, Any]

PHARMACY = Path(__file__).parents[2] / "examples/pharmacy/pharmacy.yaml"


def found(document: Document) -> list[tuple[str, str, str]]:
    """The severity, rule and place of every problem."""
    return [(one.severity, one.rule, one.path) for one in check(load(document)[0])]


def sound(rng: random.Random) -> Document:
    """A random machine with nothing wrong with it: a chain with extra ways, ending in a goodbye."""
    count = rng.randint(2, 9)
    names = [f"state {at}" for at in range(count)]
    states: list[Document] = []
    for at, name in enumerate(names):
        slot = f"slot_{at}"
        ahead = [names[rng.randint(at + 1, count - 1)] for _ in range(rng.randint(0, 2))] if at + 1 < count else []
        ways: list[Document] = [
            *({"to": to, "when": [f"phrase {at} {i}"]} for i, to in enumerate(ahead)),
            {"to": names[at + 1] if at + 1 < count else "end", "when": {"slots": [slot]}},
        ]
        state: Document = {
            "name": name,
            "slots": [
                {"name": slot, "type": rng.choice(["text", "number", "date", "yes_no"]), "ask": f"Question {at}?"}
            ],
            "transitions": ways,
        }
        if rng.random() < 0.5:
            state["dtmf"] = {"menu": {"1": "end", "2": rng.choice(names)}}
        if rng.random() < 0.5:
            state["no_input"] = {"prompts": [f"{{{{ {slot} }}}} or {{{{ shop }}}}?"], "then": "end"}
        states.append(state)
    states.append({"name": "end", "say": "Goodbye from {{ shop }}.", "terminal": True})
    rng.shuffle(states)
    prompts = {"prompts": ["Are you there?"], "then": "end"}
    return {"initial_state": names[0], "no_input": prompts, "variables": {"shop": "us"}, "states": states}


def state(document: Document, name: str) -> tuple[int, Document]:
    at = next(at for at, one in enumerate(document["states"]) if one["name"] == name)
    return at, document["states"][at]


def undefined_target(document: Document, rng: random.Random) -> tuple[str, str]:
    at, one = state(document, "state 0")
    one["transitions"].append({"to": "nowhere", "when": ["somewhere else"]})
    return "undefined-target", f"states[{at}].transitions[{len(one['transitions']) - 1}].to"


def unreachable(document: Document, rng: random.Random) -> tuple[str, str]:
    document["states"].append({"name": "island", "transitions": [{"to": "end", "when": ["x"]}]})
    return "unreachable-state", f"states[{len(document['states']) - 1}]"


def no_way_out(document: Document, rng: random.Random) -> tuple[str, str]:
    _, one = state(document, "state 0")
    one["transitions"].append({"to": "trap", "when": ["into the trap"]})
    document["states"].append({"name": "trap", "say": "Ha.", "transitions": [{"to": "trap", "when": ["x"]}]})
    return "no-way-out", f"states[{len(document['states']) - 1}]"


def no_end(document: Document, rng: random.Random) -> tuple[str, str]:
    state(document, "end")[1]["terminal"] = False
    return "no-end", "states"


def unknown_name(document: Document, rng: random.Random) -> tuple[str, str]:
    at, one = state(document, "end")
    one["say"] = "Goodbye {{ caler }}."
    return "unknown-name", f"states[{at}].say"


def broken_template(document: Document, rng: random.Random) -> tuple[str, str]:
    at, one = state(document, "end")
    one["say"] = "Goodbye {{ shop."
    return "template", f"states[{at}].say"


def broken_expression(document: Document, rng: random.Random) -> tuple[str, str]:
    at, one = state(document, "state 0")
    one["transitions"].insert(0, {"to": "end", "when": "slot_0 >"})
    return "expression", f"states[{at}].transitions[0].when.expression"


def key_prefix(document: Document, rng: random.Random) -> tuple[str, str]:
    at, one = state(document, "state 0")
    one["dtmf"] = {"menu": {"1": "end", "12": "end"}}
    return "dtmf-prefix", f"states[{at}].dtmf.menu"


def unused_slot(document: Document, rng: random.Random) -> tuple[str, str]:
    at, one = state(document, "state 0")
    one["slots"].append({"name": "forgotten", "ask": "What for?"})
    return "slot-unused", f"states[{at}].slots[1]"


def silent_slot(document: Document, rng: random.Random) -> tuple[str, str]:
    at, one = state(document, "state 0")
    one["slots"][0]["ask"] = ""
    return "slot-without-question", f"states[{at}].slots[0]"


def unknown_slot(document: Document, rng: random.Random) -> tuple[str, str]:
    at, one = state(document, "state 0")
    one["transitions"].insert(0, {"to": "end", "when": {"slots": ["slot_zero"]}})
    return "unknown-slot", f"states[{at}].transitions[0].when.slots"


def shadowed(document: Document, rng: random.Random) -> tuple[str, str]:
    at, one = state(document, "state 0")
    one["transitions"] = [*one["transitions"], {"to": "end"}, {"to": "end", "when": "shop == 'us'"}]
    return "shadowed-transition", f"states[{at}].transitions[{len(one['transitions']) - 1}]"


def model_needed(document: Document, rng: random.Random) -> tuple[str, str]:
    _, one = state(document, "state 0")
    one["transitions"].append({"to": "talk", "when": ["talk"]})
    document["states"].append({"name": "talk", "allowed_transitions": ["end"], "prompt_template": "Be kind."})
    return "needs-model", f"states[{len(document['states']) - 1}].prompt_template"


def silent_edge(document: Document, rng: random.Random) -> tuple[str, str]:
    del document["no_input"]
    at, one = state(document, "state 0")
    one.pop("no_input", None)
    return "no-input-edge", f"states[{at}]"


def silent_loop(document: Document, rng: random.Random) -> tuple[str, str]:
    at, one = state(document, "state 0")
    one["no_input"] = {"prompts": ["Hello?"], "then": "other"}
    document["states"].append(
        {"name": "other", "on_timeout": {"after": 5, "to": "state 0"}, "transitions": [{"to": "end", "when": ["x"]}]}
    )
    return "silent-loop", f"states[{at}]"


def tool_without_handler(document: Document, rng: random.Random) -> tuple[str, str]:
    at, one = state(document, "state 0")
    one |= {"prompt_template": "Be kind.", "tools": ["look_up"]}
    return "tool-without-handler", f"states[{at}].tools[0]"


def tool_without_model(document: Document, rng: random.Random) -> tuple[str, str]:
    at, one = state(document, "state 0")
    one["tools"] = ["look_up"]
    document["tools"] = [{"name": "look_up", "description": "Looks up.", "url": "https://api.example.com/x"}]
    return "tool-unused", f"states[{at}].tools[0]"


def idle_tool(document: Document, rng: random.Random) -> tuple[str, str]:
    document["tools"] = [{"name": "look_up", "description": "Looks up.", "url": "https://api.example.com/x"}]
    return "tool-unused", "tools[0]"


def far_from_a_human(document: Document, rng: random.Random) -> tuple[str, str]:
    """Five states in a row before the one that transfers; the first is four moves away."""
    states = document["states"]
    for at in range(4):
        to = "human" if at == 3 else f"hop {at + 1}"
        states.append({"name": f"hop {at}", "transitions": [{"to": to, "when": ["on"]}]})
    states.append({"name": "human", "terminal": {"action": "transfer", "to": "+15550100"}})
    state(document, "state 0")[1]["transitions"].append({"to": "hop 0", "when": ["far away"]})
    return "far-from-human", f"states[{len(states) - 5}]"


def no_human(document: Document, rng: random.Random) -> tuple[str, str]:
    _, one = state(document, "state 0")
    document["states"] += [
        {"name": "alone", "transitions": [{"to": "end", "when": ["x"]}]},
        {"name": "human", "terminal": {"action": "transfer", "to": "+15550100"}},
    ]
    one["transitions"] += [{"to": "alone", "when": ["alone"]}, {"to": "human", "when": ["human"]}]
    return "no-human", f"states[{len(document['states']) - 2}]"


def undefined_otherwise(document: Document, rng: random.Random) -> tuple[str, str]:
    at, one = state(document, "end")
    one["terminal"] = {"action": "transfer", "to": "+15550100", "otherwise": "nowhere"}
    return "undefined-target", f"states[{at}].terminal.otherwise"


DEFECTS: list[Callable[[Document, random.Random], tuple[str, str]]] = [
    undefined_target, unreachable, no_way_out, no_end, unknown_name, broken_template, broken_expression, key_prefix,
    unused_slot, silent_slot, unknown_slot, shadowed, model_needed, silent_edge, silent_loop, tool_without_handler,
    tool_without_model, idle_tool, far_from_a_human, no_human, undefined_otherwise,
]  # fmt: skip


def test_two_hundred_sound_machines_have_no_problem() -> None:
    for seed in range(200):
        document = sound(random.Random(seed))
        assert found(document) == [], document


@pytest.mark.parametrize("plant", DEFECTS, ids=lambda plant: plant.__name__)
def test_a_planted_defect_is_found_in_every_one_of_two_hundred_machines(
    plant: Callable[[Document, random.Random], tuple[str, str]],
) -> None:
    for seed in range(200):
        rng = random.Random(seed)
        document = copy.deepcopy(sound(rng))
        rule, path = plant(document, rng)
        assert (rule, path) in [(rule, path) for _, rule, path in found(document)], document


def test_errors_come_before_warnings_and_have_hints() -> None:
    rng = random.Random(1)
    document = sound(rng)
    unreachable(document, rng)
    no_way_out(document, rng)
    document["states"].append({"name": "human", "terminal": {"action": "transfer", "to": "+15550100"}})
    problems = check(load(document)[0])
    assert [one.severity for one in problems[:3]] == ["error", "warning", "warning"]
    assert {one.severity for one in problems[3:]} == {"note"}
    assert all(one.hint for one in problems)
    assert str(problems[0]).startswith("error: states[")


def test_a_misspelled_target_is_told_its_right_name() -> None:
    document = sound(random.Random(1))
    state(document, "state 0")[1]["transitions"].append({"to": "emd", "when": ["x"]})
    (problem,) = check(load(document)[0])
    assert problem.hint == "did you mean 'end'?"


def test_what_a_call_brings_needs_no_other_value() -> None:
    document = sound(random.Random(1))
    state(document, "end")[1]["say"] = "Goodbye {{ caller_name }} at {{ caller_id }}, order {{ x_order }}."
    state(document, "state 0")[1]["transitions"].insert(0, {"to": "end", "when": "called_id == '700' and x_vip == 1"})
    assert "unknown-name" not in {rule for _, rule, _ in found(document)}


def test_the_example_is_sound() -> None:
    assert found(yaml.safe_load(PHARMACY.read_text())) == []


def test_a_timeout_that_silence_comes_before_is_no_ring() -> None:
    def document(after: float) -> Document:
        return {
            "initial_state": "a",
            "no_input": "Still there?",
            "states": [
                {"name": "a", "say": "A.", "on_timeout": {"after": after, "to": "b"}, "transitions": END},
                {"name": "b", "say": "B.", "on_timeout": {"after": after, "to": "a"}, "transitions": END},
                {"name": "c", "say": "C.", "on_timeout": {"after": 1, "to": "c"}, "transitions": END},
                {"name": "end", "terminal": True},
            ],
            "global_transitions": [{"to": "c", "when": ["see"]}],
        }

    assert [rule for _, rule, _ in found(document(600)) if rule == "silent-loop"] == []
    assert [rule for _, rule, _ in found(document(5)) if rule == "silent-loop"] == ["silent-loop"] * 2


def test_a_broken_template_in_a_variable_is_found() -> None:
    document = {
        "initial_state": "a",
        "states": [
            {"name": "a", "say": "A.", "transitions": [{"to": "b", "when": ["x"], "set": {"v": "{{ bad"}}]},
            {"name": "b", "terminal": True},
        ],
    }
    assert ("states[0].transitions[0].set.v", "template") in [(path, rule) for _, rule, path in found(document)]


END = [{"to": "end", "when": ["bye"]}]
