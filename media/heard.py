"""The heard ledger: which words of an answer the caller has really heard.

An answer is a list of spans, each a text and the audio that says it, on one timeline of samples. How far playout got is
a sample count on that timeline; the text up to there is what was heard. Inside a span the text is cut at a word, in
proportion to time.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """A sentence and where it is on the timeline, in samples."""

    text: str
    start: int
    end: int


class HeardLedger:
    """The spans of one answer, in order."""

    def __init__(self) -> None:
        self._spans: list[Span] = []

    def add(self, text: str, samples: int) -> None:
        """Append a span of audio that says `text`."""
        start = self._spans[-1].end if self._spans else 0
        self._spans.append(Span(text, start, start + samples))

    @property
    def samples(self) -> int:
        """Length of the timeline."""
        return self._spans[-1].end if self._spans else 0

    @property
    def text(self) -> str:
        """All that was written."""
        return " ".join(span.text for span in self._spans if span.text)

    def heard(self, position: int) -> str:
        """Return the text up to a position; a word counts when most of it was played."""
        said = [cut for span in self._spans if (cut := _cut(span, position))]
        return " ".join(said)


def _cut(span: Span, position: int) -> str:
    if position >= span.end:
        return span.text
    if position <= span.start:
        return ""
    reached = (position - span.start) / (span.end - span.start) * len(span.text)
    kept: list[str] = []
    at = 0
    for word in span.text.split():
        if at + len(word) / 2 > reached:
            break
        kept.append(word)
        at += len(word) + 1
    return " ".join(kept)
