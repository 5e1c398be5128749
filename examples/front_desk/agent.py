"""The states of the front desk.

    name -> reason -+-> another -----------------------------+-> goodbye
                    +-> visit_day -> visit_time -> visit_ok -+
                    +-> number -> number_ok -----------------+

Every question has a keypad alternative, and silence is answered twice before the line is given back.
"""

from typing import Any

from fastagent import AFSMState, ConversationContext, FastAgent, StateResult
from fastagent.afsm import understand

HOURS = "We are open Monday to Friday, from nine to five."
REASONS = "You can ask for our opening hours, book a visit, or speak to a person."
GREETING = "Hello, this is the front desk. May I have your name?"
GOODBYE = "Thank you for calling. Goodbye!"

INTENTS = {
    "hours": ["opening hours", "hours", "open", "when do you open", "close", "opening times"],
    "visit": ["book", "booking", "visit", "appointment", "come by", "come in", "schedule", "reservation"],
    "person": ["person", "human", "somebody", "someone", "operator", "agent", "representative", "speak to", "talk to"],
}
KEYS = {"1": "hours", "2": "visit", "3": "person"}


class Question(AFSMState):
    """A state that asks, and asks again."""

    prompt = ""
    again = "Sorry, I didn't get that."

    async def on_enter(self, context: ConversationContext) -> str:
        """Ask."""
        return self.prompt

    async def on_no_input(self, count: int, context: ConversationContext) -> Any:
        """Ask again, twice."""
        return StateResult(f"I didn't hear anything. {self.prompt}") if count <= 2 else None

    def repeat(self) -> StateResult:
        """Ask again, since the answer was none."""
        return StateResult(f"{self.again} {self.prompt}", confidence=0.0)


class YesNo(Question):
    """A question that is answered by yes or no, or by 1 and 2."""

    again = "Please say yes or no, or press one for yes and two for no."

    async def process(self, input_text: str, context: ConversationContext) -> Any:
        """Go by what was said."""
        answer = understand.yes_no(input_text)
        return self.repeat() if answer is None else self.answered(answer, context)

    async def on_dtmf(self, digits: str, context: ConversationContext) -> Any:
        """1 is yes, 2 is no."""
        return self.answered(digits == "1", context) if digits in ("1", "2") else self.repeat()

    def answered(self, yes: bool, context: ConversationContext) -> StateResult:
        """Return what follows."""
        raise NotImplementedError


class Name(Question):
    """Who is calling."""

    prompt = GREETING
    misses = 0

    async def process(self, input_text: str, context: ConversationContext) -> Any:
        """Take a name, or go on without one after the second try."""
        name = understand.name(input_text)
        if name is None:
            self.misses += 1
            if self.misses < 2:
                return StateResult("Sorry, I didn't catch your name. Please say just your name.")
            return StateResult("No problem.", "reason")
        context.update_user_profile({"name": name})
        return StateResult(f"Thanks, {name.split()[0]}.", "reason", 0.9)

    async def on_dtmf(self, digits: str, context: ConversationContext) -> Any:
        """A key skips the name."""
        return StateResult("Let's go on.", "reason")

    async def on_no_input(self, count: int, context: ConversationContext) -> Any:
        """Ask more shortly than at first."""
        return StateResult("I didn't hear anything. Please say your name, or press any key.") if count <= 2 else None


class Reason(Question):
    """What the caller wants."""

    prompt = f"{REASONS} What would you like?"
    again = "Sorry, I didn't get that. Press one for hours, two for a visit, three for a person."

    async def process(self, input_text: str, context: ConversationContext) -> Any:
        """Find the intent."""
        return self.go(understand.intent(input_text, INTENTS))

    async def on_dtmf(self, digits: str, context: ConversationContext) -> Any:
        """1, 2, 3."""
        return self.go(KEYS.get(digits))

    def go(self, wanted: str | None) -> StateResult:
        """Return the way to what is wanted."""
        if wanted == "hours":
            return StateResult(HOURS, "another", 0.9)
        if wanted == "visit":
            return StateResult("Of course.", "visit_day", 0.9)
        if wanted == "person":
            return StateResult("I'll have somebody call you back.", "number", 0.9)
        return StateResult(self.again, confidence=0.0)


class Another(Reason):
    """Whether there is anything else."""

    prompt = "Is there anything else?"

    async def process(self, input_text: str, context: ConversationContext) -> Any:
        """No, yes, or at once what else."""
        wanted = understand.intent(input_text, INTENTS)
        if wanted is not None:
            return self.go(wanted)
        answer = understand.yes_no(input_text)
        if answer is None and not {"bye", "goodbye", "thanks", "thank"} & {*understand.words(input_text)}:
            return self.repeat()
        return StateResult("Sure.", "reason") if answer else StateResult("", "goodbye")

    def go(self, wanted: str | None) -> StateResult:
        """Hours once more stay here."""
        return self.repeat_hours() if wanted == "hours" else super().go(wanted)

    def repeat_hours(self) -> StateResult:
        """Say the hours again."""
        return StateResult(f"{HOURS} {self.prompt}")


class VisitDay(Question):
    """Which day."""

    prompt = "Which day would you like to come?"

    async def process(self, input_text: str, context: ConversationContext) -> Any:
        """Take a weekday."""
        return self.take(understand.day(input_text), context)

    async def on_dtmf(self, digits: str, context: ConversationContext) -> Any:
        """1 is Monday, 5 is Friday."""
        return self.take(understand.DAYS[int(digits) - 1] if digits in "1234567" else None, context)

    def take(self, day: str | None, context: ConversationContext) -> StateResult:
        """Book an open day."""
        if day is None:
            return StateResult("Please name a day, or press one for Monday to five for Friday.", confidence=0.0)
        if day in understand.DAYS[5:]:
            return StateResult(f"We are closed on {day}. {self.prompt}")
        context.add_salient_fact("day", day)
        return StateResult(f"{day}.", "visit_time", 0.9)


class VisitTime(Question):
    """What time."""

    prompt = "At what time?"

    async def process(self, input_text: str, context: ConversationContext) -> Any:
        """Take a time within the opening hours."""
        time = understand.time_of_day(input_text)
        if time is None:
            return StateResult("Please say a time, like ten thirty, or key in the hour.", confidence=0.0)
        if not 9 <= time.hour < 17:
            return StateResult("We are open from nine to five. What time would suit you?")
        context.add_salient_fact("time", str(time))
        return StateResult("", "visit_ok", 0.9)


class VisitOk(YesNo):
    """Read the booking back."""

    async def on_enter(self, context: ConversationContext) -> str:
        """Say all of it."""
        name = context.profile.get("name")
        whose = f" for {name.split()[0]}" if name else ""
        visit = f"{context.facts['day']} at {context.facts['time']}{whose}".rstrip(".")
        self.prompt = f"So that is {visit}. Is that right?"
        return self.prompt

    def answered(self, yes: bool, context: ConversationContext) -> StateResult:
        """Book, or begin again."""
        return StateResult("You are booked.", "goodbye") if yes else StateResult("Let's try again.", "visit_day")


class Number(Question):
    """Where to call back."""

    prompt = "What is your number? You can also key it in, and press the hash key."
    again = "Sorry, I need at least seven digits."

    def utterance_complete(self, text: str) -> bool | None:
        """Wait for the rest of a number that is read out in groups."""
        count = len(understand.digits(text))
        return None if count == 0 else count >= 7

    async def process(self, input_text: str, context: ConversationContext) -> Any:
        """Take a number of at least seven digits."""
        digits = understand.digits(input_text)
        if len(digits) < 7:
            return self.repeat()
        context.add_salient_fact("number", digits)
        return StateResult("", "number_ok", 0.9)


class NumberOk(YesNo):
    """Read the number back."""

    async def on_enter(self, context: ConversationContext) -> str:
        """Digit by digit."""
        self.prompt = f"I have {' '.join(context.facts['number'])}. Is that right?"
        return self.prompt

    def answered(self, yes: bool, context: ConversationContext) -> StateResult:
        """Promise the call, or ask again."""
        if yes:
            return StateResult("Somebody will call you back soon.", "goodbye")
        return StateResult("Let's try again.", "number")


class Goodbye(AFSMState):
    """The end."""

    async def on_enter(self, context: ConversationContext) -> str:
        """Say goodbye."""
        return GOODBYE


def front_desk() -> FastAgent:
    """Return the demo agent."""
    return FastAgent(
        agent_id="front_desk",
        states=[
            Name("name", "Asks who is calling", ["reason"], dtmf_max_digits=1),
            Reason("reason", "Asks what the caller wants", ["another", "visit_day", "number"]),
            Another("another", "Asks for more", ["reason", "visit_day", "number", "goodbye"]),
            VisitDay("visit_day", "Asks for the day", ["visit_time"]),
            VisitTime("visit_time", "Asks for the time", ["visit_ok"], dtmf_max_digits=2),
            VisitOk("visit_ok", "Reads the booking back", ["goodbye", "visit_day"]),
            Number("number", "Asks for a number", ["number_ok"], dtmf_max_digits=15),
            NumberOk("number_ok", "Reads the number back", ["goodbye", "number"]),
            Goodbye("goodbye", "Ends the call", terminal=True),
        ],
        initial_state="name",
        goodbye=GOODBYE,
        phrases=[
            *GREETING.replace("? ", "?|").replace(". ", ".|").split("|"),
            HOURS, REASONS, GOODBYE, "What would you like?", Another.prompt, VisitDay.prompt, VisitTime.prompt,
            "What is your number?", "You can also key it in, and press the hash key.", "Is that right?",
            "You are booked.", "Somebody will call you back soon.", "I'll have somebody call you back.", "Of course.",
            "I didn't hear anything.", "Let's try again.",
        ],
    )  # fmt: skip
