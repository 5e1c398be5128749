"""What the documentation shows is run as it stands."""

import asyncio
import re
import sys
from pathlib import Path

import pytest

from tests.support.process import serve

ROOT = Path(__file__).parents[2]


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page."""
    text = (ROOT / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.mark.real
async def test_the_websocket_client_of_the_docs_has_a_conversation(tmp_path: Path) -> None:
    code = blocks("docs/websocket.md", "python")[0]
    async with serve(FASTAGENT_SPEECH="scripted") as served:
        await served.until("/readyz", 200)
        program = tmp_path / "client.py"
        program.write_text(code.replace("localhost:8000", f"localhost:{served.port}").replace(
            'headers = {"Authorization": "Bearer YOUR_KEY"}', "headers = {}"
        ))  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(program), str(ROOT / "tests/samples/dev_02.wav"),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(40):
            out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert "session_started" in out.decode()
    assert "'role': 'user'" in out.decode()


def test_every_python_block_compiles() -> None:
    for page in ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]:
        for code in blocks(page, "python"):
            compile(f"async def _():\n{re.sub(r'^', '    ', code, flags=re.MULTILINE)}", page, "exec")


def test_every_setting_is_in_the_docs() -> None:
    from fastagent.gateway.settings import Settings

    page = "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    missing = [field.alias for field in Settings.model_fields.values() if f"`{field.alias}`" not in page]
    assert missing == []


def test_every_metric_is_in_the_operators_table() -> None:
    from fastagent.gateway.metrics import Metrics

    page = (ROOT / "docs/operations.md").read_text()
    names = [family.name for family in Metrics("test").registry.collect()]
    assert [name for name in names if name not in page] == []
