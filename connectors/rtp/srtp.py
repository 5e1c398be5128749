"""SRTP with keys from the SDP (RFC 3711, RFC 4568, RFC 7714), through libsrtp: one session per direction.

A session outlives re-INVITEs that leave its key alone. Its counters are part of the key stream: a second session with
the same key and SSRC would encrypt different audio with the same stream, which gives both away.
"""

from collections.abc import Mapping
from typing import Any

SUITES: Mapping[str, int] = {
    "AES_CM_128_HMAC_SHA1_80": 30,
    "AES_CM_128_HMAC_SHA1_32": 30,
    "AEAD_AES_128_GCM": 28,
    "AEAD_AES_256_GCM": 44,
}
"""Bytes of master key and salt, by suite."""


class SrtpError(Exception):
    """A suite that is none of ours, or no key."""


def _session(suite: str, key: bytes, *, outbound: bool) -> Any:
    from pylibsrtp import Policy, Session

    if len(key) != SUITES.get(suite):
        raise SrtpError(f"no suite {suite!r:.60} with keys of {len(key)} bytes; {', '.join(SUITES)} are supported")
    profile = {
        "AES_CM_128_HMAC_SHA1_80": Policy.SRTP_PROFILE_AES128_CM_SHA1_80,
        "AES_CM_128_HMAC_SHA1_32": Policy.SRTP_PROFILE_AES128_CM_SHA1_32,
        "AEAD_AES_128_GCM": Policy.SRTP_PROFILE_AEAD_AES_128_GCM,
        "AEAD_AES_256_GCM": Policy.SRTP_PROFILE_AEAD_AES_256_GCM,
    }[suite]
    kind = Policy.SSRC_ANY_OUTBOUND if outbound else Policy.SSRC_ANY_INBOUND
    return Session(policy=Policy(key=key, ssrc_type=kind, srtp_profile=profile))


class SrtpSender:
    """Our direction.

    Args:
        suite, key: one of `SUITES`, and master key with salt.

    Raises:
        SrtpError: these cannot be had.
    """

    def __init__(self, suite: str, key: bytes) -> None:
        self._session = _session(suite, key, outbound=True)

    def protect(self, packet: bytes) -> bytes:
        """Encrypt RTP."""
        return bytes(self._session.protect(packet))

    def protect_rtcp(self, packet: bytes) -> bytes:
        """Encrypt RTCP."""
        return bytes(self._session.protect_rtcp(packet))


class SrtpReceiver:
    """The other side's direction; arguments and errors as for `SrtpSender`."""

    def __init__(self, suite: str, key: bytes) -> None:
        self._session = _session(suite, key, outbound=False)

    def unprotect(self, packet: bytes) -> bytes | None:
        """Decrypt RTP; None for what is not authentic, or was there before."""
        return self._opened(self._session.unprotect, packet)

    def unprotect_rtcp(self, packet: bytes) -> bytes | None:
        """Decrypt RTCP; None as above."""
        return self._opened(self._session.unprotect_rtcp, packet)

    @staticmethod
    def _opened(operation: Any, packet: bytes) -> bytes | None:
        from pylibsrtp import Error

        try:
            return bytes(operation(packet))
        except (Error, ValueError):
            return None
