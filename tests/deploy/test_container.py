"""The image and the compose file, as far as they can be held to what they promise where no container engine runs."""

import http.server
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import threading
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from docker.utils.build import exclude_paths

from fastagent.gateway.settings import Settings
from tests.support.process import free_port, serve

ROOT = Path(__file__).parents[2]
TOOLS = Path(sys.executable).parent
FOLDERS = ("afsm", "connectors", "examples", "gateway", "media")

pytestmark = [pytest.mark.timeout(180)]


# -- reading the files -------------------------------------------------------------------------------------------------


@dataclass
class Stage:
    """One FROM and what follows."""

    name: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, word: str) -> list[str]:
        """What the instructions of this word say."""
        return [text for one, text in self.instructions if one == word]

    def only(self, word: str) -> str:
        """What the one instruction of this word says."""
        (text,) = self.all(word)
        return text


def _stages() -> dict[str, Stage]:
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    found: dict[str, Stage] = {}
    stage = Stage("")
    for line in filter(str.strip, "\n".join(lines).replace("\\\n", " ").splitlines()):
        word, text = line.split(None, 1)
        if word == "FROM":
            name = text.partition(" AS ")[2] or "runtime"
            stage = found[name] = Stage(name)
        stage.instructions.append((word, text))
    return found


STAGES = _stages()
RUNTIME = STAGES["runtime"]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
GATEWAY, REDIS = COMPOSE["services"]["fastagent"], COMPOSE["services"]["redis"]
COMMANDS = [(stage.name, text) for stage in STAGES.values() for text in stage.all("RUN")]

IMAGE_CHECK: list[str] = json.loads(RUNTIME.only("HEALTHCHECK").partition(" CMD ")[2])
COMPOSE_CHECK: list[str] = GATEWAY["healthcheck"]["test"][1:]


def _context() -> set[str]:
    """The files that the builder is sent, by Docker's own rules."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    always = {"Dockerfile", ".dockerignore"}  # sent, but COPY doesn't see them
    names = {str(name) for name in exclude_paths(str(ROOT), patterns)} - always
    return {name for name in names if (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the builder is sent."""
    to = tmp_path_factory.mktemp("context")
    for name in _context():
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, to / name)
    return to


def _run(*command: str | Path, **more: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([str(one) for one in command], capture_output=True, text=True, timeout=120, **more)


def _environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PATH": f"{TOOLS}:{os.environ['PATH']}", **more}


# -- the linters -------------------------------------------------------------------------------------------------------

_YAMLLINT = "{extends: default, rules: {line-length: {max: 120}, document-start: disable}}"
LINTERS: list[tuple[str, list[str], str]] = [
    ("Dockerfile", ["hadolint", "--no-color"], "RUN cd /tmp\n"),
    ("docker-compose.yml", ["check-jsonschema", "--builtin-schema", "vendor.compose-spec"], "servces: {}\n"),
    ("docker-compose.yml", ["yamllint", "--strict", "--config-data", _YAMLLINT], "x-one:   1\n"),
    ("deploy/setup.sh", ["shellcheck"], "rm $where\n"),
]


@pytest.mark.parametrize(("name", "tool", "flaw"), LINTERS, ids=[tool[0] for _, tool, _ in LINTERS])
def test_the_linters_find_nothing_and_would_find_a_flaw(name: str, tool: list[str], flaw: str, tmp_path: Path) -> None:
    command = [str(TOOLS / tool[0]), *tool[1:]]
    done = _run(*command, ROOT / name)
    assert done.returncode == 0, done.stdout + done.stderr
    flawed = tmp_path / Path(name).name
    flawed.write_text((ROOT / name).read_text() + flaw)
    done = _run(*command, flawed)
    assert done.returncode == 1, done.stdout + done.stderr


@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize(("stage", "command"), COMMANDS, ids=[f"{stage}-{text[:20]}" for stage, text in COMMANDS])
def test_every_run_line_parses(shell: str, stage: str, command: str) -> None:
    done = _run(shell, "-n", "-c", command)
    assert done.returncode == 0, done.stderr


# -- the build ---------------------------------------------------------------------------------------------------------


def test_what_is_copied_exists_and_is_let_through() -> None:
    files = _context()
    copies = [shlex.split(text)[:-1] for stage in STAGES.values() for text in stage.all("COPY")]
    sources = {one for copy in copies if not copy[0].startswith("--from=") for one in copy}
    assert {"pyproject.toml", "constraints.txt", "."} <= sources
    assert sources - files == {"."}
    stages = {copy[0].removeprefix("--from=") for copy in copies if copy[0].startswith("--from=")}
    assert stages == {"requirements", "dependencies", "gateway"} <= set(STAGES)


def test_the_builder_is_sent_sources_only() -> None:
    assert {Path(name).parts[0] for name in _context()} == {
        *("pyproject.toml", "constraints.txt", "README.md", "LICENSE", "fastagent", *FOLDERS)
    }
    assert not [name for name in _context() if "__pycache__" in name or name.endswith(".pyc") or "/." in name]


def test_the_dependencies_do_not_depend_on_the_source() -> None:
    assert STAGES["requirements"].all("COPY") == ["pyproject.toml ./"]
    assert {text.split()[-2] for text in STAGES["dependencies"].all("COPY")} == {
        "constraints.txt",
        "/build/requirements.txt",
    }
    torch, *others = [text for text in STAGES["dependencies"].all("RUN") if " install " in text]
    assert torch.endswith(" torch")
    assert all("torch" not in text for text in others)
    assert all("--constraint constraints.txt" in text for text in (torch, *others))
    assert re.search(r"^torch==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)


def test_the_lists_are_those_of_the_project(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    done = _run("sh", "-ec", STAGES["requirements"].only("RUN"), cwd=tmp_path, env=_environment())
    assert done.returncode == 0, done.stderr
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert (tmp_path / "requirements.txt").read_text().splitlines() == project["project"]["dependencies"]
    assert (tmp_path / "build-requirements.txt").read_text().splitlines() == project["build-system"]["requires"]


@pytest.mark.parametrize("index", [None, "", "https://cpu.example/simple"])
def test_torch_comes_from_the_index_of_the_build_argument(index: str | None) -> None:
    assert STAGES["dependencies"].only("ARG") == "TORCH_INDEX_URL"  # without a default
    (command,) = [text for text in STAGES["dependencies"].all("RUN") if text.endswith(" torch")]
    environment = _environment() if index is None else _environment(TORCH_INDEX_URL=index)
    done = _run("sh", "-ec", f"pip() {{ printf '%s\\n' \"$@\"; }}\n{command}", env=environment)
    words = done.stdout.splitlines()
    if index:
        assert words[words.index("--index-url") + 1] == index
    else:
        assert "--index-url" not in words
        assert "" not in words


def test_the_stage_of_the_gateway_builds_and_installs_what_is_let_through(context: Path, tmp_path: Path) -> None:
    """Its own command, in other directories, without an index."""
    venv, built = tmp_path / "venv", tmp_path / "built"
    assert _run(sys.executable, "-m", "venv", "--without-pip", venv).returncode == 0
    (command,) = [text for text in STAGES["gateway"].all("RUN") if "pip wheel" in text]
    places = {"/opt/fastagent/": f"{venv}/", "/built ": f"{built} ", "/build/": f"{context}/"}
    command = re.sub("|".join(places), lambda found: places[found[0]], command)
    done = _run("sh", "-ec", command, cwd=context, env=_environment(PIP_NO_INDEX="1"))
    assert done.returncode == 0, done.stderr
    inside = built / venv.relative_to("/")
    assert (inside / "bin/fastagent").read_text().startswith(f"#!{venv}/bin/python")
    (package,) = inside.glob("lib/python3.*/site-packages/fastagent")
    wanted = {path.relative_to(ROOT / "fastagent") for path in (ROOT / "fastagent").glob("*.py")}
    wanted |= {path.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    wanted |= {path.relative_to(ROOT) for path in (ROOT / "examples").rglob("*.yaml")}
    wanted |= {path.relative_to(ROOT) for path in (ROOT / "media/speech/assets").iterdir()}
    wanted |= {Path("py.typed")}
    assert {name for name in wanted if not (package / name).is_file()} == set()
    compiled = {path.relative_to(package) for path in package.rglob("*.pyc")}
    tag = sys.implementation.cache_tag
    assert {name.parent / f"__pycache__/{name.stem}.{tag}.pyc" for name in wanted if name.suffix == ".py"} == compiled


# -- the image ---------------------------------------------------------------------------------------------------------


def test_it_runs_as_a_fixed_user_who_is_not_root() -> None:
    uid, gid = RUNTIME.only("USER").split(":")
    assert int(uid) > 0
    assert int(gid) > 0
    (made,) = RUNTIME.all("RUN")
    assert f"useradd --uid {uid} --gid {gid} " in made
    assert f"groupadd --gid {gid} " in made
    words = [word for word, _ in RUNTIME.instructions]
    assert words.index("USER") > max(at for at, word in enumerate(words) if word in ("RUN", "COPY"))


def test_it_is_made_for_a_read_only_file_system() -> None:
    values = dict(one.split("=", 1) for one in shlex.split(" ".join(RUNTIME.all("ENV"))))
    assert values["PYTHONDONTWRITEBYTECODE"] == "1"
    assert values["HOME"] == "/tmp"
    assert values["PATH"].startswith("/opt/fastagent/bin:")
    assert not RUNTIME.all("VOLUME")


def test_it_starts_the_gateway_without_a_shell_that_would_keep_signals() -> None:
    assert json.loads(RUNTIME.only("ENTRYPOINT")) + json.loads(RUNTIME.only("CMD")) == ["fastagent", "serve"]
    assert RUNTIME.only("STOPSIGNAL") == "SIGTERM"
    assert RUNTIME.only("EXPOSE") == str(Settings.model_fields["port"].default)


def test_every_stage_is_of_one_python_which_is_that_of_the_constraints() -> None:
    bases = {text.split()[0] for stage in STAGES.values() for text in stage.all("FROM")} - set(STAGES)
    assert bases == {"python:3.11-slim-bookworm"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["mypy"]["python_version"] == "3.11"


def test_the_base_image_has_the_shared_libraries_that_packages_need() -> None:
    """The runtime stage installs none, so every other one must come in a package."""
    assert not [text for text in RUNTIME.all("RUN") if "install" in text]
    of_base = {"libgcc_s.so.1", "libstdc++.so.6", "libz.so.1"}  # Debian's apt needs them: they are in every image
    of_libc = {f"lib{name}" for name in ("c.so.6", "dl.so.2", "m.so.6", "mvec.so.1", "pthread.so.0", "rt.so.1")}
    packages = sysconfig.get_path("platlib")
    # The softphone of the tests is no part of the image.
    files = [path for path in Path(packages).rglob("*.so*") if path.is_file() and "baresip" not in str(path)]
    assert len(files) > 100
    done = _run("ldd", *files)
    found = re.findall(r"^\s+(\S+) => (not found|\S+)", done.stdout, re.MULTILINE)
    outside = {name for name, path in found if not path.startswith(packages)}
    assert "libstdc++.so.6" in outside
    assert outside <= of_base | of_libc


# -- the health checks -------------------------------------------------------------------------------------------------


class _StandIn(http.server.BaseHTTPRequestHandler):
    status = 200
    paths: list[str]

    def do_GET(self) -> None:
        self.paths.append(self.path)
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def stand_in() -> Iterator[tuple[type[_StandIn], int]]:
    """A server that answers with the handler's status."""

    class Handler(_StandIn):
        paths: list[str] = []  # noqa: RUF012

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield Handler, server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def _check(command: list[str], port: int) -> int:
    nowhere = f"http://127.0.0.1:{free_port()}"
    return _run(*command, env=_environment(PORT=str(port), HTTP_PROXY=nowhere, http_proxy=nowhere)).returncode


@pytest.mark.parametrize(
    ("command", "path"), [(IMAGE_CHECK, "/livez"), (COMPOSE_CHECK, "/readyz")], ids=["image", "compose"]
)
def test_a_health_check_follows_the_answer(command: list[str], path: str, stand_in: tuple[type[_StandIn], int]) -> None:
    handler, port = stand_in
    assert _check(command, port) == 0
    for handler.status in (503, 404):
        assert _check(command, port) != 0
    assert _check(command, free_port()) != 0
    assert handler.paths == [path] * 3


@pytest.mark.real
async def test_the_health_checks_find_the_gateway() -> None:
    async with serve(FASTAGENT_SPEECH="scripted", FASTAGENT_DEFAULT_AGENT="bench") as gateway:
        await gateway.until("/readyz", 200)
        assert _check(IMAGE_CHECK, gateway.port) == 0
        assert _check(COMPOSE_CHECK, gateway.port) == 0


# -- compose -----------------------------------------------------------------------------------------------------------


def _unset(value: object) -> str:
    """What a value is where no variable is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value))


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+)s", text)
    assert found
    return float(found[1])


def test_the_gateway_finds_redis_by_a_service_that_is_healthy_first() -> None:
    found = re.fullmatch(r"redis://([\w.-]+):6379/\d+", GATEWAY["environment"]["REDIS_URL"])
    assert found
    assert found[1] in COMPOSE["services"]
    assert GATEWAY["depends_on"][found[1]] == {"condition": "service_healthy"}


def test_the_environment_is_one_that_the_gateway_knows_and_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {one.alias for one in Settings.model_fields.values()}
    assert set(GATEWAY["environment"]) <= known
    for name in known:
        monkeypatch.delenv(str(name), raising=False)
    plain = Settings()
    for name, value in GATEWAY["environment"].items():
        monkeypatch.setenv(name, _unset(value))
    assert Settings() == plain.model_copy(update={"redis_url": "redis://redis:6379/0"})


def test_the_override_for_phones_publishes_what_the_gateway_listens_on(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(services:.*?)```", (ROOT / "docs/deploy.md").read_text(), re.DOTALL)
    override = tmp_path / "docker-compose.override.yml"
    override.write_text(text)
    assert _run(str(TOOLS / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", override).returncode == 0
    service = yaml.safe_load(text)["services"]["fastagent"]
    environment, port = service["environment"], Settings.model_fields["sip_port"].default
    assert set(environment) <= {one.alias for one in Settings.model_fields.values()}
    range_ = environment["RTP_PORTS"]
    assert set(service["ports"]) == {f"{port}:{port}/udp", f"{port}:{port}/tcp", f"{range_}:{range_}/udp"}


def test_no_secret_is_written_down() -> None:
    secrets = [name for name in GATEWAY["environment"] if re.search("KEY|TOKEN|SID|PASSWORD", name)]
    assert {"OPENAI_API_KEY", "TWILIO_AUTH_TOKEN"} <= set(secrets)
    assert [GATEWAY["environment"][name] for name in secrets] == [f"${{{name}:-}}" for name in secrets]


def test_stopping_leaves_time_to_drain() -> None:
    drain = float(Settings.model_fields["drain_seconds"].default)
    assert "FASTAGENT_DRAIN_SECONDS" not in GATEWAY["environment"]
    assert _seconds(GATEWAY["stop_grace_period"]) >= drain + 10
    told = re.findall(r"--(?:stop-timeout|time) (\d+)", (ROOT / "docs/deploy.md").read_text())
    assert told
    assert all(float(one) >= drain + 10 for one in told)


@pytest.mark.parametrize("service", [GATEWAY, REDIS], ids=["gateway", "redis"])
def test_a_service_is_watched_and_confined(service: dict[str, Any]) -> None:
    assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert service["restart"] == "always"
    assert service["read_only"] is True
    assert [one for one in service["tmpfs"] if one.startswith("/tmp:size=")]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert service.get("user") not in ("root", "0")


def test_only_the_gateway_is_reachable_from_other_hosts() -> None:
    assert GATEWAY["ports"] == ["8000:8000"]
    assert REDIS["ports"] == ["127.0.0.1:6379:6379"]
    assert GATEWAY["build"]["context"] == "."


def test_agents_are_mounted_where_the_image_looks_for_them() -> None:
    (volume,) = GATEWAY["volumes"]
    where, inside, mode = volume.split(":")
    assert (where, mode) == ("./agents", "ro")
    assert f"FASTAGENT_AGENTS={inside}" in " ".join(RUNTIME.all("ENV"))
    (volume,) = REDIS["volumes"]
    assert volume.split(":")[0] in COMPOSE["volumes"]
