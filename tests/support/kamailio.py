"""Kamailio as a PBX of its own: a registrar that asks for passwords, and a proxy that stays in the way of calls."""

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

USER, PASSWORD = "700", "secret"

_CONFIG = """#!KAMAILIO
debug=2
log_stderror=yes
children=2
tcp_children=2
auto_aliases=no
listen=udp:127.0.0.1:{port}
listen=tcp:127.0.0.1:{port}
loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "rr.so"
loadmodule "pv.so"
loadmodule "maxfwd.so"
loadmodule "textops.so"
loadmodule "siputils.so"
loadmodule "usrloc.so"
loadmodule "registrar.so"
loadmodule "auth.so"
modparam("usrloc", "db_mode", 0)
modparam("auth", "algorithm", "{algorithm}")
modparam("auth", "qop", "auth")
modparam("registrar", "max_expires", 60)

request_route {{
    if (!mf_process_maxfwd_header("10")) {{ sl_send_reply("483", "Too Many Hops"); exit; }}
    if (has_totag()) {{
        if (loose_route()) {{ t_relay(); exit; }}
        if (is_method("ACK") && t_check_trans()) {{ t_relay(); exit; }}
        sl_send_reply("404", "Not here");
        exit;
    }}
    if (is_method("CANCEL")) {{ if (t_check_trans()) {{ t_relay(); }} exit; }}
    t_check_trans();
    if (is_method("REGISTER")) {{
        if ($tU == "{user}" && !pv_www_authenticate("$td", "{password}", "0")) {{ www_challenge("$td", "1"); exit; }}
        save("location");
        exit;
    }}
    if (is_method("INVITE")) {{
        if ($fU == "{user}") {{
            if (!pv_proxy_authenticate("$fd", "{password}", "0")) {{ proxy_challenge("$fd", "1"); exit; }}
            consume_credentials();
        }}
        record_route();
    }}
    if (!lookup("location")) {{ sl_send_reply("404", "Nobody"); exit; }}
    t_relay();
}}
"""


@asynccontextmanager
async def pbx(folder: Path, *, port: int, algorithm: str) -> AsyncIterator[None]:
    """Run it, with one extension that needs a password; others need none.

    Args:
        port: UDP and TCP.
        algorithm: of its challenges.
    """
    program = shutil.which("kamailio", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program, "the PBX is missing: run deploy/setup.sh test"
    config = folder / "kamailio.cfg"
    config.write_text(_CONFIG.format(port=port, algorithm=algorithm, user=USER, password=PASSWORD))
    with (folder / "kamailio.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(program, "-f", str(config), "-DD", "-E", "-m", "32", "-M", "8", "-w", str(folder), "-Y", str(folder)),
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        async with asyncio.timeout(20):
            while not _answers(port):
                assert process.returncode is None, (folder / "kamailio.log").read_text()[-2000:]
                await asyncio.sleep(0.05)
        yield
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(10):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


def _answers(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0
