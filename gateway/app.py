"""The gateway: the one place that names concrete providers and connectors, and puts them together."""

import asyncio
import errno
import gc
import logging
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import cache
from pathlib import Path

from aiohttp import web

from fastagent import __version__
from fastagent.afsm.config import AgentConfig
from fastagent.afsm.errors import DefinitionError, Problem
from fastagent.afsm.llm import Llm
from fastagent.connectors.audiocodes.connector import AudiocodesConnection
from fastagent.connectors.host import Recalled
from fastagent.connectors.leg import CallLeg, HangupReason
from fastagent.connectors.sip.connector import SipConnection
from fastagent.connectors.trust import networks
from fastagent.connectors.twilio.connector import TwilioConfig, TwilioConnection
from fastagent.connectors.webrtc.connector import WebRtcConfig, WebRtcConnection
from fastagent.connectors.websocket.connector import SocketConfig, SocketConnection
from fastagent.gateway import phrases
from fastagent.gateway.addresses import Addresses
from fastagent.gateway.agent import FastAgent
from fastagent.gateway.agent_files import AgentFiles
from fastagent.gateway.api.guard import forbidden
from fastagent.gateway.api.models import Health, LatencyMetrics
from fastagent.gateway.audiocodes import audiocodes_config
from fastagent.gateway.auth import ApiKeys
from fastagent.gateway.calls import OutboundCalls
from fastagent.gateway.destinations import DestinationPolicy
from fastagent.gateway.errors import error_response
from fastagent.gateway.health import LatencyWindow
from fastagent.gateway.http import HttpSurface, Runner, one_shape
from fastagent.gateway.metrics import Metrics
from fastagent.gateway.models import Models
from fastagent.gateway.registry import AgentRegistry, RegistryFull
from fastagent.gateway.services import Services
from fastagent.gateway.session import Session
from fastagent.gateway.sessions import Sessions
from fastagent.gateway.settings import Settings, secret
from fastagent.gateway.sip_settings import sip_config
from fastagent.gateway.speeches import Speeches
from fastagent.gateway.store import Claim, MemoryBackend, RedisBackend, SessionStore, StoreError
from fastagent.gateway.stored import document_of, recalled
from fastagent.gateway.traces import NoTracer, OtelTracer, Tracer
from fastagent.gateway.web_client import GuardedClient
from fastagent.media.speech.contracts import Speech
from fastagent.media.ticker import Ticker
from fastagent.media.vad.engine import VadEngine
from fastagent.media.vad.service import VadService

_log = logging.getLogger(__name__)

_MAX_BODY = 1 << 20
_SWITCH_S = 0.0005

MakeSpeech = Callable[[Executor], Speech]
MakeVad = Callable[[], VadEngine]


def _silero() -> VadEngine:
    from fastagent.media.vad.silero import SileroVad

    return SileroVad()


def _embedded(executor: Executor) -> Speech:
    from fastagent.media.speech.embedded_stt import EmbeddedStt
    from fastagent.media.speech.embedded_tts import EmbeddedTts

    return Speech(EmbeddedStt(executor), EmbeddedTts(executor))


def _scripted(executor: Executor) -> Speech:
    from fastagent.media.speech.scripted import scripted_speech

    return scripted_speech()


def speech_maker(settings: Settings) -> MakeSpeech:
    """Return what makes the speech that needs no network."""
    return _scripted if settings.speech == "scripted" else _embedded


def builtin_agents() -> list[FastAgent]:
    """Return the agents that come with the package."""
    from fastagent.examples.bench import bench
    from fastagent.examples.front_desk import front_desk

    return [front_desk(), bench()]


class Gateway:
    """One process: an HTTP server, its connectors, its agents and their sessions.

    Args:
        settings: from the environment, if not given.
        make_speech, make_vad: other speech and another VAD than the settings name, for tests.
    """

    def __init__(
        self, settings: Settings | None = None, *, make_speech: MakeSpeech | None = None, make_vad: MakeVad = _silero
    ) -> None:
        self.settings = settings or Settings()
        self.metrics = Metrics(__version__)
        self._ticker = Ticker(on_lag=self.metrics.loop_lag.observe)
        self.version = __version__
        self.keys = ApiKeys((key.get_secret_value() for key in self.settings.api_keys), self.settings.auth)
        self.agents = AgentRegistry()
        for agent in builtin_agents():
            self.agents.add(agent)
        self._files = AgentFiles(Path(self.settings.agents_dir))
        self._load_files()
        self.default_agent = self.settings.default_agent
        self.twilio = self._twilio_config()
        self.audiocodes = audiocodes_config(self.settings)
        self.host, self.port = self.settings.host, self.settings.port
        self._make_speech = make_speech or speech_maker(self.settings)
        self._speeches: Speeches | None = None
        self._store = self._make_store()
        self._claims: dict[Session, Claim] = {}
        self.sip: SipConnection | None = None
        self.calls = OutboundCalls(
            lambda: self.sip,
            DestinationPolicy(self.settings.call_to, self.settings.calls_per_hour, setting="FASTAGENT_CALL_TO"),
            self.settings.calls_at_once,
        )
        self._tracer: Tracer = NoTracer()
        if self.settings.otel_endpoint:
            self._tracer = OtelTracer(service=self.settings.otel_service)
        self._make_vad = make_vad
        self._models = Models(
            api_key=secret(self.settings.openai_api_key),
            base_url=self.settings.openai_base_url,
            on_fault=lambda name, kind: self.provider_failed("llm", kind),
        )
        self._addresses = Addresses(self.settings.allowed_hosts)
        self._web = GuardedClient(self._addresses)
        self._services: Services | None = None
        self._connections: list[TwilioConnection | SocketConnection | WebRtcConnection | AudiocodesConnection] = []
        self._runner: web.AppRunner | None = None
        self._warming: asyncio.Task[None] | None = None
        self._draining = False
        self._failed: str | None = None
        self._refused_keys: set[str] = set()
        self._latency = LatencyWindow()
        self._started_at = time.monotonic()
        self._speech_executor = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="speech")
        self._vad_executor = ThreadPoolExecutor(1, thread_name_prefix="vad")

    def _twilio_config(self) -> TwilioConfig:
        settings = self.settings
        return TwilioConfig(
            public_base_url=settings.public_base_url,
            account_sid=settings.twilio_account_sid,
            auth_token=secret(settings.twilio_auth_token),
            default_agent=settings.default_agent,
            known_agent=lambda agent_id: agent_id in self.agents,
            proxies=networks(settings.trusted_proxies),
        )

    # -- agents ----------------------------------------------------------------------------------------------------

    def add_agent(self, agent: FastAgent, *, default: bool = False) -> None:
        """Serve an agent, in place of one with the same id; `default` for calls that no route names."""
        self.agents.add(agent)
        if default:
            self.default_agent = self.twilio.default_agent = agent.agent_id
        for warning in agent.afsm.warnings:
            _log.warning("agent %s: %s", agent.agent_id, warning)

    def _load_files(self) -> None:
        """Take up agents whose files are new or have changed; live calls keep theirs."""
        for agent, document in self._files.changed():
            try:
                self.agents.add(agent, document)
            except RegistryFull:
                _log.error("there are too many agents: one was not loaded", extra={"agent_id": agent.agent_id})
                continue
            _log.info("agent loaded", extra={"agent_id": agent.agent_id})

    # -- life ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen; models load in the background. Calling it again does nothing.

        Raises:
            OSError: the port is taken.
            ValueError: the default agent does not exist.
        """
        if self._runner is not None:
            return
        if self.default_agent not in self.agents:
            raise ValueError(f"the default agent {self.default_agent!r} does not exist; there are {[*self.agents]}")
        # The VAD's thread gives the interpreter lock up some twenty times a pass, and waits for it as often: at the
        # default of 5 ms a busy event loop would stretch a pass of one millisecond beyond its deadline.
        sys.setswitchinterval(_SWITCH_S)
        self.sessions = Sessions(self.settings.max_sessions)
        self._closed = asyncio.Event()
        if self.settings.require_redis:
            await self._store_must_answer()
        self._store.start()
        self._connections = [
            TwilioConnection(self.twilio, self),
            AudiocodesConnection(self.audiocodes, self),
            SocketConnection(self._socket_config(), self),
            WebRtcConnection(WebRtcConfig(error_response, self.settings.ice_servers), self, self._ticker),
        ]
        app = web.Application(client_max_size=_MAX_BODY, middlewares=[one_shape])
        app.add_routes(HttpSurface(self).routes())
        for connection in self._connections:
            app.add_routes(connection.routes())
        self._runner = Runner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self.port, backlog=512)
        try:
            await site.start()
        except OSError:
            await self._runner.cleanup()
            await self._store.aclose()
            self._runner = None
            raise
        self.port = self._runner.addresses[0][1]
        await self._start_sip()
        self._say_what_is_open()
        self._warming = asyncio.create_task(self._warm_up(), name="warm-up")

    async def _start_sip(self) -> None:
        """Listen for phones: on loopback by default; a default port that is taken is no reason not to start.

        Raises:
            OSError: the port that was asked for is taken, or a file cannot be read.
            ValueError: it would be open to everybody, or a file is not what it should be.
        """
        settings = self.settings
        if not settings.sip_host:
            return
        sip = None
        try:
            registered, probed = self.metrics.sip_registered.set, self.metrics.sip_trunk_up.set
            sip = SipConnection(sip_config(settings), self, self._ticker, on_registered=registered, on_probed=probed)
            await sip.start()
        except (OSError, ValueError, TimeoutError) as error:
            if sip is not None:
                await sip.aclose()
            default = not settings.model_fields_set & {"sip_port", "sip_host", "sip_trunk", "sip_tls_cert"}
            if not (default and isinstance(error, OSError) and error.errno == errno.EADDRINUSE):
                await self._stop_listening()
                raise
            _log.warning("SIP is off: its default port is taken")
            return
        self.sip = sip
        _log.info("listening for SIP", extra={"host": settings.sip_host, "ports": sip.ports})
        for weakness in sip.weaknesses:
            _log.warning(weakness)

    async def _stop_listening(self) -> None:
        """Undo a start that cannot go on."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
        await self._store.aclose()

    def _socket_config(self) -> SocketConfig:
        settings = self.settings
        return SocketConfig(
            error_response=error_response,
            ping_interval_s=settings.websocket_ping_interval,
            hold_s=settings.websocket_hold_seconds,
            refuse_after_accept=settings.websocket_refuse_after_accept,
        )

    def _make_store(self) -> SessionStore:
        url, metrics = self.settings.redis_url, self.metrics
        self._redis = RedisBackend(url) if url else None
        metrics.store_up.set(1)
        return SessionStore(
            self._redis or MemoryBackend(),
            on_error=lambda kind: metrics.store_errors.labels(kind).inc(),
            on_time=metrics.store_latency.observe,
            on_up=metrics.store_up.set,
        )

    async def _store_must_answer(self) -> None:
        """Raise `ValueError` where FASTAGENT_REQUIRE_REDIS is not met."""
        if self._redis is None:
            raise ValueError("FASTAGENT_REQUIRE_REDIS is set and REDIS_URL is not")
        try:
            await self._store.check()
        except StoreError as error:
            await self._store.aclose()
            raise ValueError(f"Redis does not answer ({error.kind}), and FASTAGENT_REQUIRE_REDIS is set") from None

    def _say_what_is_open(self) -> None:
        if self.keys.open:
            _log.warning("FASTAGENT_AUTH=open: everybody may use the REST and WebSocket APIs")
        _log.info("listening", extra={"host": self.host, "port": self.port, "default_agent": self.default_agent})
        if not self.twilio.auth_token:
            _log.warning("TWILIO_AUTH_TOKEN is not set: Twilio's webhook and streams are open to loopback only")
        if not self.audiocodes.api_key and self.audiocodes.oauth is None:
            _log.warning("AUDIOCODES_API_KEY is not set: AudioCodes needs a key of the API, or comes from loopback")
        if self.twilio.auth_token and not self.twilio.account_sid:
            _log.warning("TWILIO_ACCOUNT_SID is not set: calls are hung up by closing their stream, not by REST")

    async def _warm_up(self) -> None:
        try:
            self._services = await self._load()
        except Exception as error:
            self._failed = f"{type(error).__name__}: {error}"
            _log.exception("speech could not be loaded: every call will hear busy")
            return
        # The models' objects live as long as the process: the collector need not look at them again with every call.
        gc.collect()
        gc.freeze()
        _log.info("ready", extra={"seconds": round(time.monotonic() - self._started_at, 2)})

    async def _load(self) -> Services:
        loop = asyncio.get_running_loop()
        metrics = self.metrics
        engine = await loop.run_in_executor(self._vad_executor, self._make_vad)
        settings = self.settings
        self._speeches = speeches = Speeches(
            self._make_speech(self._speech_executor),
            api_key=secret(settings.openai_api_key),
            base_url=settings.openai_base_url,
            by_default=settings.speech == "openai" or (settings.speech == "auto" and bool(settings.openai_api_key)),
            on_fault=self.provider_failed,
        )
        stt, renderer = speeches.stt({}), speeches.renderer({})
        await asyncio.gather(stt.warm_up(), renderer.tts.warm_up())
        await self._models.warm_up(agent.llm_config for agent in self.agents.values())
        await speeches.keep([*(text for agent in self.agents.values() for text in agent.phrases), *phrases.ALL])
        return Services(
            vad=VadService(
                engine,
                executor=self._vad_executor,
                on_batch=metrics.vad_batch.observe,
                on_deadline_missed=metrics.vad_missed.inc,
            ),
            stt=stt,
            renderer=renderer,
            ticker=self._ticker,
            metrics=metrics,
            lead_ms=self.settings.playout_lead_ms,
            turn_timeout_s=self.settings.default_timeout_seconds,
            log_transcripts=self.settings.log_transcripts,
            model_for=self._model_for,
            agent_for=self.agents.get,
            web=self._web,
            transfers=DestinationPolicy(self.settings.transfer_to, self.settings.transfers_per_hour),
            on_response=self._responded,
            speech_for=speeches.of,
            keep=self._keep,
            tracer=self._tracer,
        )

    def _model_for(self, agent: FastAgent) -> Llm | None:
        try:
            return self._models.model_for(agent.llm_config)
        except (DefinitionError, TypeError, ValueError) as error:
            _log.error("agent %s has no model: %s", agent.agent_id, error)
            return None

    def _responded(self, seconds: float) -> None:
        self._latency.add(seconds)
        self.metrics.latency_ms.observe(seconds * 1000)
        self.metrics.response_latency.observe(seconds)

    async def stop(self, drain_seconds: float | None = None) -> None:
        """Refuse new calls, let live ones end within the drain limit, say goodbye to the rest, release everything."""
        if self._runner is None:
            return
        self._draining = True
        self.metrics.draining.set(1)
        await self.sessions.drain(self.settings.drain_seconds if drain_seconds is None else drain_seconds)
        if self._runner is None:  # a second, more urgent stop was quicker
            return
        runner, self._runner = self._runner, None
        if self._warming is not None:
            self._warming.cancel()
        for connection in self._connections:
            await connection.aclose()
        if self.sip is not None:
            await self.sip.aclose()
        await self._models.aclose()
        await self._web.aclose()
        await self._store.aclose()
        if self._speeches is not None:
            await self._speeches.aclose()
        await runner.cleanup()
        await asyncio.to_thread(self._tracer.close)
        self._speech_executor.shutdown(wait=False, cancel_futures=True)
        self._vad_executor.shutdown(wait=False, cancel_futures=True)
        self._closed.set()

    async def wait_closed(self) -> None:
        """Return when the gateway has stopped."""
        await self._closed.wait()

    async def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Return when calls are answered.

        Raises:
            RuntimeError: speech could not be loaded.
            TimeoutError: it took too long.
        """
        assert self._warming is not None
        async with asyncio.timeout(timeout_s):
            await asyncio.shield(self._warming)
        if self._failed:
            raise RuntimeError(self._failed)

    async def __aenter__(self) -> "Gateway":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop(0)

    # -- what connectors need (LegHost) ------------------------------------------------------------------------------

    def reserve(self, connector: str) -> Callable[[], None] | None:
        """Reserve a place, unless the gateway is not ready, stops, or is full."""
        reason = "draining" if self._draining else "not_ready" if self._services is None else "capacity"
        place = self.sessions.reserve() if reason == "capacity" else None
        if place is None:
            self.metrics.calls_rejected.labels(reason).inc()
            return None
        return lambda: self.sessions.release(place)

    def has_agent(self, agent_id: str) -> bool:
        """Whether an agent of this id exists, as of now."""
        self._load_files()
        return agent_id in self.agents

    def is_live(self, session_id: str) -> bool:
        """Whether a session of this id runs here."""
        return self.sessions.live(session_id) is not None

    def accepts_calls(self) -> bool:
        """Whether calls are taken at all right now."""
        return self._services is not None and not self._draining

    def authorize(self, request: web.BaseRequest, surface: str) -> str | None:
        """Return who a request comes from; None refuses it, and is counted."""
        principal = self.keys.principal(request)
        if principal is None:
            self.auth_failed(surface)
        return principal

    async def recall(self, session_id: str) -> Recalled | None:
        """Return what the store knows of a session."""
        document = await self._store.recall(session_id)
        return None if document is None else recalled(session_id, document)

    def resumed(self, origin: str) -> None:
        """Count a session that goes on."""
        self.metrics.sessions_resumed.labels(origin).inc()

    def _keep(self, session: Session) -> None:
        if (claim := self._claims.get(session)) is not None:
            self._store.keep(claim, lambda: document_of(session))

    def _session(self, leg: CallLeg, agent: FastAgent, known: Recalled | None) -> Session:
        assert self._services is not None
        if known is not None:
            try:
                session = Session(leg, agent, self._services, snapshot=known.snapshot)
                session.record.turn_count = known.turn_count
                self.resumed("store")
                return session
            except ValueError as error:
                _log.warning("a stored session begins anew: %s", error, extra={"session_id": known.session_id})
        return Session(leg, agent, self._services)

    async def converse(self, leg: CallLeg, agent_id: str, *, recalled: Recalled | None = None) -> None:
        """Run a session on a leg to its end."""
        assert self._services is not None
        self._load_files()
        agent = self.agents.get(agent_id) or self.agents[self.default_agent]
        session = self._session(leg, agent, recalled)
        info = leg.info
        where = {"session_id": session.id, "agent_id": agent.agent_id, "call_id": info.call_id}
        who = {"caller_id": info.from_, "called_id": info.to, "initial_state": agent.afsm.initial_state}
        self.sessions.add(session)
        self.metrics.active_sessions.inc()
        claim = self._claims[session] = self._store.claim(
            session.id,
            epoch=recalled.epoch + 1 if recalled else 1,
            on_lost=lambda: session.close(HangupReason.CONNECTION_LOST, ""),
        )
        self._keep(session)
        _log.info("Session started", extra={**where, **who})
        try:
            reason = await session.run()
        finally:
            self.sessions.remove(session)
            self.metrics.active_sessions.dec()
            del self._claims[session]
        if reason is HangupReason.SHUTDOWN:  # after which its client may find another process
            self._store.leave(claim)
        else:
            self._store.forget(claim)
        self._count_end(session)
        _log.info(
            "Session ended",
            extra={
                **where,
                "reason": reason.value,
                "duration_seconds": round(session.record.duration_s, 1),
                **_heard(session),
            },
        )

    def _count_end(self, session: Session) -> None:
        metrics, record = self.metrics, session.record
        reason = record.end_reason.value if record.end_reason else "internal_error"
        metrics.session_duration.observe(record.duration_s)
        metrics.sessions_ended.labels(reason).inc()
        if record.end_reason is HangupReason.TRANSFERRED:
            metrics.transfers.labels("done").inc()
        metrics.calls.labels(record.call.provider, record.call.direction, reason).inc()
        inbound, playout = session.inbound.stats, session.speaker.playout.stats
        frame = record.call.audio.frame_samples
        metrics.media_concealed.inc(inbound.concealed_samples / frame)
        if record.quality is not None:
            metrics.media_lost.inc(record.quality["lost"])
            metrics.media_late.inc(record.quality["late"])
            metrics.rtp_strangers.inc(record.quality["strangers"])
            metrics.media_concealed.inc(record.quality["concealed_frames"])
            metrics.mos.observe(record.quality["mos"])
        metrics.frames_dropped.labels("in", "ahead").inc(inbound.ahead_samples / frame)
        metrics.frames_dropped.labels("out", "slow_reader").inc(session.leg.frames_dropped)
        metrics.underruns.inc(playout.underruns)

    def auth_failed(self, surface: str) -> None:
        """Count a refused credential."""
        self.metrics.auth_failures.labels(surface).inc()

    def protocol_error(self, surface: str, kind: str, count: int = 1) -> None:
        """Count bad input."""
        self.metrics.protocol_errors.labels(surface, kind).inc(count)

    # -- what HTTP tells -------------------------------------------------------------------------------------------

    def status(self) -> str:
        """`starting`, `healthy`, `degraded`, `unhealthy` or `draining`."""
        if self._draining:
            return "draining"
        if self._failed:
            return "unhealthy"
        if self._services is None:
            return "starting"
        return "degraded" if self._weaknesses() else "healthy"

    def _weaknesses(self) -> list[str]:
        """What does not work as configured, while calls are taken all the same."""
        found = []
        if self._redis is not None and not self._store.up:
            found.append("the session store does not answer")
        if self.sip is not None:
            found += self.sip.weaknesses
        return found + [f"{name}: the key is refused" for name in sorted(self._refused_keys)]

    def provider_failed(self, name: str, kind: str) -> None:
        """Count a provider's fault; a refused key is a weakness until the next start."""
        self.metrics.provider_errors.labels(name, kind).inc()
        if kind == "auth":
            self._refused_keys.add(name)

    def health(self) -> Health:
        """Return the documented fields, and what we add."""
        reasons = [self._failed] if self._failed else self._weaknesses()
        return Health(
            status=self.status(),
            version=self.version,
            latency_metrics=LatencyMetrics(**self._latency.metrics()),
            active_connections=len(self.sessions),
            uptime_seconds=int(time.monotonic() - self._started_at),
            auth="open" if self.keys.open else "local" if self.keys.made else "keys",
            reasons=reasons,
        )

    def guard(self, config: AgentConfig) -> list[Problem]:
        """Return what a configuration that came over the network may not ask for."""
        return forbidden(config, self._addresses, self.settings.openai_base_url)


def _heard(session: Session) -> dict[str, object]:
    """The quality of a call, for the log."""
    return {"quality": dict(session.record.quality)} if session.record.quality is not None else {}


@cache
def shared_gateway() -> Gateway:
    """The gateway that the objects of the public API share in a process."""
    return Gateway()
