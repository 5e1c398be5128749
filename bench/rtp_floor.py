"""The floor to compare RTP with: a task per call that sends silence on its own deadlines and throws away what comes.

    python -m bench.rtp_floor CALLS

No signalling, no codec, no jitter buffer, no voice activity: what asyncio itself asks for.
"""

import asyncio
import socket
import struct
import sys

import uvloop

from bench.rtp_load import FLOOR_PEER, FLOOR_PORT, HOST

_HEADER = struct.Struct("!BBHII")
_SILENCE = b"\xff" * 160


async def call(number: int) -> None:
    """Serve one call."""
    loop = asyncio.get_running_loop()
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.setblocking(False)
    one.bind((HOST, FLOOR_PORT + 2 * number))

    def read() -> None:
        while True:
            try:
                one.recvfrom(2048)
            except OSError:
                return

    loop.add_reader(one, read)
    at, due = 0, loop.time()
    while True:
        data = _HEADER.pack(0x80, 0, at & 0xFFFF, at * 160 & 0xFFFFFFFF, number + 1) + _SILENCE
        try:
            one.sendto(data, (HOST, FLOOR_PEER + 2 * number))
        except OSError:
            pass
        at, due = at + 1, due + 0.02
        await asyncio.sleep(max(0.0, due - loop.time()))


async def main(calls: int) -> None:
    """Serve all of them until killed."""
    tasks = []
    for number in range(calls):
        tasks.append(asyncio.create_task(call(number)))
        await asyncio.sleep(0.0137)  # their deadlines are spread
    await asyncio.gather(*tasks)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(int(sys.argv[1])))
