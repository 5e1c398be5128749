"""The way of the caller's audio: one synchronous path from the leg to recognition, at the wire's rate.

    leg -> push -> gaps filled -> windows -> Vad (batched) -> Endpointer -> BargeIn -> listener
                        \\-> the utterance's audio -> SttStream

Nothing here waits, and nothing is decoded frame by frame: a G.711 payload is kept as it came, and decoded in blocks
where a block is needed (a batch of windows, an utterance).
"""

from dataclasses import dataclass
from typing import Protocol

from fastagent.media.barge_in import BargeIn, Verdict
from fastagent.media.endpointing import Endpointer, Phase, SpeechEnded, SpeechPaused, SpeechResumed, SpeechStarted
from fastagent.media.frame import AudioFormat
from fastagent.media.speech.contracts import SttStream, Transcript
from fastagent.media.turn_config import TurnConfig
from fastagent.media.vad.service import VadService, VadWindow

_MAX_GAP_S = 3.0  # a longer jump of the media clock is a new beginning, not loss
_PREROLL_S = 0.3  # audio before the detected start that goes to recognition


class TurnListener(Protocol):
    """What a session is told; all on the event loop, by plain calls."""

    def sensitivity(self) -> tuple[int, float]:
        """Return how many windows of speech, and above which level in dBFS, make a start right now."""
        ...

    def speech_started(self, event: SpeechStarted) -> bool:
        """Speech began; return whether it may be a barge-in, and the agent was paused for it."""
        ...

    def speech_paused(self, event: SpeechPaused) -> None:
        """The tentative end: finalise recognition and report to `InboundAudio.transcript`."""
        ...

    def speech_resumed(self, event: SpeechResumed) -> None:
        """The caller went on: recognition under way is void."""
        ...

    def speech_ended(self, event: SpeechEnded) -> None:
        """The utterance is over; its text is that of the last transcript."""
        ...

    def barge_in(self, verdict: Verdict) -> None:
        """What becomes of the paused agent."""
        ...

    def failed(self, error: Exception) -> None:
        """One of these calls raised."""
        ...


@dataclass(slots=True)
class InboundStats:
    """What one call's inbound path did; samples at the wire's rate."""

    packets: int = 0
    samples: int = 0
    concealed_samples: int = 0
    duplicate_samples: int = 0
    ahead_samples: int = 0


class InboundAudio:
    """One caller."""

    def __init__(
        self,
        audio: AudioFormat,
        *,
        vad: VadService,
        stt: SttStream,
        config: TurnConfig,
        listener: TurnListener,
        max_ahead_s: float = 3.0,
    ) -> None:
        self.audio = audio
        self._max_ahead_s = max_ahead_s
        self.stats = InboundStats()
        self._stt = stt
        self._listener = listener
        self._vad = vad.open(audio, self._on_window, max_waiting_s=max_ahead_s)
        window = vad.engine.window_samples(audio.rate_hz)
        self._endpointer = Endpointer(config, rate_hz=audio.rate_hz, window_samples=window)
        self._barge_in = BargeIn(config)
        self._size = audio.sample_bytes
        self._window_bytes = self._vad.window_bytes
        self._kept = bytearray()  # audio that recognition may still want
        self._kept_from = 0  # the sample at which it begins
        self._windowed = 0  # samples handed to the VAD
        self._fed: int | None = None  # samples of the utterance handed to recognition; None while it is quiet
        self._offered: Transcript | None = None  # the words of the tentative end, once they are known
        self._preroll = int(_PREROLL_S * audio.rate_hz)
        self._began: float | None = None
        self._anchor = 0  # media time of our first sample, in samples

    # -- packets ---------------------------------------------------------------------------------------------------

    def push(self, payload: bytes, timestamp_ms: int | None, now: float) -> bool:
        """Take wire audio of any length; `timestamp_ms` is the media time at its start. Return whether it was taken."""
        stats = self.stats
        stats.packets += 1
        odd = len(payload) % self._size
        if odd:  # never let half a sample slip the rest
            payload = payload[:-odd]
        if self._began is None:
            self._began = now
            self._anchor = self._media_samples(timestamp_ms or 0)
        gap = 0 if timestamp_ms is None else self._gap(timestamp_ms)
        if gap < 0:
            overlap = min(-gap, len(payload) // self._size)
            stats.duplicate_samples += overlap
            payload, gap = payload[overlap * self._size :], 0
        count = len(payload) // self._size
        ahead = stats.samples + gap + count - (now - self._began + self._max_ahead_s) * self.audio.rate_hz
        if ahead > 0:
            stats.ahead_samples += count
            self._anchor += gap + count  # dropped, not lost: nothing to fill later
            return False
        if gap:
            stats.concealed_samples += gap
            self._append(self.audio.silence(gap), gap)
        self._append(payload, count)
        return True

    def quiet(self, seconds: float, now: float) -> None:
        """The peer sends nothing, and that is silence; what comes next is not ahead of anything."""
        if self._began is None:
            return
        count = round(seconds * self.audio.rate_hz)
        self._append(self.audio.silence(count), count)
        self._began = now - self.stats.samples / self.audio.rate_hz

    def _media_samples(self, timestamp_ms: int) -> int:
        return timestamp_ms * self.audio.rate_hz // 1000

    def _gap(self, timestamp_ms: int) -> int:
        """Return how many samples are missing before this media time; negative where they are there already."""
        rate = self.audio.rate_hz
        gap = self._media_samples(timestamp_ms) - self._anchor - self.stats.samples
        if abs(gap) * 1000 < rate:  # within a millisecond: rounding
            return 0
        if abs(gap) > _MAX_GAP_S * rate:  # a jump of the media clock
            self._anchor += gap
            return 0
        return gap

    def _append(self, payload: bytes, count: int) -> None:
        self.stats.samples += count
        self._kept += payload
        size, window = self._size, self._window_bytes
        at = (self._windowed - self._kept_from) * size
        while len(self._kept) - at >= window:
            self._windowed += window // size
            self._vad.push(self._windowed, bytes(self._kept[at : at + window]))
            at += window

    # -- verdicts --------------------------------------------------------------------------------------------------

    def _on_window(self, window: VadWindow) -> None:
        try:
            self._observe(window)
        except Exception as error:  # one call's failure must not reach the batch of the others
            self._listener.failed(error)

    def _observe(self, window: VadWindow) -> None:
        start_windows, gate_db = self._listener.sensitivity()
        event = self._endpointer.observe(window, start_windows=start_windows, gate_db=gate_db)
        match event:
            case SpeechStarted():
                self._fed = max(self._kept_from, event.start - self._preroll)
                self._feed(window.end)
                if self._listener.speech_started(event):
                    self._barge_in.speech_started()
            case SpeechPaused():
                self._feed(window.end)
                self._listener.speech_paused(event)
            case SpeechResumed():
                self._offered = None
                self._feed(window.end)
                self._listener.speech_resumed(event)
            case SpeechEnded():
                self._end(event)
            case None:
                self._feed(window.end)
        if self._barge_in.paused:
            self._weigh()
        self._trim(window.end)

    def _weigh(self) -> None:
        barge_in, endpointer = self._barge_in, self._endpointer
        if endpointer.phase is Phase.SPEECH:
            verdict = barge_in.speech_goes_on(endpointer.speech_s)
        else:
            verdict = barge_in.silent(endpointer.silence_s)
        if verdict is not None:
            self._decide(verdict)

    def transcript(self, transcript: Transcript, *, complete: bool) -> None:
        """The text of the tentative end is known, and whether it looks complete."""
        if self._endpointer.phase is not Phase.PAUSE:
            return
        self._offered = transcript
        self._weigh_words(transcript)
        if self._barge_in.paused:
            return  # too few words: silence or more words will decide
        event = self._endpointer.offer(complete)
        if event is not None:
            self._end(event)

    def _weigh_words(self, transcript: Transcript) -> None:
        speech_s = self._endpointer.speech_s
        verdict = self._barge_in.transcript(transcript.text, confidence=transcript.confidence, speech_s=speech_s)
        if verdict is not None:
            self._decide(verdict)

    @property
    def caller_speaks(self) -> bool:
        """Whether an utterance is under way."""
        return self._endpointer.phase is not Phase.QUIET

    def hold(self) -> None:
        """The agent holds an answer back for the utterance under way: weigh it as a barge-in."""
        self._barge_in.speech_started()
        if self._offered is not None:
            self._weigh_words(self._offered)

    def settle(self) -> None:
        """The agent was interrupted by something else: there is nothing left to decide."""
        self._barge_in.paused = False

    def _decide(self, verdict: Verdict) -> None:
        if verdict is Verdict.RESUME:
            self._endpointer.reset()
            self._forget()
        self._listener.barge_in(verdict)

    def _end(self, event: SpeechEnded) -> None:
        if self._barge_in.paused:  # ended for its length, still undecided: nobody makes a noise for so long
            self._listener.barge_in(self._barge_in.interrupt())
        self._listener.speech_ended(event)
        self._forget()

    # -- recognition -----------------------------------------------------------------------------------------------

    def _feed(self, until: int) -> None:
        if self._fed is None or until <= self._fed:
            return
        size, start = self._size, self._kept_from
        self._stt.push(bytes(self._kept[(self._fed - start) * size : (until - start) * size]))
        self._fed = until

    def _forget(self) -> None:
        self._fed = None
        self._offered = None
        self._stt.restart()

    def _trim(self, now: int) -> None:
        """Keep half a second for the pre-roll, and what recognition has not seen."""
        wanted = now - 2 * self._preroll if self._fed is None else min(self._fed, now - 2 * self._preroll)
        surplus = wanted - self._kept_from
        if surplus > self.audio.rate_hz // 2:
            del self._kept[: surplus * self._size]
            self._kept_from += surplus

    def close(self) -> None:
        """Give the VAD its row back."""
        self._vad.close()
