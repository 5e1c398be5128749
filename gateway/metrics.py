"""Prometheus metrics. Labels come from fixed sets, never from callers."""

import math

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_TURN_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)


class Metrics:
    """One gateway's metrics, in a registry of their own."""

    def __init__(self, version: str) -> None:
        self.registry = registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"fastagent_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"fastagent_{name}", text, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"fastagent_{name}", text, labels, buckets=buckets, registry=registry)

        self.active_sessions = gauge("active_sessions", "Current number of active voice sessions")
        self.session_duration = histogram(
            "session_duration_seconds", "Session duration in seconds", (10, 30, 60, 120, 300)
        )
        self.latency_ms = histogram("latency_milliseconds", "Response latency in milliseconds", (50, 100, 200, 500))
        self.response_latency = histogram(
            "response_latency_seconds", "Caller's last sound to the first audio of the answer", _TURN_BUCKETS
        )
        self.stage_latency = histogram("stage_latency_seconds", "A turn's wait, stage by stage", _TURN_BUCKETS, "stage")
        self.time_to_silence = histogram(
            "time_to_silence_seconds", "Caller's onset in a barge-in to the clear", _TURN_BUCKETS
        )
        self.calls = counter("calls", "Calls, by how they ended", "connector", "direction", "result")
        self.calls_rejected = counter("calls_rejected", "Calls refused before an answer", "reason")
        self.sessions_ended = counter("sessions_ended", "Sessions, by the reason of their end", "reason")
        self.barge_in = counter("barge_in", "Barge-ins, by what they turned out to be", "verdict")
        self.transitions = counter("state_transitions", "Committed transitions", "agent", "from", "to")
        self.transitions_refused = counter("transitions_refused", "Transitions that the table does not allow")
        self.transfers = counter("transfers", "Transfers, by what became of them", "result")
        self.tool_errors = counter("tool_errors", "Failed tools, and wrong calls of tools")
        self.provider_errors = counter("provider_errors", "Failures of speech providers and models", "provider", "kind")
        self.filler = counter("filler", "Fillers and apologies spoken", "reason")
        self.turn_timeouts = counter("turn_timeouts", "Turns ended at their deadline")
        self.auth_failures = counter("auth_failures", "Refused credentials", "surface")
        self.protocol_errors = counter("protocol_errors", "Bad input", "surface", "kind")
        self.frames_dropped = counter("audio_frames_dropped", "Frames dropped by us", "direction", "reason")
        self.media_concealed = counter("media_concealed_frames", "Frames made up for missing ones")
        self.media_lost = counter("media_lost_frames", "Packets of callers that never came")
        self.media_late = counter("media_late_frames", "Packets of callers that came too late")
        self.rtp_strangers = counter("rtp_strangers", "Packets on a call's ports that were not of its caller")
        self.mos = histogram("mos_estimate", "Estimated opinion score of a call", (1.5, 2, 2.5, 3, 3.5, 3.8, 4.0, 4.2))
        self.underruns = counter("output_underruns", "Times that the far side ran dry in an answer")
        self.vad_batch = histogram("vad_batch_size", "Windows in a forward pass", (1, 2, 4, 8, 16, 32, 64, 128))
        self.vad_missed = counter("vad_deadline_missed", "Windows judged by level since the model was late")
        self.loop_lag = histogram(
            "event_loop_lag_seconds", "Lateness of the shared ticker", (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)
        )
        self.sessions_resumed = counter("sessions_resumed", "Sessions that went on after a loss", "from")
        self.store_up = gauge("store_up", "1 while the session store answers")
        self.store_errors = counter("store_errors", "Failed operations of the session store", "kind")
        self.store_latency = histogram(
            "store_latency_seconds", "Operations of the session store", (0.001, 0.005, 0.01, 0.05, 0.1, 0.25)
        )
        self.sip_registered = gauge("sip_registered", "1 while the SIP trunk knows where we are")
        self.sip_trunk_up = gauge("sip_trunk_up", "1 while the SIP trunk takes calls; NaN where it is not asked")
        self.sip_trunk_up.set(math.nan)
        self.draining = gauge("draining", "1 while new calls are refused since the gateway stops")
        self.build_info = Gauge("fastagent_build_info", "Version", ("version",), registry=registry)
        self.build_info.labels(version).set(1)

    def text(self) -> bytes:
        """Return the exposition."""
        return generate_latest(self.registry)
