"""Agents in files, and the commands that look at them."""

import asyncio
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from fastagent.gateway import agent_files
from fastagent.gateway.agent_files import AgentFiles, examine
from tests.support.fake_openai import Reply, fake_openai

ROOT = Path(__file__).parents[2]
PHARMACY = ROOT / "examples/pharmacy/pharmacy.yaml"

SMALL = "initial_state: a\nstates:\n  - {name: a, say: Hello., terminal: yes, transitions: []}\n"


@pytest.fixture(autouse=True)
def _always_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_files, "_LOOK_EVERY_S", 0.0)


def write(path: Path, text: str, at: int) -> None:
    """Write a file with a modification time of its own."""
    path.write_text(text)
    os.utime(path, (at, at))


def test_files_are_loaded_and_loaded_again_when_they_change(tmp_path: Path) -> None:
    write(tmp_path / "one.yaml", SMALL.replace("yes", "true"), 1)
    write(tmp_path / "two.json", json.dumps({"initial_state": "a", "states": [{"name": "a", "terminal": True}]}), 1)
    (tmp_path / "notes.txt").write_text("not an agent")
    files = AgentFiles(tmp_path)
    assert [agent.agent_id for agent, _ in files.changed()] == ["one", "two"]
    assert list(files.changed()) == []
    write(tmp_path / "one.yaml", SMALL.replace("yes", "true").replace("Hello", "Hi"), 2)
    ((again, document),) = files.changed()
    assert again.agent_id == "one"
    assert document["states"][0]["say"] == "Hi."


def test_a_broken_file_is_told_and_leaves_its_agent_as_it_was(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "one.yaml", "initial_state: b\nstates: [{name: a}]\n", 1)
    with caplog.at_level(logging.ERROR):
        assert list(AgentFiles(tmp_path).changed()) == []
    (record,) = caplog.records
    assert record.__dict__["file"] == "one.yaml"
    assert "not among the states" in record.__dict__["problems"][0]["problem"]


def test_no_directory_is_no_agents(tmp_path: Path) -> None:
    assert list(AgentFiles(tmp_path / "none").changed()) == []


def test_yes_and_no_are_words_in_yaml(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(
        "initial_state: a\nno_input: Well\nstates:\n  - {name: a, transitions: [{to: b, when: [yes, on, sure]}]}\n"
        "  - {name: b, terminal: true}\n"
    )
    config, problems = examine(path)
    assert problems == []
    assert config is not None
    when = config.states[0].transitions[0].when
    assert when is not None
    assert when.intent == ["yes", "on", "sure"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "a: [", "expected"),
        ("a.json", "{", "Expecting"),
        ("a.yaml", "!!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a.yaml", "&a [*a]", "dictionary"),
        ("a.yaml", "x" * 1_100_000, "1048576 bytes at most"),
        ("a.yaml", SMALL.replace("yes", "true") + "turn_config: {vad_threshold: 3}", "no probability"),
    ],
)
def test_what_is_no_agent_is_a_problem_and_no_exception(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    _, problems = examine(path)
    assert problems[0].severity == "error"
    assert message in problems[0].message


def fastagent(*arguments: str, given: str = "") -> tuple[int, str, str]:
    """Run a command."""
    done = subprocess.run(
        [sys.executable, "-m", "fastagent", *arguments],
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "200"},
    )
    return done.returncode, done.stdout, done.stderr


def test_check_says_that_the_example_is_sound() -> None:
    assert fastagent("check", str(PHARMACY)) == (0, "1 checked, no problems\n", "")


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    path = tmp_path / "faulty.yaml"
    path.write_text(PHARMACY.read_text().replace("to: done", "to: dome").replace("goodbye: Thank", "goodbye: '{{' #"))
    return path


def test_check_tells_every_problem_with_its_place_and_fails(faulty: Path) -> None:
    code, out, _ = fastagent("check", str(faulty))
    assert code == 1
    lines = out.splitlines()
    assert f"{faulty}: warning: states[2].transitions[0].to: 'dome' is not a state (did you mean 'done'?)" in lines
    assert any("error: goodbye: " in line for line in lines)
    assert lines[-1].startswith("1 checked, ")


def test_check_speaks_json_and_sarif(faulty: Path) -> None:
    _, out, _ = fastagent("check", "--format", "json", str(faulty))
    entries: list[dict[str, Any]] = json.loads(out)
    assert {"file", "severity", "path", "rule", "message", "hint"} == set(entries[0])
    _, out, _ = fastagent("check", "--format", "sarif", str(faulty))
    document = json.loads(out)
    assert document["version"] == "2.1.0"
    results = document["runs"][0]["results"]
    assert len(results) == len(entries)
    assert results[0]["locations"][0]["logicalLocations"][0]["fullyQualifiedName"] == entries[0]["path"]


def test_warnings_fail_where_strictness_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(SMALL.replace("yes", "true").replace("Hello.", "'{{ who }}'"))
    assert fastagent("check", str(path))[0] == 0
    assert fastagent("check", "--strict", str(path))[0] == 1


def test_chat_walks_through_an_agent_and_says_why() -> None:
    said = "a refill\n/123456\nyes\ntomorrow\nyes\nno\n"
    code, out, _ = fastagent("chat", str(PHARMACY), given=said)
    assert code == 0
    assert "menu -> refill" in out
    assert "number=123456" in out
    assert out.rstrip().endswith("more=False")


def test_chat_talks_to_a_built_in_agent_and_hears_silence() -> None:
    code, out, _ = fastagent("chat", "front_desk", given="\n\n\n")
    assert code == 0
    assert "Please say your name, or press any key." in out
    assert "(the agent gives the line back)" in out


def test_a_diagram_marks_what_is_wrong(faulty: Path) -> None:
    code, out, _ = fastagent("diagram", str(faulty))
    assert code == 0
    assert out.startswith("stateDiagram-v2\n    [*] --> s0\n")
    assert "    s0 --> s2 : wants a refill" in out
    assert "    s4 --> [*]" in out
    assert "    class s2,s3 problem" in out


SCRIPT = ROOT / "examples/pharmacy/pharmacy.test.yaml"


def test_the_scripted_conversations_of_the_example_pass() -> None:
    code, out, _ = fastagent("test", str(SCRIPT))
    assert code == 0, out
    assert out.splitlines()[-1] == "5 passed, 0 failed"


def test_what_does_not_come_as_expected_is_told_with_its_step(tmp_path: Path) -> None:
    (tmp_path / "pharmacy.yaml").write_text(PHARMACY.read_text())
    (tmp_path / "wrong.yaml").write_text(
        "agent: pharmacy.yaml\nconversations:\n  - name: wrong\n    steps:\n"
        "      - {say: a refill, state: hours, reply: nonsense, slots: {number: 5}, ends: true}\n"
        "      - {say: bye}\n"
    )
    code, out, _ = fastagent("test", "--json", str(tmp_path / "wrong.yaml"))
    assert code == 1
    ((first, second, third, fourth),) = [result["failures"] for result in json.loads(out)]
    assert first.startswith("step 1: the state is 'refill', not 'hours'")
    assert second.startswith("step 1: the reply has no 'nonsense'")
    assert third == "step 1: the slot 'number' is None, not 5"
    assert fourth == "step 1: the call goes on"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("agent: none.yaml\nconversations: [{name: a, steps: [{say: x}]}]", "No such file"),
        ("agent: a.yaml\nconversations: [{name: a, steps: [{say: x, keys: '1'}]}]", "one of `say`, `keys`"),
        ("agent: a.yaml\nconversations: [{name: a, steps: [{sya: x}]}]", "sya"),
    ],
)
def test_a_script_that_is_wrong_says_why(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "script.yaml"
    path.write_text(text)
    code, out, _ = fastagent("test", str(path))
    assert code == 1
    assert message in out


def test_the_schema_is_the_one_of_the_documents() -> None:
    code, out, _ = fastagent("schema")
    assert code == 0
    schema = json.loads(out)
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    assert list(validator.iter_errors(yaml.safe_load(PHARMACY.read_text()))) == []
    assert list(validator.iter_errors({"initial_state": "a", "states": [{"name": 5}]}))


def test_a_picture_can_be_svg() -> None:
    code, out, _ = fastagent("diagram", "--format", "svg", str(PHARMACY))
    assert code == 0
    assert out.startswith("<svg ")


@pytest.mark.real
async def test_chat_asks_the_model_and_shows_its_notes(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    reply = Reply(["Of ", "course."], [("update_conversation", ['{"next_state": "b", "notes": "likes tea"}'])])
    async with fake_openai(reply, Reply(status=401)) as server:
        path.write_text(
            f"initial_state: a\nllm_config: {{base_url: {server.base_url}}}\nno_input: Well\nstates:\n"
            "  - {name: a, prompt_template: Be kind., allowed_transitions: [b]}\n"
            "  - {name: b, say: Tea it is., prompt_template: Sell tea., allowed_transitions: [a, c]}\n"
            "  - {name: c, terminal: true}\n"
        )
        code, out, _ = await asyncio.to_thread(fastagent, "chat", str(path), given="tea please\nand cake\n")
    assert code == 0
    assert "Of course." in out
    assert "Tea it is." in out
    assert "a -> b (model)" in out
    assert "the model failed: auth" in out
