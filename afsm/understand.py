"""Understanding without a model: intents by phrases, yes and no, names, days, times and digits."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher

_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
_FUZZY = 0.84

_YES = frozenset("yes yeah yep yup sure correct right okay ok absolutely definitely indeed affirmative fine".split())
_NO = frozenset("no nope nah wrong incorrect not don't nothing never negative".split())

_DIGITS = {
    "zero": "0", "oh": "0", "o": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
    "seven": "7", "eight": "8", "nine": "9",
}  # fmt: skip
_TIMES = {"double": 2, "triple": 3}
_HOURS = {
    **{word: int(digit) for word, digit in _DIGITS.items() if len(word) > 2},
    "ten": 10,
    "eleven": 11,
    "twelve": 12,
}

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

_NAME_LEADS = re.compile(
    r"^(?:(?:well|hi|hello|hey|yes|um|uh|so|sure|okay|good (?:morning|afternoon|evening))[,.!]?\s+)*"
    r"(?:(?:my|the) name(?:'s| is)|it(?:'s| is)|this is|i(?:'m| am)|you can call me|call me)?\s*",
    re.IGNORECASE,
)
_NOT_NAMES = frozenset(
    "a an the i you we what when where why who how is are do does can could would want need like please book call "
    "speak hours open help sorry hello hi thanks thank calling here there yes no not sure about".split()
)


def words(text: str) -> list[str]:
    """Return the words of a text, lower case."""
    return _WORD.findall(text.lower().replace("’", "'"))


def yes_no(text: str) -> bool | None:
    """Return what an answer to a yes-or-no question says; None when it says neither, or both."""
    said = words(text)
    no = any(word in _NO for word in said)
    yes = any(word in _YES for word in said) or "that's it" in text.lower()
    if no and yes:
        # "No, that's right" and "that's not right": the first word decides, if it is one of them.
        return {True: True, False: False}.get(said[0] in _YES) if said[0] in _YES | _NO else False
    return True if yes else False if no else None


def intent(text: str, phrases: Mapping[str, Iterable[str]]) -> str | None:
    """Return the name of the intent whose phrase fits a text best; None when none fits.

    A phrase fits when its words are in the text one after the other; words may differ a little, as recognisers spell.
    """
    said = words(text)
    best: tuple[float, str | None] = (0.0, None)
    for name, options in phrases.items():
        for phrase in options:
            best = max(best, (_fit(words(phrase), said), name), key=lambda one: one[0])
    return best[1]


def _fit(phrase: list[str], said: list[str]) -> float:
    """Return how well a phrase is contained: its length times its closeness, or 0."""
    best = 0.0
    for start in range(len(said) - len(phrase) + 1):
        closeness = [_alike(a, b) for a, b in zip(phrase, said[start:], strict=False)]
        if min(closeness, default=0.0) >= _FUZZY:
            best = max(best, sum(closeness))
    return best


def _alike(a: str, b: str) -> float:
    if a == b:
        return 1.0
    return SequenceMatcher(None, a, b).ratio() if min(len(a), len(b)) > 3 else 0.0


def name(text: str) -> str | None:
    """Return the name in "My name is Anna Miller." or "Anna."; None when there seems to be none."""
    rest = _NAME_LEADS.sub("", text.strip().replace("’", "'"), count=1)
    candidate = re.split(r"[,.!?;]|\b(?:and|here|speaking|calling|from)\b", rest, maxsplit=1)[0].strip()
    parts = candidate.split()
    if not 0 < len(parts) <= 3 or any(part.lower() in _NOT_NAMES or not part[0].isalpha() for part in parts):
        return None
    return " ".join(part[0].upper() + part[1:] for part in parts)


def day(text: str) -> str | None:
    """Return the weekday that is named, as in `DAYS`."""
    for word in words(text):
        for one in DAYS:
            if word.removesuffix("s") == one.lower() or _alike(word, one.lower()) > 0.9:
                return one
    return None


@dataclass(frozen=True, slots=True)
class TimeOfDay:
    """A time on the 24-hour clock."""

    hour: int
    minute: int = 0

    def __str__(self) -> str:
        half = "a.m." if self.hour < 12 else "p.m."
        hour = (self.hour - 1) % 12 + 1
        return f"{hour} {half}" if not self.minute else f"{hour} {self.minute:02d} {half}"


def time_of_day(text: str) -> TimeOfDay | None:
    """Return the time in "half past ten", "at 3 p.m.", "10:30" or "two thirty"; office hours settle a.m. or p.m."""
    lower = text.lower().replace(".", "") if re.search(r"\b[ap]\.\s?m\b", text.lower()) else text.lower()
    lower = re.sub(r"\b(?:half|have|house|hall) pass?t?\b", "half past", lower)  # as recognisers hear it
    lower = re.sub(r"\b(1?\d)([0-5]\d)\b", r"\1:\2", lower)  # "ten thirty", written as a number
    if re.search(r"\b(noon|midday)\b", lower):
        return TimeOfDay(12)
    match = re.search(
        r"(?:(half past|quarter past|quarter to)\s+)?\b(\d{1,2}|" + "|".join(_HOURS) + r")\b"
        r"(?:[:. ]\s?(\d\d|fifteen|thirty|forty[ -]five)\b)?\s*(?:o'?\s?clock)?\s*"
        r"(am|pm|in the (?:morning|afternoon))?",
        lower,
    )
    if match is None:
        return None
    lead, hour_word, minute_word, half = match.groups()
    hour = int(hour_word) if hour_word.isdecimal() else _HOURS[hour_word]
    spelled = {"fifteen": 15, "thirty": 30}
    minute = 0 if minute_word is None else int(minute_word) if minute_word.isdecimal() else spelled.get(minute_word, 45)
    if lead == "quarter to":
        hour, minute = hour - 1, 45
    elif lead:
        minute = 30 if lead == "half past" else 15
    if half is not None:
        hour = hour % 12 + (12 if half in ("pm", "in the afternoon") else 0)
    elif 1 <= hour < 8:  # nobody means five in the morning
        hour += 12
    return TimeOfDay(hour, minute) if 0 <= hour < 24 and minute < 60 else None


def digits(text: str) -> str:
    """Return all digits in a text, spoken ("five double two"), written, or both."""
    found: list[str] = []
    times = 1
    for word in re.findall(r"[a-z]+|\d+", text.lower()):
        if word in _TIMES:
            times = _TIMES[word]
            continue
        found.append((_DIGITS.get(word, "") if word.isalpha() else word) * times)
        times = 1
    return "".join(found)
