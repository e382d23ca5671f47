"""The feedback store: pictures that a server has answered, and corrections of the answers."""

from pupila.feedback.schema import Answered, Counts, Kept
from pupila.feedback.store import Store

__all__ = ["Answered", "Counts", "Kept", "Store"]
