"""Understanding without a model: intents by phrases, yes and no, names, days, times and digits."""

import re
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher

from fastagent.afsm.clock import TimeOfDay, time_of_day

__all__ = ["DAYS", "TimeOfDay", "day", "digits", "intent", "name", "time_of_day", "words", "yes_no"]

_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
_FUZZY = 0.84

_YES = frozenset("yes yeah yep yup sure correct right okay ok absolutely definitely indeed affirmative fine".split())
_NO = frozenset("no nope nah wrong incorrect not don't nothing never negative".split())

_DIGITS = {
    "zero": "0", "oh": "0", "o": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
    "seven": "7", "eight": "8", "nine": "9",
}  # fmt: skip
_TIMES = {"double": 2, "triple": 3}
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

_NAME_LEADS = re.compile(
    r"^(?:(?:well|hi|hello|hey|yes|um|uh|so|sure|okay|good (?:morning|afternoon|evening))[,.!]?\s+)*"
    r"(?:(?:my|the) name(?:'s| is)|it(?:'s| is)|this is|i(?:'m| am)|you can call me|call me)?\s*",
    re.IGNORECASE,
)
_NOT_NAMES = frozenset(
    "a an the i me my you we what when where why who how is are do does can could would want need like please book "
    "call speak hours open help sorry hello hi thanks thank calling here there yes no not sure about".split()
)


def words(text: str) -> list[str]:
    """Return the words of a text, lower case."""
    return _WORD.findall(text.lower().replace("’", "'"))


def yes_no(text: str) -> bool | None:
    """Return what an answer to a yes-or-no question says; None when it says neither."""
    said = words(text)
    plain = " ".join(said)
    if re.search(r"\bnot (?:really )?sure\b|\bdon't know\b|\bno idea\b", plain):
        return None
    first = next((word for word in said if word in _YES or _negates(word)), None)
    no = any(_negates(word) for word in said)
    yes = any(word in _YES for word in said) or "that's it" in plain
    if no and yes:
        # "No, that's right" and "sure, why not": the first word decides, but "absolutely not" and "that's not right"
        # are one word in two.
        return first in _YES and not re.match(rf"(?:\w+ )*?{first} not\b", plain)
    return True if yes else False if no else None


def _negates(word: str) -> bool:
    return word in _NO or word.endswith("n't")


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
    rest = re.sub(r"^(?:mr|mrs|ms|miss|dr|doctor|professor)\b\.?\s*", "", rest, flags=re.IGNORECASE)
    candidate = re.split(r"[,.!?;]|\b(?:and|here|speaking|calling|from)\b", rest, maxsplit=1)[0].strip()
    parts = candidate.split()
    if not 0 < len(parts) <= 3 or any(part.lower() in _NOT_NAMES or not part[0].isalpha() for part in parts):
        return None
    return " ".join(part[0].upper() + part[1:] for part in parts)


def day(text: str) -> str | None:
    """Return the weekday that is named, as in `DAYS`."""
    for word in words(text):
        word = word.removesuffix("'s").removesuffix("s")
        for one in DAYS:
            if word == one.lower() or _alike(word, one.lower()) > 0.9:
                return one
    return None


def digits(text: str) -> str:
    """Return all digits in a text, spoken ("five double two"), written, or both."""
    found: list[str] = []
    times = 1
    for word in re.findall(r"[a-z]+|[0-9]+", text.lower()):
        if word in _TIMES:
            times = _TIMES[word]
            continue
        found.append((_DIGITS.get(word, "") if word.isalpha() else word) * times)
        times = 1
    return "".join(found)
