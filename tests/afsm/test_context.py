"""What a conversation remembers."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastagent.afsm import ConversationContext, Exchange

# From the section "Context Management" of the API document, unchanged.
DOCUMENTED = """
from fastagent.context import ConversationContext

# Initialize a new context
context = ConversationContext(max_history=10)

# Update context with new information
context.update_context(
    user_utterance="I need to check my account balance",
    agent_response="I can help you check your account balance. Can you please verify your identity?",
    state="identity_verification"
)

# Add a salient fact
context.add_salient_fact("account_type", "checking")

# Update user profile
context.update_user_profile({
    "authentication_status": "pending",
    "last_interaction": "2023-06-20T15:45:30Z"
})
"""


def filled() -> ConversationContext:
    context = ConversationContext(max_history=3)
    context.update_context("Hello", "Hi there, who is it?", "greeting", heard="Hi there,", interrupted=True)
    context.update_context("Anna", "Thanks, Anna.", "name")
    context.add_salient_fact("day", "Monday")
    context.update_user_profile({"name": "Anna"})
    return context


def test_the_documented_example_runs_unchanged() -> None:
    names: dict[str, Any] = {}
    exec(DOCUMENTED, names)
    context = names["context"]
    assert [exchange.state for exchange in context.history] == ["identity_verification"]
    assert context.facts == {"account_type": "checking"}
    assert context.profile["authentication_status"] == "pending"


def test_an_answer_counts_as_heard_unless_it_is_said_otherwise() -> None:
    context = filled()
    assert context.history == [
        Exchange("Hello", "Hi there, who is it?", "greeting", "Hi there,", True),
        Exchange("Anna", "Thanks, Anna.", "name", "Thanks, Anna.", False),
    ]


def test_an_answer_of_which_nothing_was_heard_is_remembered_as_such() -> None:
    context = ConversationContext()
    context.update_context("Hello", "Hi.", "greeting", heard="", interrupted=True)
    assert context.history[0].heard == ""
    assert context.to_messages() == [{"role": "user", "content": "Hello"}]


def test_the_oldest_exchanges_are_forgotten() -> None:
    context = ConversationContext(max_history=2)
    for number in range(5):
        context.update_context(f"question {number}", "answer", "state")
    assert [exchange.user for exchange in context.history] == ["question 3", "question 4"]


@pytest.mark.parametrize("max_history", [0, -1])
def test_a_context_remembers_at_least_one_exchange(max_history: int) -> None:
    with pytest.raises(ValueError, match="max_history"):
        ConversationContext(max_history=max_history)


def test_a_fact_replaces_what_was_known_and_a_profile_is_merged() -> None:
    context = filled()
    context.add_salient_fact("day", "Friday")
    context.update_user_profile({"age": 40, "name": "Anne"})
    assert context.facts == {"day": "Friday"}
    assert context.profile == {"name": "Anne", "age": 40}


def test_what_is_handed_out_can_be_changed_without_harm() -> None:
    context = filled()
    context.facts["day"] = "Sunday"
    context.profile.clear()
    context.history.clear()
    assert (context.facts, context.profile, len(context.history)) == ({"day": "Monday"}, {"name": "Anna"}, 2)


def test_messages_say_what_was_heard_and_where_it_was_cut() -> None:
    assert filled().to_messages() == [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi there, [interrupted]"},
        {"role": "user", "content": "Anna"},
        {"role": "assistant", "content": "Thanks, Anna."},
    ]


def test_an_opening_without_an_utterance_is_no_message_of_the_user() -> None:
    context = ConversationContext()
    context.update_context("", "Welcome!", "greeting")
    assert context.to_messages() == [{"role": "assistant", "content": "Welcome!"}]


# -- snapshots -------------------------------------------------------------------------------------------------------


def test_a_snapshot_is_a_versioned_json_document() -> None:
    assert json.loads(json.dumps(filled().snapshot())) == {
        "version": 1,
        "max_history": 3,
        "history": [
            {
                "user": "Hello",
                "spoken": "Hi there, who is it?",
                "state": "greeting",
                "heard": "Hi there,",
                "interrupted": True,
            },
            {
                "user": "Anna",
                "spoken": "Thanks, Anna.",
                "state": "name",
                "heard": "Thanks, Anna.",
                "interrupted": False,
            },
        ],
        "facts": {"day": "Monday"},
        "metadata": {},
        "profile": {"name": "Anna"},
        "slots": {},
        "variables": {},
    }


texts = st.text(max_size=20)
values = st.one_of(st.none(), st.booleans(), st.integers(), texts, st.lists(texts, max_size=3))


@given(
    max_history=st.integers(1, 5),
    exchanges=st.lists(st.tuples(texts, texts, texts, st.none() | texts, st.booleans()), max_size=8),
    facts=st.dictionaries(texts, values, max_size=4),
    profile=st.dictionaries(texts, values, max_size=4),
)
@settings(max_examples=50)
def test_a_context_is_restored_as_it_was(
    max_history: int,
    exchanges: list[tuple[str, str, str, str | None, bool]],
    facts: dict[str, Any],
    profile: dict[str, Any],
) -> None:
    context = ConversationContext(max_history)
    for user, answer, state, heard, interrupted in exchanges:
        context.update_context(user, answer, state, heard=heard, interrupted=interrupted)
    for key, value in facts.items():
        context.add_salient_fact(key, value)
    context.update_user_profile(profile)
    restored = ConversationContext.restore(json.loads(json.dumps(context.snapshot())))
    assert restored.snapshot() == context.snapshot()
    assert restored.history == context.history
    assert restored.to_messages() == context.to_messages()
    assert restored.max_history == max_history


def test_a_restored_context_goes_on_by_itself() -> None:
    context = filled()
    restored = ConversationContext.restore(context.snapshot())
    for number in range(3):
        restored.update_context(f"question {number}", "answer", "state")
    restored.add_salient_fact("day", "Friday")
    assert len(restored.history) == 3
    assert len(context.history) == 2
    assert context.facts == {"day": "Monday"}


def test_a_snapshot_does_not_change_with_the_conversation() -> None:
    context = filled()
    guests = ["Anna"]
    context.add_salient_fact("guests", guests)
    snapshot = context.snapshot()
    guests.append("Bob")
    context.update_user_profile({"age": 40})
    assert snapshot["facts"]["guests"] == ["Anna"]
    assert snapshot["profile"] == {"name": "Anna"}


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_a_snapshot_of_another_version_is_refused(version: Any) -> None:
    with pytest.raises(ValueError, match="version"):
        ConversationContext.restore({**filled().snapshot(), "version": version})


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param({"max_history": 0}, id="no history"),
        pytest.param({"max_history": "many"}, id="a word for a number"),
        pytest.param({"history": [{"user": "Hello"}]}, id="half an exchange"),
        pytest.param({"history": [{"a": "b"}]}, id="an exchange of other fields"),
        pytest.param({"history": ["Hello"]}, id="no exchange"),
        pytest.param({"history": None}, id="no list"),
        pytest.param({"facts": ["a"]}, id="facts that are no object"),
        pytest.param({"profile": 5}, id="a profile that is no object"),
    ],
)
def test_a_damaged_snapshot_is_a_value_error(damage: dict[str, Any]) -> None:
    # The store is not trusted: "every value read back is checked", reliability.md, S19 and section 1.
    with pytest.raises(ValueError, match=r"snapshot|max_history"):
        ConversationContext.restore({**filled().snapshot(), **damage})


@pytest.mark.parametrize("missing", ["max_history", "history", "facts", "profile"])
def test_an_incomplete_snapshot_is_a_value_error(missing: str) -> None:
    snapshot = filled().snapshot()
    del snapshot[missing]
    with pytest.raises(ValueError, match="snapshot"):
        ConversationContext.restore(snapshot)
