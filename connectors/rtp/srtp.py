"""SRTP with keys from the SDP (RFC 3711, RFC 4568), through libsrtp."""

import base64
import binascii
import secrets
from typing import Any

SUITES = ("AES_CM_128_HMAC_SHA1_80", "AES_CM_128_HMAC_SHA1_32")
_KEY_BYTES = 30  # 16 of key, 14 of salt


class SrtpError(Exception):
    """A suite that is none of ours, or no key."""


def new_key() -> str:
    """Return a fresh key as `inline:` wants it."""
    return base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()


def _bytes(key: str) -> bytes:
    try:
        found = base64.b64decode(key.partition("|")[0], validate=True)
    except (binascii.Error, ValueError):
        raise SrtpError("the key is no base64") from None
    if len(found) != _KEY_BYTES:
        raise SrtpError(f"a key has {_KEY_BYTES} bytes, not {len(found)}")
    return found


class Srtp:
    """One call's two directions.

    Args:
        suite: one of `SUITES`.
        ours, theirs: the keys, base64; what follows a `|` is not used.

    Raises:
        SrtpError: these cannot be had.
    """

    def __init__(self, suite: str, *, ours: str, theirs: str) -> None:
        if suite not in SUITES:
            raise SrtpError(f"{suite!r:.60} is not supported; {', '.join(SUITES)} are")
        self._out = self._session(suite, _bytes(ours), outbound=True)
        self._in = self._session(suite, _bytes(theirs), outbound=False)

    @staticmethod
    def _session(suite: str, key: bytes, *, outbound: bool) -> Any:
        from pylibsrtp import Policy, Session

        kind = Policy.SSRC_ANY_OUTBOUND if outbound else Policy.SSRC_ANY_INBOUND
        profile = (
            Policy.SRTP_PROFILE_AES128_CM_SHA1_80 if suite.endswith("80") else Policy.SRTP_PROFILE_AES128_CM_SHA1_32
        )
        return Session(policy=Policy(key=key, ssrc_type=kind, srtp_profile=profile))

    def protect(self, packet: bytes) -> bytes:
        """Encrypt RTP."""
        return bytes(self._out.protect(packet))

    def protect_rtcp(self, packet: bytes) -> bytes:
        """Encrypt RTCP."""
        return bytes(self._out.protect_rtcp(packet))

    def unprotect(self, packet: bytes) -> bytes | None:
        """Decrypt RTP; None for what is not authentic, or was there before."""
        return self._opened(self._in.unprotect, packet)

    def unprotect_rtcp(self, packet: bytes) -> bytes | None:
        """Decrypt RTCP; None as above."""
        return self._opened(self._in.unprotect_rtcp, packet)

    @staticmethod
    def _opened(operation: Any, packet: bytes) -> bytes | None:
        from pylibsrtp import Error

        try:
            return bytes(operation(packet))
        except (Error, ValueError):
            return None
