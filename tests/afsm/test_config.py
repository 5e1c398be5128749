"""Declarative configurations: what is valid, and what is said of what is not."""

from typing import Any

import pytest

from fastagent.afsm.config import AgentConfig, load
from fastagent.afsm.errors import ConfigError

DOCUMENTED: dict[str, Any] = {
    "states": [
        {
            "name": "greeting",
            "description": "Initial greeting state",
            "allowed_transitions": ["collect_info", "handle_query"],
            "prompt_template": "You are a helpful voice assistant greeting a customer.",
        },
        {
            "name": "collect_info",
            "description": "Collecting user information",
            "allowed_transitions": ["process_info", "greeting"],
            "prompt_template": "Collect the user's name and reason for calling.",
        },
    ],
    "initial_state": "greeting",
    "scratchpad_enabled": True,
    "llm_config": {"model": "gpt-4", "temperature": 0.7, "max_tokens": 150},
}


def test_the_documented_example_is_valid_as_it_stands() -> None:
    config, warnings = load(DOCUMENTED)
    assert [state.name for state in config.states] == ["greeting", "collect_info"]
    assert config.llm_config["model"] == "gpt-4"
    assert warnings == []


def problems(document: object) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load(document)
    return [f"{one.path}: {one.message}" for one in error.value.problems]


def test_all_faults_are_told_at_once_each_at_its_path() -> None:
    document = {
        "states": [
            {"name": "a", "slots": [{"name": "x", "type": "choice"}]},
            {"name": "", "transitions": [{"to": 5}, {"to": "a", "when": {}}]},
        ],
        "initial_state": "a",
        "no_input_timeout": "soon",
    }
    found = problems(document)
    paths = [one.partition(":")[0] for one in found]
    assert paths == [
        "states[0].slots[0]",
        "states[1].name",
        "states[1].transitions[0].to",
        "states[1].transitions[1].when",
        "no_input_timeout",
    ]
    assert "a choice needs `choices`" in found[0]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"states": [{"name": "a"}], "initial_state": "b"}, "initial_state 'b' is not among the states"),
        ({"states": [{"name": "a"}, {"name": "a"}], "initial_state": "a"}, "two states are named 'a'"),
        ({"states": [], "initial_state": "a"}, "at least 1"),
        ({"states": [{"name": str(at)} for at in range(201)], "initial_state": "1"}, "at most 200"),
        ([], "valid dictionary"),
        (None, "valid dictionary"),
        ({"states": [{"name": "a", "on_enter": "x" * 70000}], "initial_state": "a"}, "at most 65536"),
    ],
)
def test_what_is_no_agent(document: object, message: str) -> None:
    assert any(message in one for one in problems(document))


def test_unknown_keys_are_warnings_with_their_path() -> None:
    document = {"states": [{"name": "a", "colour": "red", "slots": [{"name": "x", "mood": 1}]}], "initial_state": "a"}
    _, warnings = load(document)
    assert [(one.severity, one.path) for one in warnings] == [
        ("warning", "states[0].colour"),
        ("warning", "states[0].slots[0].mood"),
    ]


def test_short_forms_mean_the_long_ones() -> None:
    ways = [{"to": "a", "when": ["hello"]}, {"to": "a", "when": "x > 1"}]
    config, _ = load({"states": [{"name": "a", "transitions": ways, "no_input": "What?"}], "initial_state": "a"})
    first, second = config.states[0].transitions
    assert first.when is not None
    assert first.when.intent == ["hello"]
    assert second.when is not None
    assert second.when.expression == "x > 1"
    assert config.states[0].no_input is not None
    assert config.states[0].no_input.prompts == ["What?"]


def test_there_is_a_published_schema() -> None:
    schema = AgentConfig.model_json_schema()
    assert {"states", "initial_state", "global_transitions", "llm_config"} <= set(schema["properties"])
