"""Answered pictures that a server keeps, and what people say they really show. Knows neither Flask nor PyTorch."""

from pupila.feedback.records import Answered, Counts, Kept
from pupila.feedback.store import Store

__all__ = ["Answered", "Counts", "Kept", "Store"]
