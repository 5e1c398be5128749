"""Typed slots: what is asked for, how it is understood, and how it is read back.

A recogniser on a telephone line gets names and numbers wrong, so every kind knows how to say a value back for a
confirmation, and those that come in pieces (digits in groups) know whether an utterance can be all of it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from fastagent.afsm import understand

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_ORDINALS = {
    "first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9,
    "tenth": 10, "eleventh": 11, "twelfth": 12, "thirteenth": 13, "fourteenth": 14, "fifteenth": 15, "sixteenth": 16,
    "seventeenth": 17, "eighteenth": 18, "nineteenth": 19, "twentieth": 20, "thirtieth": 30,
}  # fmt: skip
_SMALL = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen".split()
    )
} | {"a": 1, "an": 1}
_TENS = dict(zip("twenty thirty forty fifty sixty seventy eighty ninety".split(), range(20, 100, 10), strict=True))
_SCALES = {"thousand": 1000, "million": 1_000_000}
_SPELLED = {
    "ay": "a", "bee": "b", "cee": "c", "see": "c", "sea": "c", "dee": "d", "ee": "e", "eff": "f", "gee": "g",
    "aitch": "h", "eye": "i", "jay": "j", "kay": "k", "el": "l", "em": "m", "en": "n", "oh": "o", "pee": "p",
    "cue": "q", "queue": "q", "ar": "r", "are": "r", "ess": "s", "tee": "t", "tea": "t", "you": "u", "vee": "v",
    "ex": "x", "why": "y", "zee": "z", "zed": "z",
}  # fmt: skip
_ALPHABET = (
    "alpha bravo charlie delta echo foxtrot golf hotel india juliet kilo lima mike november oscar papa quebec romeo "
    "sierra tango uniform victor whiskey xray yankee zulu"
).split()


@dataclass(frozen=True, slots=True)
class SlotRules:
    """What a slot asks for, beyond its type."""

    choices: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """For `choice`: each value, and the phrases that mean it."""
    min_digits: int = 1
    max_digits: int = 32
    minimum: float | None = None
    maximum: float | None = None


Parse = Callable[[str, SlotRules, date], Any]


def parse(kind: str, text: str, rules: SlotRules, today: date) -> Any:
    """Return the value in an utterance, as JSON has it; None where there is none."""
    return _PARSERS[kind](text, rules, today)


def spoken(kind: str, value: Any) -> str:
    """Return a value as it is read back."""
    if kind in ("digits", "phone"):
        return " ".join(str(value))
    if kind == "date":
        day = date.fromisoformat(value)
        return f"{understand.DAYS[day.weekday()]}, {MONTHS[day.month - 1]} {day.day}"
    if kind == "time":
        hour, minute = value.split(":")
        return str(understand.TimeOfDay(int(hour), int(minute)))
    if kind == "spelled_name":
        return f"{value}, spelled {' '.join(str(value).upper())}"
    if kind == "email":
        return str(value).replace("@", " at ").replace(".", " dot ")
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def complete(kind: str, text: str, rules: SlotRules) -> bool | None:
    """Whether an utterance can be all that this kind waits for; None leaves it to the general rule."""
    if kind in ("digits", "phone"):
        count = len(understand.digits(text))
        return None if count == 0 else count >= rules.min_digits
    return None


def _text(text: str, rules: SlotRules, today: date) -> str | None:
    return text.strip() or None


def _digits(text: str, rules: SlotRules, today: date) -> str | None:
    found = understand.digits(text)
    return found if rules.min_digits <= len(found) <= rules.max_digits else None


def _phone(text: str, rules: SlotRules, today: date) -> str | None:
    found = understand.digits(text)
    return found if max(7, rules.min_digits) <= len(found) <= min(15, rules.max_digits) else None


def _number(text: str, rules: SlotRules, today: date) -> int | float | None:
    value = number(text)
    if value is None or (rules.minimum is not None and value < rules.minimum):
        return None
    return None if rules.maximum is not None and value > rules.maximum else value


def number(text: str) -> int | float | None:
    """Return the number in "two hundred and five", "42" or "3.5"."""
    plain = text.lower().replace(",", "")
    written = re.search(r"-?[0-9]+(?:\.[0-9]+)?", plain)
    if written:
        return float(written[0]) if "." in written[0] else int(written[0])
    total = group = 0
    found = False
    for word in re.findall(r"[a-z]+", plain):
        if word in _SMALL and (word not in ("a", "an") or not found):
            group += _SMALL[word]
            found = found or word not in ("a", "an")
        elif word in _TENS:
            group, found = group + _TENS[word], True
        elif word == "hundred":
            group, found = max(1, group) * 100, True
        elif word in _SCALES:
            total, group, found = total + max(1, group) * _SCALES[word], 0, True
        elif found and word != "and":
            break
        elif not found:
            group = 0
    return total + group if found else None


def _date(text: str, rules: SlotRules, today: date) -> str | None:
    found = day_of(text, today)
    return found.isoformat() if found else None


def day_of(text: str, today: date) -> date | None:
    """Return the day in "tomorrow", "next Friday", "the third of April" or "May 5th"; the next one that fits."""
    said = understand.words(text)
    plain = " ".join(said)
    if "day after tomorrow" in plain:
        return today + timedelta(days=2)
    if "tomorrow" in said:
        return today + timedelta(days=1)
    if "today" in said or "tonight" in said:
        return today
    month = next((at for at, name in enumerate(MONTHS, 1) if name.lower() in said), None)
    number_of_day = _day_number(said)
    if month is not None and number_of_day is not None:
        return _next(today, lambda day: day.month == month and day.day == number_of_day, 366 * 4)
    weekday = understand.day(text)
    if weekday is not None:
        wanted = understand.DAYS.index(weekday)
        return _next(today + timedelta(days=1), lambda day: day.weekday() == wanted, 7)
    if number_of_day is not None and re.search(r"\b(?:the|on)\b", plain):
        return _next(today, lambda day: day.day == number_of_day, 62)
    return None


def _day_number(said: Sequence[str]) -> int | None:
    for at, word in enumerate(said):
        written = re.fullmatch(r"([0-9]{1,2})(?:st|nd|rd|th)?", word)
        if written and 1 <= int(written[1]) <= 31:
            return int(written[1])
        if word in _TENS and at + 1 < len(said) and said[at + 1] in _ORDINALS and _ORDINALS[said[at + 1]] < 10:
            return _TENS[word] + _ORDINALS[said[at + 1]]
        if word in _ORDINALS:
            return _ORDINALS[word]
    return None


def _next(start: date, fits: Callable[[date], bool], within: int) -> date | None:
    return next((day for day in (start + timedelta(days=ahead) for ahead in range(within)) if fits(day)), None)


def _time(text: str, rules: SlotRules, today: date) -> str | None:
    found = understand.time_of_day(text)
    return f"{found.hour:02d}:{found.minute:02d}" if found else None


def _yes_no(text: str, rules: SlotRules, today: date) -> bool | None:
    return understand.yes_no(text)


def _choice(text: str, rules: SlotRules, today: date) -> str | None:
    return understand.intent(text, {value: phrases or (value,) for value, phrases in rules.choices})


def _email(text: str, rules: SlotRules, today: date) -> str | None:
    written = re.search(r"[a-z0-9._+-]+@[a-z0-9-]+(?:\.[a-z0-9-]+)+", text.lower())
    if written:
        return written[0].rstrip(".")
    plain = re.sub(r"\s+(?:dot|point)\s+", ".", text.lower().strip(" .!?"))
    plain = re.sub(r"\s+(?:underscore)\s+", "_", re.sub(r"\s+(?:dash|hyphen|minus)\s+", "-", plain))
    match = re.search(r"((?:[a-z0-9._-]+\s+)*[a-z0-9._-]+)\s+at\s+([a-z0-9-]+(?:\.[a-z0-9-]+)+)", plain)
    if match is None:
        return None
    name = re.sub(r"^(?:(?:my|the|e-?mail|address|it|its|is|s)\s+)+", "", match[1])
    return f"{name.replace(' ', '')}@{match[2]}"


def _spelled_name(text: str, rules: SlotRules, today: date) -> str | None:
    """ "S M I T H", "S as in Sierra, ...", "double u"; a plain name where nothing is spelled."""
    plain = re.sub(r"\b([a-z])\s+(?:as in|for|like)\s+[a-z]+", r"\1", text.lower())
    letters: list[str] = []
    times = 1
    tokens = re.findall(r"[a-z]+", plain.replace("double u", "w").replace("double you", "w"))
    for token in tokens:
        letter = token if len(token) == 1 else _SPELLED.get(token) or (token[0] if token in _ALPHABET else None)
        if token == "double":
            times = 2
        elif letter:
            letters += [letter] * times
            times = 1
    if len(letters) >= 2 and len(letters) >= len(tokens) * 0.6:
        return "".join(letters).capitalize()
    return understand.name(text)


_PARSERS: dict[str, Parse] = {
    "text": _text,
    "digits": _digits,
    "number": _number,
    "date": _date,
    "time": _time,
    "yes_no": _yes_no,
    "choice": _choice,
    "phone": _phone,
    "email": _email,
    "spelled_name": _spelled_name,
}
KINDS = tuple(_PARSERS)
