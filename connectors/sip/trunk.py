"""The line to a trunk: which addresses its name stands for, our registration there, and whether it answers."""

import asyncio
import logging
from collections.abc import Callable

from fastagent.connectors.sip.actions import Action, PeerProbed, Registered, RegistrationFailed
from fastagent.connectors.sip.config import Trunk
from fastagent.connectors.sip.flow import address_of
from fastagent.connectors.sip.names import KEEP_S, Names
from fastagent.connectors.sip.registration import Registrar
from fastagent.connectors.sip.user_agent import UserAgent

_log = logging.getLogger(__name__)

_RETRY_S = 15.0


class TrunkLine:
    """One trunk.

    Args:
        trunk: its settings.
        agent: who registers and asks; its calls from the trunk's addresses need no password.
        perform: carries out what the agent says.
        names: where names are.
        on_registered: told when we are registered, and when not any more.
        on_probed: told whether the trunk answers, each time that it was asked.
    """

    def __init__(
        self,
        trunk: Trunk,
        agent: UserAgent,
        perform: Callable[[list[Action]], None],
        names: Names,
        *,
        on_registered: Callable[[bool], None],
        on_probed: Callable[[bool], None],
    ) -> None:
        self.trunk, self._agent, self._perform, self._names = trunk, agent, perform, names
        self._on_registered, self._on_probed = on_registered, on_probed
        self.addresses: frozenset[str] = frozenset()
        """What its names stand for."""
        self._registration = self._probe = ""  # the user agent's names for them
        self._registered = False
        self._refused: int | None = None
        """The status of a refusal that is final: a wrong password, for one."""
        self._answers: bool | None = None
        """Whether it takes calls, by its last answer to OPTIONS; None: it was not asked yet."""
        self._forgotten = asyncio.Event()
        self._task = asyncio.create_task(self._keep(), name="sip-trunk")

    async def _keep(self) -> None:
        while True:
            found = await self._resolve()
            if found:
                self._begin()
            await asyncio.sleep(KEEP_S if found else _RETRY_S)

    def _begin(self) -> None:
        """Register and ask, if that is wanted and was not begun."""
        trunk, agent, now = self.trunk, self._agent, asyncio.get_running_loop().time()
        if trunk.register and not self._registration:
            self._registration, actions = agent.register(self._registrar(), now)
            self._perform(actions)
        if trunk.probe_s and not self._probe:
            self._probe, actions = agent.probe(trunk.uri, trunk.hop, trunk.probe_s, now)
            self._perform(actions)

    async def _resolve(self) -> bool:
        """Trust what the trunk's names stand for; what cannot be resolved stays what it was."""
        addresses: set[str] = set()
        for place in {address_of(self.trunk.uri), self.trunk.hop}:
            try:
                addresses.update(one.host for one in await self._names.find(place))
            except (OSError, TimeoutError, UnicodeError) as error:
                _log.warning("the trunk's name has no address", extra={"error": type(error).__name__})
        if addresses:
            self.addresses = frozenset(addresses)
            self._agent.trust(addresses)
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
            elif not self._registered:
                _log.info("registered at the trunk", extra={"expires_s": event.expires_s})
            self._registered, self._refused = bool(event.expires_s), None
        else:
            self._forgotten.set()
            _log.warning("not registered at the trunk", extra={"status": event.status, "again_in_s": event.retry_s})
            self._registered = False
            self._refused = event.status if event.retry_s is None else None
        self._on_registered(self._registered)

    def probed(self, event: PeerProbed) -> None:
        """The user agent has asked whether the trunk is there."""
        if event.probe != self._probe:
            return
        before, self._answers = self._answers, event.ok
        if event.ok is not before:
            text = "the trunk answers" if event.ok else "the trunk does not answer, or takes no calls"
            _log.log(logging.INFO if event.ok else logging.WARNING, text, extra={"status": event.status})
        self._on_probed(event.ok)

    @property
    def weaknesses(self) -> list[str]:
        """What of it does not work."""
        found = []
        if self._refused is not None:
            found.append(f"the SIP trunk refuses our registration with {self._refused}")
        if self._answers is False:
            found.append("the SIP trunk does not answer, or takes no calls")
        return found

    async def aclose(self, patience_s: float) -> None:
        """Have ourselves forgotten there, and stop."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._agent.stop_probe(self._probe)
        if not self._registered:
            return
        self._perform(self._agent.unregister(self._registration, asyncio.get_running_loop().time()))
        try:
            async with asyncio.timeout(patience_s):
                await self._forgotten.wait()
        except TimeoutError:
            _log.warning("the trunk did not confirm that it has forgotten us")
