"""Agents in files: YAML or JSON documents in a directory, loaded at start and again for new calls when they change."""

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from fastagent.afsm.config import MAX_DOCUMENT_BYTES, AgentConfig, load
from fastagent.afsm.errors import AfsmError, ConfigError, Problem
from fastagent.afsm.proofs import check
from fastagent.gateway.agent import FastAgent
from fastagent.gateway.models import Models
from fastagent.gateway.speeches import stt_config, tts_config

_log = logging.getLogger(__name__)

SUFFIXES = (".yaml", ".yml", ".json")
_LOOK_EVERY_S = 1.0


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: `yes`, `no`, `on` and `off` are words, not truth values."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read(path: Path) -> object:
    """Return the document in a file.

    Raises:
        ConfigError: it is too large, or neither YAML nor JSON.
        OSError: it cannot be read.
    """
    if path.stat().st_size > MAX_DOCUMENT_BYTES:
        raise ConfigError([Problem("error", "", f"a document has {MAX_DOCUMENT_BYTES} bytes at most")])
    text = path.read_text(encoding="utf-8", errors="strict")
    try:
        return json.loads(text) if path.suffix == ".json" else yaml.load(text, Loader=_Loader)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError([Problem("error", "", " ".join(str(error).split())[:300])]) from error


def examine(path: Path) -> tuple[AgentConfig | None, list[Problem]]:
    """Return what a file describes, if anything, and every problem of it."""
    try:
        return examine_document(read(path))
    except ConfigError as error:
        return None, error.problems
    except (OSError, UnicodeError) as error:
        return None, [Problem("error", "", str(error))]


def examine_document(document: object) -> tuple[AgentConfig | None, list[Problem]]:
    """Return what a document describes, if anything, and every problem of it."""
    try:
        config, unknown = load(document)
    except ConfigError as error:
        return None, error.problems
    problems = [*unknown, *check(config)]
    try:
        FastAgent.from_config("checked", config)
    except (AfsmError, ValueError) as error:
        problems.insert(0, Problem("error", "turn_config", str(error)))
    try:
        Models(api_key=None, base_url=None).check(config.llm_config)
    except (AfsmError, TypeError, ValueError) as error:
        problems[:0] = _problems("llm_config", error)
    for name, parse in (("stt_config", stt_config), ("tts_config", tts_config)):
        try:
            parse(getattr(config, name))
        except (AfsmError, TypeError, ValueError) as error:
            problems[:0] = _problems(name, error)
    return config, problems


def _problems(path: str, error: Exception) -> list[Problem]:
    return error.problems if isinstance(error, ConfigError) else [Problem("error", path, str(error))]


class AgentFiles:
    """The agents of a directory; the file's name is the agent's id."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._seen: dict[Path, tuple[int, int]] = {}
        self._looked_at: float | None = None

    def changed(self) -> Iterator[tuple[FastAgent, dict[str, Any]]]:
        """Yield the agents, and their documents, whose files are new or changed, and sound.

        A broken file leaves its agent as it was.
        """
        now = time.monotonic()
        if self._looked_at is not None and now - self._looked_at < _LOOK_EVERY_S:
            return
        self._looked_at = now
        for path in sorted(self._directory.glob("*")) if self._directory.is_dir() else ():
            if path.suffix in SUFFIXES and not path.stem.endswith(".test") and (loaded := self._load(path)) is not None:
                yield loaded

    def _load(self, path: Path) -> tuple[FastAgent, dict[str, Any]] | None:
        try:
            stat = path.stat()
        except OSError:
            return None
        version = (stat.st_mtime_ns, stat.st_size)
        if self._seen.get(path) == version:
            return None
        self._seen[path] = version
        config, problems = examine(path)
        faults: list[dict[str, Any]] = [
            {"path": problem.path, "problem": problem.message} for problem in problems if problem.severity == "error"
        ]
        if config is None or faults:
            _log.error("agent file is wrong and was not loaded", extra={"file": path.name, "problems": faults[:10]})
            return None
        for problem in problems:
            _log.warning("agent %s: %s", path.stem, problem)
        return FastAgent.from_config(path.stem, config), config.model_dump(mode="json", exclude_unset=True)
