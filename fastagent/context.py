"""`ConversationContext`, as the API document imports it."""

from fastagent.afsm import ConversationContext

__all__ = ["ConversationContext"]
