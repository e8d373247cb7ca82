"""A warm process that answers "what would this user think of ...", started when it is needed."""

from puma_engine.whatif.client import ask, stop, warm

__all__ = ["ask", "stop", "warm"]
