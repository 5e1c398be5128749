"""TLS contexts: ours as a server, whose certificate may be renewed while it runs, and ours as a client."""

import logging
import ssl
from pathlib import Path

from fastagent.connectors.sip.config import TlsFiles

_log = logging.getLogger(__name__)


class ServerTls:
    """Our certificate.

    Raises:
        OSError: a file cannot be read (`ssl.SSLError` is one: the key does not fit).
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._read_at = self._changed_at()
        self.context = self._fresh()

    def _fresh(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._load(context)
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        # The password stands in for a prompt, at which a service would wait for ever.
        context.load_cert_chain(self._files.certificate, self._files.key, password="")

    def _changed_at(self) -> tuple[float, float]:
        return self._files.certificate.stat().st_mtime, self._files.key.stat().st_mtime

    def refresh(self) -> None:
        """Read the files again, if they have changed; new connections get the new certificate."""
        try:
            changed_at = self._changed_at()
            if changed_at != self._read_at:
                self._fresh()  # whether they fit together, before live calls depend on it
                self._load(self.context)
                self._read_at = changed_at
                _log.info("the SIP certificate was renewed")
        except OSError as error:  # half written, perhaps: the old one is still good
            _log.warning("the SIP certificate cannot be read again", extra={"error": type(error).__name__})


def client_tls(authorities: Path | None) -> ssl.SSLContext:
    """Return how servers are verified: by name, and by these authorities or the system's."""
    context = ssl.create_default_context(cafile=str(authorities) if authorities else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
