"""The layers: who may import whom."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

MAY_IMPORT = {
    "media": {"media"},
    "afsm": {"afsm"},
    "connectors": {"connectors", "media"},
    "gateway": {"gateway", "connectors", "media", "afsm"},
}
PARTS = {"afsm", "connectors", "gateway", "media", "examples", "context", "telephony"}


def imported(path: Path) -> set[str]:
    """Which parts of the package a file imports; `fastagent` itself stands for the facade."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [
                f"{node.module}.{alias.name}" if node.module == "fastagent" else node.module for alias in node.names
            ]
        for name in names:
            head, _, rest = name.partition(".")
            if head == "fastagent":
                part = rest.partition(".")[0]
                found.add(part if part in PARTS else "fastagent")
    return found


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_a_layer_imports_only_what_it_may(layer: str) -> None:
    files = sorted((ROOT / layer).rglob("*.py"))
    assert files
    for path in files:
        foreign = imported(path) - MAY_IMPORT[layer]
        if path == ROOT / "gateway/app.py":
            foreign -= {"examples", "fastagent"}  # it names the built-in agents, and the version
        if path == ROOT / "gateway/cli/__init__.py":
            foreign -= {"fastagent"}  # the version
        assert not foreign, f"{path.relative_to(ROOT)} imports {foreign}"


def test_only_the_app_names_concrete_providers_and_connectors() -> None:
    concrete = ("embedded_stt", "embedded_tts", "speech.scripted", "vad.silero", "TwilioConnection", "SocketConnection")
    for path in sorted((ROOT / "gateway").rglob("*.py")):
        if path.name == "app.py" or "cli" in path.parts:
            continue
        network = () if path.name == "speeches.py" else ("OpenAiStt(", "OpenAiTts(", "OpenAiRealtimeStt(")
        text = path.read_text()
        assert not [name for name in (*concrete, *network) if name in text], path
