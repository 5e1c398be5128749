"""Times of day as callers say them and recognisers write them."""

import re
from dataclasses import dataclass

_ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen \
seventeen eighteen nineteen".split()
_TENS = {"twenty": 20, "thirty": 30, "forty": 40, "fourty": 40, "fifty": 50}
_NUMBERS = {word: value for value, word in enumerate(_ONES)} | _TENS | {"oh": 0, "o": 0, "quarter": 15, "half": 30}
_OFFICE_FROM = 8  # nobody means five in the morning


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
    tokens = _tokens(text)
    half = next((token for token in tokens if token in ("am", "pm")), None)
    if "noon" in tokens or "midday" in tokens:
        return TimeOfDay(12)
    found = _relative(tokens) or _plain(tokens)
    if found is None:
        return None
    hour, minute = found
    if not (0 <= hour < 24 and 0 <= minute < 60):
        return None
    if half is not None:
        hour = hour % 12 + (12 if half == "pm" else 0) if hour <= 12 else hour
    elif 1 <= hour < _OFFICE_FROM:
        hour += 12
    return TimeOfDay(hour, minute)


def _tokens(text: str) -> list[str]:
    lower = text.lower().replace("’", "'")
    lower = re.sub(r"\b([ap])\.? ?m\b\.?|(?<=[0-9])([ap])m\b", lambda match: f" {match[1] or match[2]}m ", lower)
    lower = re.sub(r"\bin the morning\b", " am ", lower)
    lower = re.sub(r"\b(?:in the (?:afternoon|evening)|at night)\b", " pm ", lower)
    lower = re.sub(r"\b(?:half|have|house|hall) pass?t?\b", " half past ", lower)  # as recognisers hear it
    lower = re.sub(r"\b([0-9]{1,2})([0-5][0-9])\b", r"\1 \2", lower)  # "1030"
    lower = re.sub(r"\b[0-9]+(?:st|nd|rd|th)\b", " ", lower)  # a date
    return re.findall(r"[a-z]+|[0-9]+", re.sub(r"o'? ?clock", " ", lower))


def _number(tokens: list[str], at: int) -> tuple[int, int] | None:
    """Return the number that begins at a token, and how many tokens it takes."""
    if not 0 <= at < len(tokens):
        return None
    token = tokens[at]
    if token.isdecimal():
        return (int(token), 1) if len(token) <= 2 else None
    if token not in _NUMBERS:
        return None
    value = _NUMBERS[token]
    if token in _TENS and at + 1 < len(tokens) and 0 < _NUMBERS.get(tokens[at + 1], 0) < 10:
        return value + _NUMBERS[tokens[at + 1]], 2
    return value, 1


def _relative(tokens: list[str]) -> tuple[int, int] | None:
    """ "Five past ten", "quarter to four"."""
    for at, token in enumerate(tokens):
        if token not in ("past", "after", "to", "till", "of"):
            continue
        hour = _number(tokens, at + 1)
        minute = next(
            (one for start in (at - 2, at - 1) if (one := _number(tokens, start)) and start + one[1] == at), None
        )
        if hour is None or minute is None or not 1 <= hour[0] <= 23 or minute[0] >= 60:
            continue
        if token in ("past", "after"):
            return hour[0], minute[0]
        return (hour[0] - 1 or 12), 60 - minute[0]
    return None


def _plain(tokens: list[str]) -> tuple[int, int] | None:
    """ "Ten", "10 30", "three oh five"."""
    for at, token in enumerate(tokens):
        if token in ("half", "quarter", "oh", "o"):
            continue
        hour = _number(tokens, at)
        if hour is None or hour[0] > 23:
            continue
        following = at + hour[1]
        zero = following < len(tokens) and tokens[following] in ("oh", "o", "zero")
        minute = _number(tokens, following + zero)
        spelled = minute is not None and (zero or minute[0] >= 10 or len(tokens[following]) == 2)
        return hour[0], minute[0] if minute is not None and spelled else 0
    return None
