"""What the AudioCodes connector is told, and how calls find their agent."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastagent.connectors.audiocodes.auth import OAuthOptions
from fastagent.connectors.audiocodes.departure import LegOptions

SURFACE = "audiocodes"
PATH = "/audiocodes/webhook"
_PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,61}")


@dataclass(slots=True)
class AudiocodesConfig:
    """Settings of one gateway's connector.

    Attributes:
        webhook_url: the public URL, as configured at VoiceAI Connect; a path alone will do.
        public_base_url: origin of the URLs that the chat mode hands out, if `webhook_url` names none.
        api_key: the token that both sides share.
        oauth: the check of access tokens, beside it or instead.
        agents: agent id per called number, host of the called address, or bot name.
        barge_in: whether VoiceAI Connect is asked to let callers interrupt.
        session_params: more that it is asked for at the start of a conversation.
        start_s: how long a conversation waits for its `start`, which names the called number.
        ping_s: a silent peer is pinged this often, and gone when it takes half as long to answer; None: never.
        expires_s: chat mode: a conversation without any request for half as long again is over.
        answer_s: chat mode: the longest that an answer may take.
        asynchronous: chat mode: whether a WebSocket is offered for what the agent says by itself.
    """

    webhook_url: str = PATH
    public_base_url: str | None = None
    api_key: str | None = None
    oauth: OAuthOptions | None = None
    agents: dict[str, str] = field(default_factory=dict)
    barge_in: bool = True
    session_params: dict[str, Any] = field(default_factory=dict)
    leg: LegOptions = field(default_factory=LegOptions)
    start_s: float = 1.0
    ping_s: float | None = 8.0
    expires_s: int = 120
    answer_s: float = 40.0
    asynchronous: bool = True

    def asked(self, *, voice: bool) -> dict[str, Any]:
        """What a conversation is asked for: keys, the events that we use, and not to hang up by itself on callers whom
        we listen to."""
        asked: dict[str, Any] = {"bargeIn": self.barge_in, "sendDTMF": True}
        if voice:
            asked |= {"sendEventsToBot": ["playFinished"], "userNoInputGiveUpTimeoutMS": 0}
        else:
            asked["sendEventsToBot"] = ["noUserInput"]
        return asked | self.session_params

    def agent_for(self, names: Iterable[str]) -> str | None:
        """Return the agent that is registered for the first of these names."""
        return next((self.agents[name] for name in names if name and name in self.agents), None)


def called(parameters: Mapping[str, str], bot_name: str) -> list[str]:
    """What a call may be registered by, the most particular first."""
    callee, host = parameters.get("callee", ""), parameters.get("calleeHost", "")
    return [f"{callee}@{host}", callee, bot_name, host]


def session_id(conversation_id: str) -> str:
    """The id of a conversation's session: the same on every node, so that it can be found when it is resumed."""
    plain = _PLAIN.fullmatch(conversation_id)
    return f"ac_{conversation_id if plain else hashlib.sha256(conversation_id.encode()).hexdigest()[:40]}"
