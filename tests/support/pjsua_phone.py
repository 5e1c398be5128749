"""A phone on PJSIP, in a process and an environment of its own: calls, or waits to be called, and does as it is told.

    python pjsua_phone.py SIP_PORT [--call URI] [--codec NAME] [--play IN.wav] [--record OUT.wav] [--tls] [--srtp]
                          [--require-100rel] [--vad] [--user USER --password PASSWORD] [--register URI] ACTION...

Actions: `wait:S`, `dtmf:KEYS`, `info:KEYS`, `hold:S`, `refer:URI`, `reinvite`, `answered:S` (wait until somebody has
called, that long), `gone:S` (wait until the call is over), `stay:S` (whatever happens), `hangup`. Prints one JSON
document: what this stack saw.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import pjsua2 as pj


class Call(pj.Call):  # type: ignore[misc]
    """One call, and what happened in it."""

    def __init__(self, account: Any, call_id: int = pj.PJSUA_INVALID_ID) -> None:
        super().__init__(account, call_id)
        self.states: list[str] = []
        self.transfer: list[int] = []
        self.digits = self.codec = ""
        self.status = self.received = self.sent = self.lost = 0
        self.player: Any = None
        self.recorder: Any = None

    def onCallState(self, prm: Any) -> None:
        info = self.getInfo()
        self.states.append(info.stateText)
        self.status = info.lastStatusCode

    def onCallMediaState(self, prm: Any) -> None:
        info = self.getInfo()  # the list lives no longer than this
        for index, media in enumerate(info.media):
            if media.type == pj.PJMEDIA_TYPE_AUDIO and media.status == pj.PJSUA_CALL_MEDIA_ACTIVE:
                audio = self.getAudioMedia(index)
                self.codec = self.getStreamInfo(index).codecName
                if self.player is not None:
                    self.player.startTransmit(audio)
                if self.recorder is not None:
                    audio.startTransmit(self.recorder)

    def onStreamDestroyed(self, prm: Any) -> None:
        rtcp = self.getStreamStat(prm.streamIdx).rtcp
        self.received += rtcp.rxStat.pkt
        self.sent += rtcp.txStat.pkt
        self.lost += rtcp.rxStat.loss

    def onDtmfDigit(self, prm: Any) -> None:
        self.digits += prm.digit

    def onCallTransferStatus(self, prm: Any) -> None:
        self.transfer.append(prm.statusCode)


class Account(pj.Account):  # type: ignore[misc]
    """Answers the first call."""

    def __init__(self, prepare: Callable[[Call], Call]) -> None:
        super().__init__()
        self.prepare = prepare
        self.calls: list[Call] = []

    def onIncomingCall(self, prm: Any) -> None:
        call = self.prepare(Call(self, prm.callId))
        self.calls.append(call)
        answer = pj.CallOpParam()
        answer.statusCode = 180
        call.answer(answer)
        answer.statusCode = 200
        call.answer(answer)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    for name in ("call", "codec", "play", "record", "user", "password", "register"):
        parser.add_argument(f"--{name}", default="")
    for name in ("tls", "srtp", "require-100rel", "vad"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("actions", nargs="*")
    return parser.parse_intermixed_args()


def endpoint(given: argparse.Namespace) -> Any:
    ep = pj.Endpoint()
    ep.libCreate()
    config = pj.EpConfig()
    config.logConfig.level = config.logConfig.consoleLevel = 0
    config.uaConfig.threadCnt = 0
    config.uaConfig.mainThreadOnly = True
    config.medConfig.noVad = not given.vad
    ep.libInit(config)
    transport = pj.TransportConfig()
    transport.port, transport.boundAddress = given.port, "127.0.0.1"
    ep.transportCreate(pj.PJSIP_TRANSPORT_TLS if given.tls else pj.PJSIP_TRANSPORT_UDP, transport)
    ep.libStart()
    ep.audDevManager().setNullDev()
    for codec in ep.codecEnum2():
        wanted = not given.codec or codec.codecId.lower().startswith(given.codec.lower())
        ep.codecSetPriority(codec.codecId, 200 if wanted else 0)
    return ep


def account(given: argparse.Namespace, prepare: Callable[[Call], Call]) -> Account:
    config = pj.AccountConfig()
    suffix = ";transport=tls" if given.tls else ""
    config.idUri = f"sip:{given.user or 'pjsua'}@127.0.0.1:{given.port}{suffix}"
    if given.register:
        config.idUri = given.register.replace("sip:", f"sip:{given.user}@")
        config.regConfig.registrarUri = given.register
    if given.password:
        config.sipConfig.authCreds.append(pj.AuthCredInfo("digest", "*", given.user, 0, given.password))
    if given.srtp:
        config.mediaConfig.srtpUse, config.mediaConfig.srtpSecureSignaling = pj.PJMEDIA_SRTP_MANDATORY, 0
    if given.require_100rel:
        config.callConfig.prackUse = pj.PJSUA_100REL_MANDATORY
    config.mediaConfig.transportConfig.boundAddress = "127.0.0.1"
    one = Account(prepare)
    one.create(config)
    return one


class Phone:
    """The whole of it."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.ep = given, endpoint(given)
        self.player: Any = None
        self.recorder: Any = None
        if given.play:
            self.player = pj.AudioMediaPlayer()
            self.player.createPlayer(given.play, pj.PJMEDIA_FILE_NO_LOOP)
        if given.record:
            self.recorder = pj.AudioMediaRecorder()
            self.recorder.createRecorder(given.record)
        self.account = account(given, self.prepare)

    def prepare(self, call: Call) -> Call:
        call.player, call.recorder = self.player, self.recorder
        return call

    def until(self, condition: Callable[[], Any], seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not condition():
            self.ep.libHandleEvents(20)

    def run(self) -> list[dict[str, Any]]:
        if self.given.call:
            call = self.prepare(Call(self.account))
            self.account.calls.append(call)
            call.makeCall(self.given.call, pj.CallOpParam(True))
        else:
            print("listening", file=sys.stderr, flush=True)
        for action in self.given.actions:
            name, _, value = action.partition(":")
            try:
                getattr(self, f"do_{name}")(value)
            except pj.Error as error:  # the other side was quicker
                print(f"{action}: {error.reason}", file=sys.stderr)
        return [
            {
                "states": call.states,
                "status": call.status,
                "codec": call.codec,
                "digits": call.digits,
                "transfer": call.transfer,
                "received": call.received,
                "sent": call.sent,
                "lost": call.lost,
            }
            for call in self.account.calls
        ]

    @property
    def call(self) -> Call:
        return self.account.calls[0]

    def is_over(self) -> bool:
        return bool(self.account.calls) and "DISCONNECTED" in self.call.states

    def do_answered(self, seconds: str) -> None:
        self.until(lambda: self.account.calls and "CONFIRMED" in self.call.states, float(seconds))

    def do_gone(self, seconds: str) -> None:
        self.until(self.is_over, float(seconds))

    def do_stay(self, seconds: str) -> None:
        self.until(lambda: False, float(seconds))

    def do_wait(self, seconds: str) -> None:
        self.until(self.is_over, float(seconds))

    def do_dtmf(self, keys: str) -> None:
        for key in keys:
            self.call.dialDtmf(key)
            self.until(lambda: False, 0.4)

    def do_info(self, keys: str) -> None:
        for key in keys:
            one = pj.CallSendDtmfParam()
            one.method, one.digits = pj.PJSUA_DTMF_METHOD_SIP_INFO, key
            self.call.sendDtmf(one)
            self.until(lambda: False, 0.4)

    def do_hold(self, seconds: str) -> None:
        self.call.setHold(pj.CallOpParam(True))
        self.until(lambda: False, float(seconds))
        self.do_reinvite("")

    def do_reinvite(self, _: str) -> None:
        again = pj.CallOpParam(True)
        again.opt.flag = pj.PJSUA_CALL_UNHOLD
        self.call.reinvite(again)
        self.until(lambda: False, 0.5)

    def do_refer(self, uri: str) -> None:
        self.call.xfer(uri, pj.CallOpParam(True))
        self.until(lambda: any(one >= 200 for one in self.call.transfer), 10)

    def do_hangup(self, _: str) -> None:
        self.call.hangup(pj.CallOpParam(True))
        self.until(self.is_over, 5)


def main() -> None:
    phone = Phone(options())
    seen = phone.run()
    phone.ep.hangupAllCalls()
    phone.until(lambda: False, 0.3)
    print(json.dumps(seen), flush=True)
    sys.stdout.flush()
    os._exit(0)  # the binding's objects must not be finalised after the library


if __name__ == "__main__":
    main()
