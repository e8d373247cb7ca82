"""How many pages are drawn at the same time.

Python runs one thread at a time. Many scripts at once would end together, long after the first one could
have, and leave little time for the thread that sends what they draw.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Lets at most `count` threads begin; those that began `seconds` ago, or more, no longer count.

    So a page that waits, such as for the answer of a model, delays others by that time at most.
    """

    def __init__(self, count: int, seconds: float) -> None:
        self.count, self.seconds = count, seconds
        self._begun: dict[object, float] = {}
        self._changed = threading.Condition()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Context manager: wait for a turn, and take it."""
        key = object()
        with self._changed:
            while len(recent := self._recent()) >= self.count:
                self._changed.wait(min(recent) + self.seconds - time.monotonic())
            self._begun[key] = time.monotonic()
        try:
            yield
        finally:
            with self._changed:
                del self._begun[key]
                self._changed.notify()

    def _recent(self) -> list[float]:
        now = time.monotonic()
        return [begun for begun in self._begun.values() if now - begun < self.seconds]


PAGES = Turns(count=3, seconds=0.5)
