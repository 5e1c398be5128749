"""`fastagent call`: a phone in the terminal."""

import asyncio
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from fastagent.gateway.cli.phone import BasePhone

_ACTIONS = ("--say", "--wav", "--dtmf")

Wire = Literal["twilio", "audiocodes", "sip"]


class OrderedCommand(TyperCommand):
    """Remembers in which order the caller's actions were given."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Note the actions before the parser groups them by name."""
        names = [arg.partition("=")[0] for arg in args]
        ctx.meta["fastagent.actions"] = [name for name in names if name in _ACTIONS]
        return super().parse_args(ctx, args)


@dataclass(frozen=True, slots=True)
class Action:
    """Something that the caller does: `say` or `wav` with audio, or `dtmf` with digits."""

    kind: str
    text: str
    payload: bytes = b""


def call(
    ctx: typer.Context,
    say: Annotated[list[str] | None, typer.Option(help="Say this, once the agent is silent. May be repeated.")] = None,
    wav: Annotated[list[Path] | None, typer.Option(help="Say what is in this WAV file. May be repeated.")] = None,
    dtmf: Annotated[list[str] | None, typer.Option(help="Press these keys. May be repeated.")] = None,
    barge_in_after: Annotated[
        int | None, typer.Option(help="Don't wait: speak this many milliseconds into each answer.", metavar="MS")
    ] = None,
    stay: Annotated[float, typer.Option(help="Stay on the line silently for so long at the end.", metavar="S")] = 0.0,
    record: Annotated[Path | None, typer.Option(help="Write both sides to a stereo WAV file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document at the end.")] = False,
    wire: Annotated[Wire, typer.Option(help="Whose wire to call over.")] = "twilio",
    url: Annotated[
        str | None,
        typer.Option(
            help="The gateway's webhook; for SIP whom to call.",
            show_default="http://127.0.0.1:8000/<wire>/webhook, or sip:front_desk@127.0.0.1",
        ),
    ] = None,
    api: Annotated[str, typer.Option(help="SIP: where the gateway tells of its sessions.")] = "http://127.0.0.1:8000",
    public_url: Annotated[str | None, typer.Option(help="What Twilio would sign, if it is not the URL.")] = None,
    auth_token: Annotated[str | None, typer.Option(envvar="TWILIO_AUTH_TOKEN", help="Signs as Twilio does.")] = None,
    token: Annotated[
        str | None, typer.Option(envvar="AUDIOCODES_API_KEY", help="AudioCodes: the bearer token.")
    ] = None,
    barge_in: Annotated[bool, typer.Option(help="AudioCodes: its own setting, until the gateway changes it.")] = False,
    cut_after: Annotated[
        float | None, typer.Option(help="AudioCodes: lose the connection then, and resume.", metavar="S")
    ] = None,
    user: Annotated[str, typer.Option(help="SIP: the user, if the gateway asks.")] = "",
    password: Annotated[str, typer.Option(envvar="SIP_PASSWORD", help="SIP: the password.")] = "",
    codec: Annotated[list[str] | None, typer.Option(help="SIP: a codec of the phone's. May be repeated.")] = None,
    srtp: Annotated[bool, typer.Option(help="SIP: encrypt media.")] = False,
    tls_ca: Annotated[Path | None, typer.Option(help="SIP: verify TLS by these authorities.")] = None,
    loss: Annotated[float, typer.Option(help="Lose this share of the caller's packets.", min=0, max=1)] = 0.0,
    jitter: Annotated[float, typer.Option(help="Delay each by up to this.", metavar="MS", min=0, max=1000)] = 0.0,
    reorder: Annotated[float, typer.Option(help="Let others overtake this share.", min=0, max=1)] = 0.0,
    duplicate: Annotated[float, typer.Option(help="Send this share twice.", min=0, max=1)] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the four above.")] = 1,
    to: Annotated[str, typer.Option(help="The number that is called.")] = "+15550100002",
    from_: Annotated[str, typer.Option("--from", help="The caller's number.")] = "+15550100001",
) -> None:
    """Call the gateway as a carrier or a softphone would, speak, and listen, over a real socket.

    Actions happen in the order given, each once the agent has fallen silent. Over SIP a bad network works on the
    packets of both sides, over a carrier's socket on what the carrier gets of the caller.
    """
    from fastagent.gateway.cli.phone import CallRefused
    from fastagent.media.rtp.network import Impairments

    actions = _ordered(ctx.meta["fastagent.actions"], say or [], wav or [], dtmf or [])
    url = url or ("sip:front_desk@127.0.0.1" if wire == "sip" else f"http://127.0.0.1:8000/{wire}/webhook")
    network = Impairments(loss, jitter / 1000, reorder, duplicate, seed=seed)
    given: dict[str, Any] = {"from_": from_, "impairments": network}
    if wire == "twilio":
        given |= {"to": to, "auth_token": auth_token, "public_url": public_url}
    elif wire == "audiocodes":
        given |= {"to": to, "token": token, "barge_in": barge_in, "cut_after": cut_after}
    else:
        given |= {"user": user, "password": password, "tls_ca": tls_ca, "srtp": "required" if srtp else "off"}
        given |= {"codecs": _codecs(codec or [])}
    watched = api if wire == "sip" else url
    try:
        report = asyncio.run(
            _call(wire, url, watched, actions, barge_in_after, stay, record, quiet=as_json, given=given)
        )
    except CallRefused as refused:
        _fail(as_json, refused.reason)
    except OSError as error:
        _fail(as_json, f"cannot reach {url}: {error}")
    if as_json:
        typer.echo(json.dumps(report, indent=2))


def _codecs(names: list[str]) -> Any:
    from fastagent.gateway.sip_settings import codecs_of

    try:
        return codecs_of(tuple(names))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--codec") from None


def _fail(as_json: bool, reason: str) -> None:
    if as_json:
        typer.echo(json.dumps({"refused": reason}))
    else:
        typer.echo(f"The call was not taken: {reason}", err=True)
    raise typer.Exit(1)


def _ordered(order: Sequence[str], say: list[str], wav: list[Path], dtmf: list[str]) -> list[Action]:
    from fastagent.media.errors import MediaError
    from fastagent.media.frame import PCMU_8K
    from fastagent.media.resample import resample_block
    from fastagent.media.wav import read_wav

    left: dict[str, list[Any]] = {"--say": list(say), "--wav": list(wav), "--dtmf": list(dtmf)}
    actions = []
    for name in order:
        value = left[name].pop(0)
        if name == "--wav":
            try:
                audio = read_wav(value)
            except (OSError, MediaError) as error:
                raise typer.BadParameter(str(error), param_hint="--wav") from error
            samples = resample_block(audio.samples, audio.rate_hz, PCMU_8K.rate_hz)
            actions.append(Action("wav", f"({value.name})", PCMU_8K.encode(samples)))
        else:
            actions.append(Action(name.removeprefix("--"), str(value)))
    return actions


async def _spoken(actions: list[Action]) -> list[Action]:
    """Synthesise what is to be said before anybody is on the line."""
    if not any(action.kind == "say" for action in actions):
        return actions
    from concurrent.futures import ThreadPoolExecutor

    from fastagent.media.frame import PCMU_8K
    from fastagent.media.speech.embedded_tts import EmbeddedTts
    from fastagent.media.speech.rendering import Renderer

    with ThreadPoolExecutor(os.cpu_count() or 1) as executor:
        tts = EmbeddedTts(executor)
        await tts.warm_up()
        renderer = Renderer(tts)

        async def voice(action: Action) -> Action:
            if action.kind != "say":
                return action
            return Action("say", action.text, (await renderer.render(action.text, PCMU_8K)).payload)

        return [await voice(action) for action in actions]


def _phone(wire: Wire, url: str, given: dict[str, Any]) -> "BasePhone":
    if wire == "audiocodes":
        from fastagent.gateway.cli.audiocodes_phone import AudiocodesPhone

        return AudiocodesPhone(url, **given)
    if wire == "sip":
        from fastagent.gateway.cli.sip_phone import SipPhone

        return SipPhone(url, **given)
    from fastagent.gateway.cli.twilio_phone import TwilioPhone

    return TwilioPhone(url, **given)


async def _call(
    wire: Wire,
    url: str,
    watched: str,
    actions: list[Action],
    barge_in_after: int | None,
    stay: float,
    record: Path | None,
    *,
    quiet: bool,
    given: dict[str, Any],
) -> dict[str, Any]:
    from fastagent.gateway.cli.display import Display
    from fastagent.gateway.cli.watch import Watcher

    actions = await _spoken(actions)
    display = Display(silent=quiet)
    display.calling(url)
    async with _phone(wire, url, given) as phone:
        display.connected(phone.call_sid)
        async with Watcher(watched, phone.call_sid, display.turn) as watcher:
            await phone.agent_quiet() if barge_in_after is None else await _into(phone, barge_in_after)
            for action in actions:
                if phone.closed.is_set():
                    break
                await watcher.look()
                display.caller(action.kind, action.text)
                if action.kind == "dtmf":
                    await phone.press(action.text)
                else:
                    phone.say(action.payload)
                    await phone.said()
                last = action is actions[-1]
                await (phone.agent_quiet() if barge_in_after is None or last else _into(phone, barge_in_after))
            if stay:
                try:
                    async with asyncio.timeout(stay):
                        await phone.closed.wait()
                except TimeoutError:
                    pass
            await phone.hang_up()
            session = await watcher.final()
    if record is not None:
        _write(record, phone)
    report = _report(phone, session)
    display.summary(report)
    return report


async def _into(phone: Any, milliseconds: int) -> None:
    """Wait until the agent has been speaking for so long."""
    try:
        async with asyncio.timeout(15.0):
            await phone.agent_started.wait()
    except TimeoutError:
        return
    await asyncio.sleep(milliseconds / 1000)


def _write(record: Path, phone: Any) -> None:
    from fastagent.media.frame import PCMU_8K
    from fastagent.media.wav import write_wav

    sides = [PCMU_8K.decode(bytes(side)) for side in (phone.caller_audio, phone.agent_audio)]
    write_wav(record, sides, PCMU_8K.rate_hz)


def _report(phone: Any, session: dict[str, Any] | None) -> dict[str, Any]:
    def ms(seconds: float | None) -> float | None:
        return None if seconds is None else round(seconds * 1000, 1)

    timings = phone.timings
    return {
        "call_sid": phone.call_sid,
        "ended_by": phone.ended_by,
        "duration_s": round(len(phone.caller_audio) / 8000, 2),
        "first_audio_ms": ms(timings.first_audible),
        "response_ms": [ms(one) for one in timings.response],
        "onset_to_clear_ms": [ms(one) for one in timings.onset_to_clear],
        "holes_ms": [ms(one) for one in timings.holes],
        "wire": phone.wire(),
        "phone_late_ms": ms(timings.max_late),
        "session": session,
    }
