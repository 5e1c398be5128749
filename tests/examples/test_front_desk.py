"""The demo agent in text: each way through it."""

import pytest

from fastagent.afsm import Machine, Step
from fastagent.examples.front_desk import front_desk


class Desk:
    """A conversation with the front desk."""

    def __init__(self) -> None:
        self.machine = Machine(front_desk().afsm)
        self.said = ""

    async def hear(self, *texts: str) -> Step:
        """Say these, one after the other; return the last answer."""
        for text in texts:
            step = await self.machine.step(text)
            assert step.refused is None
            self.said = step.response
        return step

    async def press(self, digits: str) -> Step:
        step = await self.machine.dtmf(digits)
        self.said = step.response
        return step

    @property
    def state(self) -> str:
        return self.machine.state.name


async def test_a_visit_is_booked() -> None:
    desk = Desk()
    step = await desk.hear(
        "Hello, my name is Anna Miller.", "I'd like to book a visit.", "On Tuesday, please.", "At half past ten."
    )
    assert step.response == "So that is Tuesday at 10 30 a.m. for Anna. Is that right?"
    step = await desk.hear("Yes, that's right.")
    assert step.ends
    assert step.response == "You are booked. Thank you for calling. Goodbye!"
    assert desk.machine.context.profile == {"name": "Anna Miller"}
    assert desk.machine.context.facts == {"day": "Tuesday", "time": "10 30 a.m."}


async def test_hours_are_told_and_a_second_wish_is_taken() -> None:
    desk = Desk()
    await desk.hear("David.", "What are your opening hours?")
    assert desk.said.startswith("We are open Monday to Friday")
    await desk.hear("Yes, I want to make an appointment.")
    assert desk.state == "visit_day"


async def test_no_ends_the_call_after_the_hours() -> None:
    desk = Desk()
    step = await desk.hear("David.", "When do you open?", "No, thank you.")
    assert step.ends


async def test_a_person_calls_back() -> None:
    desk = Desk()
    await desk.hear("Call me Jo.", "Can I talk to a human?", "It's 555 1234.")
    assert desk.said == "I have 5 5 5 1 2 3 4. Is that right?"
    step = await desk.hear("Correct.")
    assert step.ends


async def test_a_wrong_number_is_asked_for_again() -> None:
    desk = Desk()
    await desk.hear("Jo.", "a person", "five five five one two three four", "No, that's wrong.")
    assert desk.state == "number"
    await desk.hear("12")
    assert "at least seven digits" in desk.said


async def test_everything_goes_by_keys_too() -> None:
    desk = Desk()
    await desk.press("5")
    await desk.press("2")
    await desk.press("3")
    await desk.press("14")
    assert desk.said == "So that is Wednesday at 2 p.m. Is that right?"
    step = await desk.press("1")
    assert step.ends


async def test_a_number_by_keys() -> None:
    desk = Desk()
    await desk.press("1")
    await desk.press("3")
    await desk.press("5551234")
    step = await desk.press("1")
    assert step.ends


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("On Sunday.", "We are closed on Sunday."),
        ("I don't know.", "Please name a day, or press one for Monday to five for Friday."),
    ],
)
async def test_days_that_do_not_fit_are_asked_for_again(said: str, answer: str) -> None:
    desk = Desk()
    await desk.hear("Anna.", "Book a visit.", said)
    assert desk.state == "visit_day"
    assert desk.said.startswith(answer)


async def test_a_time_outside_the_opening_hours_is_refused() -> None:
    desk = Desk()
    await desk.hear("Anna.", "Book a visit.", "Friday", "at 8 p.m.")
    assert desk.state == "visit_time"


async def test_a_name_is_asked_for_twice_and_then_let_be() -> None:
    desk = Desk()
    await desk.hear("What do you want?", "Why do you ask?")
    assert desk.state == "reason"
    assert desk.machine.context.profile == {}


async def test_two_callers_never_share_what_a_state_noted() -> None:
    agent = front_desk()
    one, two = Machine(agent.afsm), Machine(agent.afsm)
    await one.step("What?")
    await two.step("What?")
    assert one.state.name == two.state.name == "name"


async def test_silence_is_asked_twice_and_then_gives_the_line_back() -> None:
    desk = Desk()
    first = await desk.machine.no_input()
    second = await desk.machine.no_input()
    assert first is not None
    assert second is not None
    assert first.response.startswith("I didn't hear anything.")
    assert await desk.machine.no_input() is None


def test_every_target_exists() -> None:
    assert front_desk().afsm.warnings == []
