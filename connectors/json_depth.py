"""How deep JSON may be nested, decided before anything parses it."""

import re

MAX_DEPTH = 32
_BRACKETS = re.compile(r'"(?:[^"\\]++|\\.)*+"?+|[\[\]{}]', re.DOTALL)  # or a whole string: one pass, no way back


def too_deep(text: str) -> bool:
    """Whether more than 32 brackets are open anywhere; brackets within strings may count, so look closer only then."""
    if text.count("{") + text.count("[") <= MAX_DEPTH:
        return False
    depth = 0
    for one in _BRACKETS.finditer(text):
        first = one[0][0]
        depth += (first in "{[") - (first in "}]")
        if depth > MAX_DEPTH:
            return True
    return False
