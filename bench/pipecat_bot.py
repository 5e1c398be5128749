#!/usr/bin/env python3
"""Benchmark baseline: the leanest correct Twilio Media Streams voice bot on Pipecat 1.14.0.

    pip install 'pipecat-ai[silero,websocket]==1.14.0' uvicorn uvloop httptools
    python bench/pipecat_bot.py --port 9100 --speech FILE.wav      (8 kHz mono 16-bit)

Speech-to-text and text-to-speech are scripted and free, there is no LLM: what is measured is the
framework's own cost of carrying a call. Chosen in Pipecat's favour throughout, so that a comparison
with it is fair to it:

* Transport: FastAPIWebsocketTransport + TwilioFrameSerializer (auto hang-up off), the pair that
  Pipecat's own runner uses. 8000 Hz end to end, so that its resamplers return at once. Output
  messages are Pipecat's default 40 ms, paced in real time by its transport; no end silence.
* Server: one process of uvicorn on uvloop and httptools, no access log, no lifespan, no
  per-message deflate (mu-law in base64 costs far more to deflate than it saves).
* VAD: VADProcessor with SileroVADAnalyzer, start_secs=0.2 and stop_secs=0.2 (1.14's defaults, said
  outright), run as Pipecat runs it, in a thread. Its audio-idle task is off and its periodic
  UserSpeakingFrame, which only idle timers and observers read, is never sent.
* Turns: UserTurnProcessor, the 1.14 way for a pipeline without an LLM aggregator. A turn starts,
  and interrupts the bot, when the VAD says so (VADUserTurnStartStrategy). It ends with the final
  transcription, which comes at the VAD's stop: SpeechTimeoutUserTurnStopStrategy with a timeout of
  0, and so no smart-turn model, no wait for more speech, no allowance for STT latency. Idle
  detection is off.
* Worker: no RTVI, turn tracking, metrics, tracing, heartbeats, observers, idle timeout or
  dangling-task check; log level WARNING.
* The answer is one 3 s TTSAudioRawFrame over bytes that every call shares; the transport cuts it
  up. Caller audio ends at the STT, as with an STTService's audio_passthrough=False.
* Two things past plain configuration, both undone by --stock:
  - the processors after the VAD run in direct mode (FrameProcessor's enable_direct_mode), which
    saves each a priority queue and two tasks, and a hop per frame. Not the VAD's: it gains next to
    nothing, and in direct mode it logs errors when a call is dropped while it is being set up;
  - all calls share one ONNX session of the Silero model, and each keeps its own recurrent state.
    Stock Pipecat loads the model again for each call, which stops the event loop for about 50 ms,
    takes about 9 MB, and makes calls push one another's weights out of the CPU's cache.
* gc.freeze() after start-up keeps the imported modules out of later garbage collections.

What Pipecat offers no option for is left as it is.
"""

import argparse
import gc
import json
import os
import wave

os.environ.setdefault("LOGURU_LEVEL", "WARNING")  # read by loguru as it is imported

import uvicorn
from fastapi import FastAPI, Request, Response, WebSocket
from pipecat.audio.vad import silero
from pipecat.audio.vad.vad_analyzer import VADParams
from pipecat.frames.frames import (
    ClientConnectedFrame,
    Frame,
    InputAudioRawFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSStoppedFrame,
    UserStoppedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.audio.vad_processor import VADProcessor
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.serializers.twilio import TwilioFrameSerializer
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport
from pipecat.turns.user_start import VADUserTurnStartStrategy
from pipecat.turns.user_stop import SpeechTimeoutUserTurnStopStrategy
from pipecat.turns.user_turn_processor import UserTurnProcessor
from pipecat.turns.user_turn_strategies import UserTurnStrategies
from pipecat.workers.runner import WorkerRunner

RATE = 8000
VAD = VADParams(start_secs=0.2, stop_secs=0.2)
TWIML = (
    '<?xml version="1.0" encoding="UTF-8"?>'
    '<Response><Connect><Stream url="wss://localhost/twilio/media">'
    '<Parameter name="token" value="x"/></Stream></Connect></Response>'
)


class SharedSileroModel(silero.SileroOnnxModel):
    """The stock model wrapper on a session loaded once; run() is thread-safe and keeps no state."""

    _shared = None

    def __init__(self, path, force_onnx_cpu=True):
        if SharedSileroModel._shared is None:
            super().__init__(path, force_onnx_cpu)
            SharedSileroModel._shared = self
        else:
            self.session = SharedSileroModel._shared.session
            self.sample_rates = SharedSileroModel._shared.sample_rates
            self.reset_states()


class ScriptedSTT(FrameProcessor):
    """Takes the caller's audio, gives a fixed final transcription when the VAD reports a stop."""

    async def process_frame(self, frame: Frame, direction: FrameDirection):
        await super().process_frame(frame, direction)
        if isinstance(frame, InputAudioRawFrame):
            return
        await self.push_frame(frame, direction)
        if isinstance(frame, VADUserStoppedSpeakingFrame) and direction == FrameDirection.DOWNSTREAM:
            await self.push_frame(TranscriptionFrame("Yes, please.", user_id="", timestamp="", finalized=True))


class ScriptedTTS(FrameProcessor):
    """Speaks the prepared audio as the greeting and after each turn of the caller's."""

    def __init__(self, speech: bytes, **kwargs):
        super().__init__(**kwargs)
        self._speech = speech

    async def process_frame(self, frame: Frame, direction: FrameDirection):
        await super().process_frame(frame, direction)
        if isinstance(frame, TranscriptionFrame):
            return
        await self.push_frame(frame, direction)
        if (
            isinstance(frame, (ClientConnectedFrame, UserStoppedSpeakingFrame))
            and direction == FrameDirection.DOWNSTREAM
        ):
            await self.push_frame(TTSAudioRawFrame(self._speech, RATE, 1))
            await self.push_frame(TTSStoppedFrame())


async def run_call(websocket: WebSocket, stream_sid: str, speech: bytes, direct: bool):
    """Runs one call's pipeline until the caller is gone."""
    transport = FastAPIWebsocketTransport(
        websocket,
        FastAPIWebsocketParams(
            audio_in_enabled=True,
            audio_out_enabled=True,
            audio_out_end_silence_secs=0,
            serializer=TwilioFrameSerializer(stream_sid, params=TwilioFrameSerializer.InputParams(auto_hang_up=False)),
        ),
    )
    pipeline = Pipeline(
        [
            transport.input(),
            VADProcessor(
                vad_analyzer=silero.SileroVADAnalyzer(sample_rate=RATE, params=VAD),
                speech_activity_period=float("inf"),
                audio_idle_timeout=0,
            ),
            ScriptedSTT(enable_direct_mode=direct),
            UserTurnProcessor(
                user_turn_strategies=UserTurnStrategies(
                    start=[VADUserTurnStartStrategy()],
                    stop=[SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=0)],
                ),
                enable_direct_mode=direct,
            ),
            ScriptedTTS(speech, enable_direct_mode=direct),
            transport.output(),
        ]
    )
    worker = PipelineWorker(
        pipeline,
        params=PipelineParams(audio_in_sample_rate=RATE, audio_out_sample_rate=RATE),
        enable_rtvi=False,
        enable_turn_tracking=False,
        idle_timeout_secs=None,
        check_dangling_tasks=False,
    )

    @transport.event_handler("on_client_disconnected")
    async def on_client_disconnected(_transport, _websocket):
        await worker.cancel()

    runner = WorkerRunner(handle_sigint=False, check_dangling_tasks=False)
    await runner.add_workers(worker)
    await runner.run()


def make_app(speech: bytes, direct: bool) -> FastAPI:
    """The bot's three routes."""
    app = FastAPI(openapi_url=None)

    @app.get("/readyz")
    async def readyz():
        return Response("ok")

    @app.post("/twilio/webhook")
    async def webhook(request: Request):
        await request.body()
        return Response(TWIML, media_type="text/xml")

    @app.websocket("/twilio/media")
    async def media(websocket: WebSocket):
        await websocket.accept()
        async for text in websocket.iter_text():
            message = json.loads(text)
            if message["event"] == "start":
                await run_call(websocket, message["start"]["streamSid"], speech, direct)
                return

    return app


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=9100)
    parser.add_argument("--speech", required=True, help="prepared speech, 8 kHz mono 16-bit WAV")
    parser.add_argument("--stock", action="store_true", help="queued processors, a Silero session for each call")
    args = parser.parse_args()

    with wave.open(args.speech) as wav:
        if (wav.getframerate(), wav.getnchannels(), wav.getsampwidth()) != (RATE, 1, 2):
            parser.error(f"{args.speech}: not 8 kHz mono 16-bit")
        speech = wav.readframes(wav.getnframes())

    # Before the server listens: load the model and run it and the volume meter (which waits for
    # 0.4 s of audio) once, so that /readyz says ready only when the first call costs no more than
    # the next.
    if not args.stock:
        silero.SileroOnnxModel = SharedSileroModel
    warm = silero.SileroVADAnalyzer(sample_rate=RATE, params=VAD)
    warm.set_sample_rate(RATE)
    warm._run_analyzer(speech[:RATE])
    warm._executor.shutdown()

    app = make_app(speech, direct=not args.stock)
    try:
        import uvloop  # noqa: F401

        loop = "uvloop"
    except ImportError:
        loop = "asyncio"
    gc.collect()
    gc.freeze()
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=args.port,
        loop=loop,
        lifespan="off",
        log_level="warning",
        access_log=False,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main()
