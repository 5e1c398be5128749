"""A baresip softphone in a process of its own: dials, speaks a WAV, records what it hears, does as it is told.

    python -m tests.support.baresip_phone URI CODEC IN.wav OUT.wav ACTION...

Actions: `wait:S`, `dtmf:KEYS`, `hold:S`, `hangup`. Prints one JSON document: the stack's own account of the call.
"""

import asyncio
import json
import sys
from typing import Any

import baresip


async def main(uri: str, codec: str, speaks: str, records: str, *actions: str) -> dict[str, Any]:
    runtime = baresip.Runtime()
    await runtime.start(
        baresip.Config(net_interface="127.0.0.1", audio_source=f"aufile,{speaks}", audio_player=f"aufile,{records}")
    )
    try:
        account = baresip.Account(user="phone", domain="127.0.0.1", password="", reg_interval=0, audio_codecs=(codec,))
        ua = await baresip.UserAgent.create(runtime, account)
        call = await ua.dial(uri, headers={"X-Order": "42"})
        await call.wait_established(10.0)
        ended = "by the agent"
        try:
            for action in actions:
                await do(call, action)
            await call.hangup()
            ended = "by the phone"
        except baresip.StaleHandleError:
            pass
        await asyncio.sleep(0.5)
        return {"ended": ended, "stats": str(call.final_stats)}
    finally:
        await runtime.close()


async def do(call: Any, action: str) -> None:
    name, _, value = action.partition(":")
    if name == "wait":
        await asyncio.sleep(float(value))
    elif name == "dtmf":
        await call.send_dtmf(value)
    elif name == "hold":
        await call.hold()
        await asyncio.sleep(float(value))
        await call.resume()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(*sys.argv[1:]))))
