"""The line to a trunk: which addresses its name stands for, and our registration there."""

import asyncio
import logging
from collections.abc import Callable, Iterable

from fastagent.connectors.sip.actions import Registered, RegistrationFailed
from fastagent.connectors.sip.config import Trunk
from fastagent.connectors.sip.flow import address_of
from fastagent.connectors.sip.names import KEEP_S, Names
from fastagent.connectors.sip.registration import Registrar

_log = logging.getLogger(__name__)

_RETRY_S = 15.0


class TrunkLine:
    """One trunk.

    Args:
        trunk: its settings.
        names: where names are.
        trust: told of the addresses that its calls come from.
        register, unregister: the user agent's; the first returns the registration's id.
        on_registered: told when we are registered, and when not any more.
    """

    def __init__(
        self,
        trunk: Trunk,
        *,
        names: Names,
        trust: Callable[[Iterable[str]], None],
        register: Callable[[Registrar], str],
        unregister: Callable[[str], None],
        on_registered: Callable[[bool], None],
    ) -> None:
        self.trunk, self._names = trunk, names
        self._trust, self._register, self._unregister = trust, register, unregister
        self._on_registered = on_registered
        self._registration = ""
        self.registered = False
        self.refused: int | None = None
        """The status of a refusal that is final: a wrong password, for one."""
        self._forgotten = asyncio.Event()
        self._task = asyncio.create_task(self._keep(), name="sip-trunk")

    async def _keep(self) -> None:
        while True:
            found = await self._resolve()
            if found and self.trunk.register and not self._registration:
                self._registration = self._register(self._registrar())
            await asyncio.sleep(KEEP_S if found else _RETRY_S)

    async def _resolve(self) -> bool:
        """Trust what the trunk's names stand for; what cannot be resolved stays what it was."""
        addresses: set[str] = set()
        for place in {address_of(self.trunk.uri), self.trunk.hop}:
            try:
                addresses.update(one.host for one in await self._names.find(place))
            except (OSError, TimeoutError, UnicodeError) as error:
                _log.warning("the trunk's name has no address", extra={"error": type(error).__name__})
        if addresses:
            self._trust(addresses)
        return bool(addresses)

    def _registrar(self) -> Registrar:
        trunk = self.trunk
        assert trunk.credentials is not None  # a trunk that is registered at has a user
        return Registrar(trunk.uri.host, trunk.credentials, trunk.hop)

    def registration_changed(self, event: Registered | RegistrationFailed) -> None:
        """The user agent tells of our registration."""
        if event.registration != self._registration:
            return
        if isinstance(event, Registered):
            if not event.expires_s:
                self._forgotten.set()
            elif not self.registered:
                _log.info("registered at the trunk", extra={"expires_s": event.expires_s})
            self.registered, self.refused = bool(event.expires_s), None
        else:
            self._forgotten.set()
            _log.warning("not registered at the trunk", extra={"status": event.status, "again_in_s": event.retry_s})
            self.registered = False
            self.refused = event.status if event.retry_s is None else None
        self._on_registered(self.registered)

    async def aclose(self, patience_s: float) -> None:
        """Have ourselves forgotten there, and stop."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if not self.registered:
            return
        self._unregister(self._registration)
        try:
            async with asyncio.timeout(patience_s):
                await self._forgotten.wait()
        except TimeoutError:
            _log.warning("the trunk did not confirm that it has forgotten us")
