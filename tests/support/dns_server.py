"""A real DNS server (dnsmasq) that knows what a test says and nothing else."""

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial

import dns.asyncresolver
import dns.exception

from fastagent.connectors.sip.names import Lookup, services


@asynccontextmanager
async def dns_server(records: Iterable[str]) -> AsyncIterator[Lookup]:
    """Run it; what comes is asked in place of the machine's own.

    Args:
        records: SRV, as `_sip._udp.domain,target,port,priority,weight`.
    """
    program = shutil.which("dnsmasq", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program, "the DNS server is missing: run deploy/setup.sh test"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        program, "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--no-daemon",
        f"--port={port}", "--listen-address=127.0.0.1", "--bind-interfaces", "--local=/test/",
        *(f"--srv-host={record}" for record in records),
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = ["127.0.0.1"], port
    try:
        async with asyncio.timeout(10):
            while process.returncode is None:
                try:
                    await resolver.resolve("anything.test.", lifetime=0.2)
                except dns.exception.Timeout:
                    continue
                except dns.resolver.NXDOMAIN:
                    break
        yield partial(services, resolver=resolver)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
