"""A baresip softphone in a process of its own: dials, speaks a WAV, records what it hears, does as it is told.

    python -m tests.support.baresip_phone URI --play IN.wav --record OUT.wav [--codec NAME] [--ca FILE]
                                          [--user USER --password PASSWORD] ACTION...

Actions: `wait:S`, `dtmf:KEYS`, `hold:S`, `follow:S` (do as a transfer asks within so many seconds, and stay for two).
Prints one JSON document: the stack's own account of the call.
"""

import argparse
import asyncio
import json
from typing import Any

import baresip


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("uri")
    for name in ("play", "record", "codec", "ca", "user", "password"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("actions", nargs="*")
    return parser.parse_intermixed_args()


class Early:
    """What the stack tells of a call before the binding has an object for it: a gateway may be quicker than that."""

    def __init__(self, runtime: Any) -> None:
        self.events: list[Any] = []
        runtime.subscribe(self.events.append)

    def told(self, call: Any) -> Any:
        """Tell the call, which has just been made, what it has missed."""
        for event in [one for one in self.events if one.call == call._handle]:
            call._on_stack_event(event)
        return call


class Phone:
    """One call."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.call: Any = None
        self.early: Any = None
        self.followed = ""

    async def run(self) -> dict[str, Any]:
        given = self.given
        runtime = baresip.Runtime()
        verify = f"sip_cafile {given.ca}\nsip_verify_server yes\n" if given.ca else ""
        await runtime.start(
            baresip.Config(
                net_interface="127.0.0.1",
                audio_source=f"aufile,{given.play}",
                audio_player=f"aufile,{given.record}",
                extra_config_text=verify,
            )
        )
        try:
            ua = await baresip.UserAgent.create(runtime, self.account())
            self.early = Early(runtime)
            self.call = self.early.told(await ua.dial(given.uri, headers={"X-Order": "42"}))
            first = self.call
            try:
                await self.call.wait_established(10.0)
            except (baresip.BaresipError, TimeoutError) as error:
                return {"ended": f"not answered: {error}"}
            ended = await self.talk()
            await asyncio.sleep(0.5)
            return {"ended": ended, "stats": str(first.final_stats), "followed": self.followed}
        finally:
            await runtime.close()

    def account(self) -> baresip.Account:
        given = self.given
        return baresip.Account(
            user=given.user or "phone",
            domain="127.0.0.1",
            password=given.password,
            reg_interval=0,
            audio_codecs=(given.codec or "pcmu",),
            transport="tls" if "transport=tls" in given.uri else "udp",
        )

    async def talk(self) -> str:
        try:
            for action in self.given.actions:
                name, _, value = action.partition(":")
                await getattr(self, f"do_{name}")(value)
            await self.call.hangup()
        except baresip.StaleHandleError:
            return "by the agent"
        return "by the phone"

    async def do_wait(self, seconds: str) -> None:
        await asyncio.sleep(float(seconds))

    async def do_dtmf(self, keys: str) -> None:
        await self.call.send_dtmf(keys)

    async def do_hold(self, seconds: str) -> None:
        await self.call.hold()
        await asyncio.sleep(float(seconds))
        await self.call.resume()

    async def do_follow(self, seconds: str) -> None:
        async with asyncio.timeout(float(seconds)):
            while self.call.transfer_request is None:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        self.followed = self.call.transfer_request.target
        self.call = self.early.told(await self.call.accept_transfer())
        await self.call.wait_established(10.0)
        await asyncio.sleep(2)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(Phone(options()).run())))
