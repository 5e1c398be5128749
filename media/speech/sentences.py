"""Where to cut a text for synthesis, and what a text says about its speaker: finished, or about to go on."""

import re

_END = re.compile(r"([.!?][\"')\]]*)\s+")
_CLAUSE = re.compile(r"[,;:]\s+")
_ABBREVIATION = re.compile(r"\b(?:mr|mrs|ms|dr|st|no|vs|etc|e\.g|i\.e|a\.m|p\.m|[a-z])\.$", re.IGNORECASE)
_LONG = 160  # characters; beyond it a sentence is also cut at a clause, so that the first audio does not wait

_UNFINISHED = frozenset(
    "a an the and or but so because if when while that which who to of for from with at in on by about into my your "
    "our their his her its is are was were am be i'm it's um uh er erm i we you they he she "
    "will would can could should shall may might must do does did have has had as than "
    "let me".split()
)
_SHORT_ANSWERS = frozenset("yes yeah yep no nope sure".split())
_PRONOUNS = frozenset("i you he she it we they that there".split())


def sentences(text: str) -> list[str]:
    """Split a text for synthesis: at the ends of sentences, long ones also at clauses."""
    found: list[str] = []
    held = ""
    for piece in _END.sub(r"\1\n", " ".join(text.split())).split("\n"):
        held = f"{held} {piece}".strip()
        if held and not _ABBREVIATION.search(held):
            found.extend(_clauses(held))
            held = ""
    if held:
        found.extend(_clauses(held))
    return found


class SentenceStream:
    """Cuts a text that comes in pieces: each sentence is given out as soon as it is complete."""

    def __init__(self) -> None:
        self._held = ""

    def push(self, piece: str) -> list[str]:
        """Return the sentences that this piece completes."""
        self._held += piece
        ends = [match.end() for match in _END.finditer(self._held)]
        ends = [end for end in ends if not _ABBREVIATION.search(self._held[:end].rstrip())]
        if not ends and len(self._held) > _LONG:  # no sentence in sight: the first clause will do
            ends = [match.end() for match in _CLAUSE.finditer(self._held)]
        if not ends:
            return []
        complete, self._held = self._held[: ends[-1]], self._held[ends[-1] :]
        return sentences(complete)

    def flush(self) -> list[str]:
        """Return what is left, at the end of the text."""
        rest, self._held = self._held, ""
        return sentences(rest)


def _clauses(sentence: str) -> list[str]:
    if len(sentence) <= _LONG:
        return [sentence]
    cuts = [match.end() for match in _CLAUSE.finditer(sentence)]
    middle = min(cuts, key=lambda cut: abs(cut - len(sentence) // 2), default=0)
    if not middle:
        return [sentence]
    return [*_clauses(sentence[:middle].strip()), *_clauses(sentence[middle:].strip())]


def looks_complete(text: str) -> bool:
    """Whether an utterance looks finished: it does not trail off, and its last word wants no next one."""
    stripped = text.strip().lower()
    if not stripped or stripped.endswith(("...", "…", ",", "-", "–")):
        return False
    said = re.sub(r"[^a-z0-9' -]", "", stripped).split()
    if len(said) > 2 and said[0] in _SHORT_ANSWERS and said[-2] in _PRONOUNS:
        return True  # "Yes, it is."
    return not said or said[-1] not in _UNFINISHED
