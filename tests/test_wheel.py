"""The wheel holds every package and what it needs, and works without the checkout."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build it from a copy of what git has, so that no stale build directory helps."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    for name in filter(None, listed):
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return next(out.glob("*.whl"))


def test_the_wheel_has_every_module_of_the_checkout(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    expected = {f"fastagent/{path.name}" for path in (ROOT / "fastagent").glob("*.py")}
    for folder in ("afsm", "connectors", "examples", "gateway", "media"):
        expected |= {f"fastagent/{path.relative_to(ROOT)}" for path in (ROOT / folder).rglob("*.py")}
    assert expected <= names
    data = {"py.typed", "media/speech/assets/prepared.ulaw", "examples/pharmacy/pharmacy.yaml"}
    assert {f"fastagent/{name}" for name in data} <= names
    assert wheel.name.startswith("fastagent_voice-")
    assert not [name for name in names if name.startswith(("tests/", "bench/"))]


def test_the_installed_wheel_answers_from_its_own_files(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        "import fastagent, fastagent.media.g711 as g711, fastagent.gateway.app, fastagent.examples.front_desk as desk\n"
        "from fastagent.media.speech.scripted import prepared_speech\n"
        "desk.front_desk(); prepared_speech()\n"
        "print(fastagent.__file__, g711.__file__, desk.__file__)"
    )
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{code}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert all(path.startswith(str(tmp_path)) for path in done.stdout.split())
