"""The SIP settings, looked at by `fastagent doctor`: files, names, ports, and whether the trunk answers."""

import asyncio
import secrets
import socket
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from fastagent.gateway.cli.finding import Finding

if TYPE_CHECKING:
    from fastagent.connectors.sip.config import SipConfig, Trunk
    from fastagent.connectors.sip.message import Response
    from fastagent.connectors.sip.names import Names

_PATIENCE_S = 3.0
_REPEAT_S = 0.5
_SOON = timedelta(days=14)


async def check_sip(settings: Any) -> list[Finding]:
    """Look at everything that calls by SIP need."""
    from fastagent.gateway.sip_settings import sip_config

    if not settings.sip_host:
        return [Finding("SIP", "note", "SIP_HOST is empty: off")]
    try:
        config = sip_config(settings)
    except ValueError as error:
        return [Finding("SIP", "error", str(error))]
    found = [_port(config), await _told(config), _media_ports(config, settings.max_sessions)]
    if config.tls is not None:
        found.append(_certificate(config))
    if config.hold_music is not None:
        found.append(_music(config))
    if config.trunk is not None:
        found.append(await _trunk(config, config.trunk))
    return found


def _port(config: "SipConfig") -> Finding:
    family = socket.AF_INET6 if config.ipv6 else socket.AF_INET
    wanted = [(socket.SOCK_DGRAM, config.port), (socket.SOCK_STREAM, config.port)]
    if config.tls is not None:
        wanted.append((socket.SOCK_STREAM, config.tls_port))
    for kind, port in wanted:
        with socket.socket(family, kind) as one:
            if kind == socket.SOCK_STREAM:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind((config.host, port))
            except OSError as error:
                text = f"{config.host}:{port} cannot be used: {error.strerror} (is a gateway running?)"
                return Finding("SIP", "warning", text)
    tls = f", TLS on {config.tls_port}" if config.tls is not None else ""
    return Finding("SIP", "ok", f"{config.host}:{config.port} is free{tls}; calls from {_callers(config)}")


def _callers(config: "SipConfig") -> str:
    who = ["this machine"] * config.trust_loopback + [str(one) for one in config.trusted]
    who += ["the trunk"] * (config.trunk is not None)
    who += [f"{len(config.users)} users with passwords"] * bool(config.users)
    return ", ".join(who) or "nobody"


async def _told(config: "SipConfig") -> Finding:
    """The address that phones are told for their media."""
    from fastagent.connectors.sip.names import own_address, resolved

    name = config.public_host or own_address(config.host)
    try:
        address = (await resolved(name, ipv6=config.ipv6))[0]
    except (OSError, TimeoutError, UnicodeError):
        return Finding("SIP address", "error", f"{name} has no address")
    if config.public_host is None and config.host in ("0.0.0.0", "::"):
        text = f"phones are told {address}; behind NAT set SIP_PUBLIC_HOST"
        return Finding("SIP address", "note", text)
    return Finding("SIP address", "ok", f"phones are told {address}")


def _media_ports(config: "SipConfig", calls: int) -> Finding:
    low, high = config.rtp_ports
    pairs = len(range(low + low % 2, high, 2))
    text = f"{low}-{high}: {pairs} pairs for {calls} calls"
    if pairs < calls:
        return Finding("RTP ports", "warning", f"{text}; widen RTP_PORTS, or lower MAX_SESSIONS")
    return Finding("RTP ports", "ok", text)


def _certificate(config: "SipConfig") -> Finding:
    from cryptography import x509

    from fastagent.connectors.sip.tls import ServerTls, client_tls

    assert config.tls is not None
    try:
        ServerTls(config.tls)
        client_tls(config.tls_ca)
        one = x509.load_pem_x509_certificate(config.tls.certificate.read_bytes())
    except (OSError, ValueError) as error:
        return Finding("SIP TLS", "error", f"the files cannot be used: {type(error).__name__}: {error}")
    left = one.not_valid_after_utc - datetime.now(UTC)
    text = f"{config.tls.certificate} is good until {one.not_valid_after_utc:%Y-%m-%d}"
    if left <= timedelta():
        return Finding("SIP TLS", "error", f"{config.tls.certificate} has expired")
    return Finding("SIP TLS", "warning" if left < _SOON else "ok", text)


def _music(config: "SipConfig") -> Finding:
    from fastagent.connectors.sip.hold_music import HoldMusic
    from fastagent.media.errors import MediaError

    try:
        HoldMusic(config.hold_music)
    except (OSError, MediaError) as error:
        return Finding("SIP hold music", "error", f"{config.hold_music}: {error}")
    return Finding("SIP hold music", "ok", str(config.hold_music))


async def _trunk(config: "SipConfig", trunk: "Trunk") -> Finding:
    """Ask it how it is (OPTIONS). Some answer nobody whom they do not know: that is no error."""
    from fastagent.connectors.sip.names import Names

    where, names = str(trunk.hop), Names(ipv6=config.ipv6)
    try:
        places = [f"{place.host}:{place.port}" for place in await names.find(trunk.hop)]
        if places != [f"{trunk.hop.host}:{trunk.hop.port}"]:
            where += f" ({', '.join(places)})"
        answer = await _options(config, trunk, names)
    except (OSError, TimeoutError, UnicodeError) as error:
        return Finding("SIP trunk", "error", f"{where} cannot be reached: {error or type(error).__name__}")
    if answer is None:
        return Finding("SIP trunk", "warning", f"{where} does not answer OPTIONS within {_PATIENCE_S:.0f} s")
    return Finding("SIP trunk", "ok", f"{where} answers ({answer.status})")


async def _options(config: "SipConfig", trunk: "Trunk", names: "Names") -> "Response | None":
    """Return the answer to OPTIONS; None if there is none.

    Raises:
        OSError, TimeoutError: the trunk has no address, or takes no connection.
    """
    from functools import partial

    from fastagent.connectors.sip.actions import Transport
    from fastagent.connectors.sip.grammar import Malformed
    from fastagent.connectors.sip.headers import Headers
    from fastagent.connectors.sip.message import Request, Response, parse
    from fastagent.connectors.sip.names import own_address
    from fastagent.connectors.sip.tls import client_tls
    from fastagent.connectors.sip.transports import Transports
    from fastagent.connectors.sip.uri import sip_uri

    hop = trunk.hop
    answered: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

    def received(data: bytes, source: tuple[str, int], transport: Transport) -> None:
        try:
            message = parse(data)
        except Malformed:
            return
        if isinstance(message, Response) and message.status >= 200 and not answered.done():
            answered.set_result(message)

    def failed(to: object) -> None:
        if not answered.done():
            answered.set_exception(ConnectionError("refused, or not verified"))

    transports = Transports(received, failed, names, client_tls=partial(client_tls, config.tls_ca))
    await transports.open(config.host, 0)
    try:
        us = sip_uri("doctor", config.public_host or own_address(config.host), transports.ports["udp"])
        token = secrets.token_hex(8)
        asked = Request(
            "OPTIONS",
            str(trunk.uri),
            Headers(
                (
                    ("Via", f"SIP/2.0/{hop.transport.upper()} {us.host}:{us.port};branch=z9hG4bK{token};rport"),
                    ("Max-Forwards", "70"),
                    ("From", f"<{us}>;tag={token}"),
                    ("To", f"<{trunk.uri}>"),
                    ("Call-ID", token),
                    ("CSeq", "1 OPTIONS"),
                )
            ),
        )
        async with asyncio.timeout(_PATIENCE_S):
            while not answered.done():
                transports.send(bytes(asked), hop)
                await asyncio.wait((answered,), timeout=_REPEAT_S if hop.transport == "udp" else _PATIENCE_S)
        return answered.result()
    except TimeoutError:
        return None
    finally:
        await transports.aclose()
