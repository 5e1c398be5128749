"""A real DNS server (dnsmasq) that knows what a test says and nothing else."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from functools import partial

import dns.asyncresolver
import dns.exception

from fastagent.connectors.sip.names import Lookup, services
from tests.support.process import free_port

_TRIES = 5


@asynccontextmanager
async def dns_server(records: Collection[str]) -> AsyncIterator[Lookup]:
    """Run it; what comes is asked in place of the machine's own.

    Args:
        records: SRV, as `_sip._udp.domain,target,port,priority,weight`.
    """
    program = shutil.which("dnsmasq", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program, "the DNS server is missing: run deploy/setup.sh test"
    for _ in range(_TRIES):
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers, resolver.port = ["127.0.0.1"], free_port()
        process = await asyncio.create_subprocess_exec(
            program, "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--no-daemon",
            f"--port={resolver.port}", "--listen-address=127.0.0.1", "--bind-interfaces", "--local=/test/",
            *(f"--srv-host={record}" for record in records),
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            if await _answers(process, resolver):
                yield partial(services, resolver=resolver)
                return
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()
    raise AssertionError("the DNS server does not start")


async def _answers(process: asyncio.subprocess.Process, resolver: dns.asyncresolver.Resolver) -> bool:
    """Return when it answers; False where it has ended: its port, of UDP and TCP, was somebody else's."""
    async with asyncio.timeout(10):
        while process.returncode is None:
            try:
                await resolver.resolve("anything.test.", lifetime=0.2)
            except dns.resolver.NXDOMAIN:
                return True
            except dns.exception.DNSException:
                await asyncio.sleep(0.02)
    return False
