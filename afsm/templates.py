"""Templates: `{{ name }}` with slots, variables, facts and profile, in jinja2's sandbox.

An unknown name gives nothing, and a warning once per template. Text without braces is itself, to the letter.
"""

import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError, Undefined, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from fastagent.afsm.errors import DefinitionError

_log = logging.getLogger(__name__)

_MAX_OUTPUT = 64 * 1024


class _Empty(Undefined):
    """An unknown name, wherever it stands, is nothing."""

    def __getattr__(self, name: str) -> "_Empty":
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __getitem__(self, name: object) -> "_Empty":  # type: ignore[override]
        return self


_environment = ImmutableSandboxedEnvironment(undefined=_Empty, autoescape=False)


class Template:
    """A text with names in it, read once.

    Raises:
        DefinitionError: the template cannot be read.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._warned: set[str] = set()
        if "{" not in text:
            self.names: frozenset[str] = frozenset()
            self._template = None
            return
        try:
            self.names = frozenset(meta.find_undeclared_variables(_environment.parse(text)))
            self._template = _environment.from_string(text)
        except TemplateError as error:
            raise DefinitionError(f"{text!r:.60} is no template: {error}") from error

    def __repr__(self) -> str:
        return f"Template({self.text!r:.60})"

    def render(self, values: Mapping[str, Any]) -> str:
        """Return the text with the values in it."""
        if self._template is None:
            return self.text
        unknown = self.names - values.keys() - self._warned
        if unknown:
            self._warned |= unknown
            _log.warning("template names nothing known", extra={"names": sorted(unknown)})
        try:
            return str(self._template.render(values))[:_MAX_OUTPUT]
        except (TemplateError, TypeError, ValueError, ArithmeticError) as error:
            _log.warning("template failed", extra={"error": str(error)[:200]})
            return ""


@lru_cache(maxsize=2048)
def template(text: str) -> Template:
    """Return the template of a text."""
    return Template(text)
