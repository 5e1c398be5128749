"""The agent's voice on one call: sentences in, paced wire audio out, and word of what was heard."""

import asyncio
import logging
from collections.abc import Callable

from fastagent.connectors.leg import CallLeg
from fastagent.media.playout import Playout, RenderedSpeech, SendAudio
from fastagent.media.speech.rendering import Renderer
from fastagent.media.speech.sentences import sentences
from fastagent.media.ticker import Ticker

_log = logging.getLogger(__name__)

_AHEAD_MS = 3000  # audio waiting here before synthesis is made to wait
_MARK_PATIENCE_S = 2.0  # a mark this much overdue will not come
_STALL_S = 60.0
_NEARLY_DONE_S = 0.4


class Speaker:
    """Fills a leg with one answer at a time."""

    def __init__(
        self,
        leg: CallLeg,
        renderer: Renderer,
        ticker: Ticker,
        *,
        lead_ms: int,
        on_first_audio: Callable[[], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self.playout = Playout(leg.info.output, lead_ms=lead_ms)
        self._leg, self._renderer, self._ticker = leg, renderer, ticker
        self._on_first_audio, self._failed = on_first_audio, failed
        self._audio = leg.info.output
        self._loop = asyncio.get_running_loop()
        self._moved = asyncio.Event()
        self.away = False
        """Whether nobody is there to listen: answers are held back before their first sound."""
        self._fresh, self._flushed = True, False

    @property
    def speaking(self) -> bool:
        """Whether the caller is hearing an answer."""
        return self.playout.speaking

    # -- an answer -------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start a new answer."""
        self.playout.begin()
        self._fresh, self._flushed = True, False
        if self.away:
            self.hold()

    async def say(self, text: str) -> None:
        """Render a text sentence by sentence and write it to the answer; the first sentence goes out at once.

        Raises:
            SpeechError: synthesis failed; what was written before is still spoken.
        """
        for sentence in sentences(text):
            self.write(await self._renderer.render(sentence, self._audio))
            await self._until(lambda: self.playout.waiting_ms <= _AHEAD_MS)

    def say_kept(self, text: str) -> bool:
        """Write a phrase that needs no provider; return whether there is one."""
        speech = self._renderer.kept(text, self._audio)
        if speech is not None:
            self.write(speech)
        return speech is not None

    def write(self, speech: RenderedSpeech) -> None:
        """Append rendered speech."""
        self.playout.write(speech)
        self._ticker.add(self._tick)
        self._tick(self._loop.time())

    async def finish(self) -> None:
        """The answer is complete: return when the caller has heard it."""
        self.playout.flush()
        self._flush_leg()
        await self._until(lambda: self.playout.finished)

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(_STALL_S):
            while not condition():
                self._moved.clear()
                await self._moved.wait()

    def _tick(self, now: float) -> None:
        try:
            self._send(now)
        except Exception as error:  # the ticker is everybody's
            self._ticker.remove(self._tick)
            self._failed(error)

    def _send(self, now: float) -> None:
        playout = self.playout
        for action in playout.tick(now):
            if isinstance(action, SendAudio):
                self._leg.send_audio(action.payload)
                if self._fresh:
                    self._fresh = False
                    self._on_first_audio()
            else:
                self._leg.send_mark(action.name)
        self._flush_leg()
        if playout.overdue_s(now) > _MARK_PATIENCE_S:
            _log.warning("marks are missing, going by the clock")
            playout.assume_heard()
        if not playout.speaking:
            self._ticker.remove(self._tick)
        self._moved.set()

    def _flush_leg(self) -> None:
        """Tell the leg, once, that it has the whole answer."""
        if not self._fresh and not self._flushed and self.playout.all_sent:
            self._flushed = True
            self._leg.flush()

    # -- what the caller does --------------------------------------------------------------------------------------

    def mark_reached(self, name: str) -> None:
        """The leg reports a mark."""
        if self.playout.mark_reached(name, self._loop.time()):
            self._moved.set()

    def pause(self) -> None:
        """Fall silent at once, here and at the provider."""
        self.playout.pause(self._loop.time())
        self._flushed = False
        self._leg.clear()
        self._ticker.remove(self._tick)

    def hold(self) -> None:
        """Keep the answer back before its first sound; `resume` lets it go."""
        self.playout.pause(self._loop.time())

    def resume(self) -> None:
        """Go on from where the caller heard us last."""
        now = self._loop.time()
        self.playout.resume(now)
        self._ticker.add(self._tick)
        self._tick(now)

    def stop(self) -> str:
        """Drop the answer; return the part of it that was heard."""
        playout = self.playout
        if playout.speaking:
            self.pause()
        heard = self.heard()
        self.begin()
        self._ticker.remove(self._tick)
        self._moved.set()
        return heard

    def heard(self) -> str:
        """Return the part of the current answer that the caller has heard."""
        return self.playout.ledger.heard(self.playout.position(self._loop.time()))

    def nearly_done(self) -> bool:
        """Whether so little is left to be heard that who speaks now answers it rather than interrupts it."""
        return self.playout.left_s(self._loop.time()) < _NEARLY_DONE_S

    def level_db(self) -> float:
        """How loud we are, for the echo gate."""
        return self.playout.level_db(self._loop.time())

    def close(self) -> None:
        """Leave the ticker."""
        self._ticker.remove(self._tick)
