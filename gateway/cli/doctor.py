"""`fastagent doctor`: what is set, what is missing, and whether what is named answers."""

import asyncio
import json
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Annotated, Any

import typer
from pydantic import SecretStr, ValidationError

from fastagent.gateway.cli.finding import Finding
from fastagent.gateway.cli.sip_check import check_sip

_SIGNS = {
    "ok": "[green]ok[/green]",
    "note": "[dim]--[/dim]",
    "warning": "[yellow]!![/yellow]",
    "error": "[red]XX[/red]",
}
_LIMIT_S = 10.0


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    speak: Annotated[bool, typer.Option(help="Load the speech and let it say and hear a word.")] = True,
    url: Annotated[str | None, typer.Option(help="Also look at this webhook as its carrier would.")] = None,
) -> None:
    """Look at the settings, and at everything that they name. Exit code 1 if something cannot work."""
    from fastagent.gateway.settings import Settings

    logging.disable()  # what is wrong is a finding
    try:
        settings = Settings()
    except ValidationError as error:
        findings = [
            Finding(".".join(map(str, one["loc"])) or "settings", "error", one["msg"].removeprefix("Value error, "))
            for one in error.errors()
        ]
    else:
        findings = asyncio.run(_look(settings, speak=speak, url=url))
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in findings], indent=2))
    else:
        _show(findings)
    raise typer.Exit(int(any(one.verdict == "error" for one in findings)))


def _show(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, emoji=False)
    width = max(len(one.name) for one in findings)
    for one in findings:
        console.print(f"{_SIGNS[one.verdict]} {one.name:<{width}}  {escape(one.text)}", soft_wrap=True)


async def _look(settings: Any, *, speak: bool, url: str | None) -> list[Finding]:
    checks: list[Callable[[Any], Awaitable[list[Finding]] | list[Finding]]] = [
        _set, _auth, _port, _agents, _redis, _endpoint, _twilio, check_sip,
    ]  # fmt: skip
    if speak:
        checks.append(_speech)
    findings: list[Finding] = []
    for check in checks:
        found = check(settings)
        findings += found if isinstance(found, list) else await found
    if url is not None:
        findings += await (_voice_ai(url, settings) if "/audiocodes/" in url else _webhook(url))
    return findings


def _set(settings: Any) -> list[Finding]:
    """What differs from its default; secrets by their presence only."""
    findings = []
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if value != field.get_default(call_default_factory=True):
            secret = isinstance(value, (SecretStr, dict)) or (isinstance(value, tuple) and "key" in name)
            shown = "is set" if secret or ("url" in name and "@" in str(value)) else f"= {value}"
            findings.append(Finding(str(field.alias), "note", shown))
    return findings or [Finding("settings", "note", "all are at their defaults")]


def _auth(settings: Any) -> list[Finding]:
    if settings.api_keys:
        return [Finding("API keys", "ok", f"{len(settings.api_keys)} configured")]
    if settings.auth == "required":
        return [Finding("API keys", "error", "FASTAGENT_AUTH=required, and FASTAGENT_API_KEYS is not set")]
    if settings.auth == "open":
        return [Finding("API keys", "warning", "FASTAGENT_AUTH=open: everybody may use the APIs")]
    text = "none configured: local requests need none, others the one that `serve` makes and shows"
    return [Finding("API keys", "note", text)]


def _port(settings: Any) -> list[Finding]:
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((settings.host, settings.port))
        except OSError as error:
            text = f"{settings.host}:{settings.port} cannot be used: {error.strerror} (is a gateway running?)"
            return [Finding("port", "warning", text)]
    return [Finding("port", "ok", f"{settings.host}:{settings.port} is free")]


def _agents(settings: Any) -> list[Finding]:
    from pathlib import Path

    from fastagent.gateway.agent_files import SUFFIXES, examine
    from fastagent.gateway.app import builtin_agents

    found = {agent.agent_id for agent in builtin_agents()}
    findings = []
    directory = Path(settings.agents_dir)
    for path in sorted(directory.glob("*")) if directory.is_dir() else ():
        if path.suffix not in SUFFIXES or path.stem.endswith(".test"):
            continue
        config, problems = examine(path)
        errors = [one for one in problems if one.severity == "error"]
        found.add(path.stem)
        if config is None or errors:
            findings.append(Finding(f"agent {path.stem}", "error", f"{path}: {errors[0]} ({len(errors)} in all)"))
        else:
            warnings = sum(one.severity == "warning" for one in problems)
            text = f"{path}, {len(config.states)} states, {warnings} warnings"
            findings.append(Finding(f"agent {path.stem}", "warning" if warnings else "ok", text))
    default = settings.default_agent
    known = default in found
    text = default if known else f"{default!r} does not exist; there are {', '.join(sorted(found))}"
    return [*findings, Finding("default agent", "ok" if known else "error", text)]


async def _redis(settings: Any) -> list[Finding]:
    from fastagent.gateway.store import RedisBackend, SessionStore, StoreError

    if settings.redis_url is None:
        return [Finding("Redis", "note", "REDIS_URL is not set: sessions live in this process only")]
    try:
        store = SessionStore(RedisBackend(settings.redis_url))
    except ValueError as error:
        return [Finding("Redis", "error", str(error))]
    began = time.monotonic()
    try:
        await store.check()
    except StoreError as error:
        return [Finding("Redis", "error" if settings.require_redis else "warning", f"does not answer: {error}")]
    finally:
        await store.aclose()
    return [Finding("Redis", "ok", f"answers in {(time.monotonic() - began) * 1000:.0f} ms")]


async def _endpoint(settings: Any) -> list[Finding]:
    """Whether the OpenAI-compatible endpoint takes the key: by listing its models, which costs nothing."""
    from fastagent.gateway.settings import secret

    key, base_url = secret(settings.openai_api_key), settings.openai_base_url
    if not key and not base_url:
        text = "OPENAI_API_KEY is not set: speech is the embedded one, and states with a model need one of their own"
        return [Finding("model endpoint", "note", text)]
    from openai import APIStatusError, AsyncOpenAI, OpenAIError

    client = AsyncOpenAI(api_key=key or "none", base_url=base_url, max_retries=0, timeout=_LIMIT_S)
    where = base_url or "api.openai.com"
    try:
        models = await client.models.list()
    except APIStatusError as error:
        refused = error.status_code in (401, 403)
        text = f"{where} refuses the key" if refused else f"{where} answered {error.status_code} to a list of models"
        return [Finding("model endpoint", "error" if refused else "warning", text)]
    except OpenAIError as error:
        return [Finding("model endpoint", "error", f"{where} cannot be reached: {type(error).__name__}")]
    finally:
        await client.close()
    return [Finding("model endpoint", "ok", f"{where} takes the key; {len(models.data)} models")]


def _twilio(settings: Any) -> list[Finding]:
    if not settings.twilio_auth_token:
        text = "TWILIO_AUTH_TOKEN is not set: the webhook answers local requests only"
        return [Finding("Twilio", "note", text)]
    if not settings.twilio_account_sid:
        text = "TWILIO_ACCOUNT_SID is not set: no hang-up by REST, no transfers"
        return [Finding("Twilio", "warning", text)]
    if not settings.public_base_url:
        text = "PUBLIC_BASE_URL is not set: signatures are checked over what a trusted proxy says, or fail"
        return [Finding("Twilio", "warning", text)]
    return [Finding("Twilio", "ok", f"webhook at {settings.public_base_url.rstrip('/')}/twilio/webhook")]


async def _speech(settings: Any) -> list[Finding]:
    """Say a word and hear it again: everything in the way of speech is used."""
    from concurrent.futures import ThreadPoolExecutor

    from fastagent.gateway.app import speech_maker
    from fastagent.media.errors import SpeechError
    from fastagent.media.frame import PCMU_8K
    from fastagent.media.speech.rendering import Renderer

    began = time.monotonic()
    with ThreadPoolExecutor(os.cpu_count() or 1) as executor:
        try:
            async with asyncio.timeout(60):
                speech = speech_maker(settings)(executor)
                await asyncio.gather(speech.stt.warm_up(), speech.tts.warm_up())
                said = await Renderer(speech.tts).render("Good morning.", PCMU_8K)
                stream = speech.stt.open(PCMU_8K)
                stream.push(said.payload)
                heard = (await stream.finalize()).text
                await stream.aclose()
        except (SpeechError, TimeoutError, OSError, RuntimeError) as error:
            return [Finding("speech", "error", f"{type(error).__name__}: {error}")]
    text = f"said and heard {heard!r} in {time.monotonic() - began:.1f} s"
    return [Finding("speech", "ok" if heard else "warning", text)]


async def _voice_ai(url: str, settings: Any) -> list[Finding]:
    """As VoiceAI Connect would look at it."""
    from fastagent.gateway.cli.audiocodes_check import check_bot
    from fastagent.gateway.settings import secret

    found = await check_bot(url, secret(settings.audiocodes_api_key))
    return [Finding(name, "ok" if right else "error", text) for name, right, text in found]


async def _webhook(url: str) -> list[Finding]:
    """Whether a gateway answers at an address, and refuses strangers."""
    import aiohttp

    try:
        timeout = aiohttp.ClientTimeout(total=_LIMIT_S)
        async with aiohttp.ClientSession(timeout=timeout) as http, http.post(url, allow_redirects=False) as answer:
            status = answer.status
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return [Finding("webhook", "error", f"{url} cannot be reached: {type(error).__name__}")]
    if status in (401, 403):
        return [Finding("webhook", "ok", f"answers, and refuses a request without a signature or token ({status})")]
    if 300 <= status < 400 or status >= 500 or status in (404, 405):
        return [Finding("webhook", "error", f"answered {status}: a carrier would give up")]
    return [Finding("webhook", "warning", f"answered {status} to a request without a signature or token")]
