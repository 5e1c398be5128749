"""The front desk: takes a name and a reason, books a visit or arranges a call back, and says goodbye.

It is wholly rule-based and needs no model: read it as the shortest complete agent.
"""

from fastagent.examples.front_desk.agent import front_desk

__all__ = ["front_desk"]
