"""The parts of a stream of pieces of work that are done on the cluster; see `cluster_stream`."""

from __future__ import annotations

import json
import queue
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from puma_engine.errors import JobError, PumaError
from puma_engine.jobs.node_worker import last_line, node_info, refuse_other_software, software

# Number of unfetched results at which actors stop.
MAX_WAITING = 8
# How long a call for results waits for the first.
WAIT_SECONDS = 0.5


class Work(Protocol):
    """The state of an actor, such as a model: built once on its node, from the arguments of `stream`."""

    def do(self, piece: Mapping[str, Any]) -> bytes:
        """Do a piece. It may be done again after a node was lost. Raises PumaError."""


class StreamDriver:
    """Drives Ray Data on the head node; an actor of `stream`."""

    def __init__(self) -> None:
        self._results: queue.Queue[tuple[int, bytes, str, str]] = queue.Queue(MAX_WAITING)
        self._begun: Counter[int] = Counter()
        self._error: str | None = None
        self._thread = threading.Thread(target=self._drive, daemon=True)

    def info(self) -> dict[str, Any]:
        """Return what this node is; see `node_info`."""
        return node_info()

    def start(
        self,
        shared: list[Any],
        pieces: int,
        actors: int,
        options: dict[str, Any],
        tries: int,
    ) -> None:
        """Begin to do so many pieces with a number of actors with these resources.

        shared: a reference to the class of the work, its arguments and the pieces as JSON objects.
        tries: how often a piece may be begun; each but the first follows a lost process.
        """
        import ray
        import ray.data

        ray.data.DataContext.get_current().enable_progress_bars = False
        me = ray.get_runtime_context().current_actor
        numbers = [{"number": number} for number in range(pieces)]
        self._data = ray.data.from_items(numbers, override_num_blocks=pieces).map_batches(
            PieceWorker,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=1),
            fn_constructor_args=(me, shared, software()),
            **options,
        )
        self._tries = tries
        self._thread.start()

    def _drive(self) -> None:
        try:
            # iter_rows, or a batch fetched ahead, would hold a result back until the next one is there.
            parts: Iterable[Any] = self._data.iter_batches(
                prefetch_batches=0, batch_size=None, batch_format="pyarrow"
            )
            for part in parts:
                for row in part.to_pylist():
                    self._results.put((row["number"], row["value"], row["error"], row["kind"]))
        except BaseException as error:  # the calling process must learn of every error
            self._error = last_line(error)

    def begin(self, number: int) -> bool:
        """Note that an actor begins a piece; return whether it may."""
        self._begun[number] += 1
        return self._begun[number] <= self._tries

    def results(self) -> dict[str, Any]:
        """Return results that were not returned before, waiting a moment for the first."""
        results = []
        try:
            results.append(self._results.get(timeout=WAIT_SECONDS))
            while True:
                results.append(self._results.get_nowait())
        except queue.Empty:
            pass
        is_done = not self._thread.is_alive() and self._results.empty()
        return {
            "results": results,
            "begun": len(self._begun),
            "ended": is_done,
            "error": self._error,
        }


class PieceWorker:
    """The callable class of Ray Data: does pieces, by their numbers, on its node."""

    def __init__(self, driver: Any, shared: list[Any], versions: dict[str, str]) -> None:
        self.driver, self.shared, self.versions = driver, shared, versions
        self.work: Work | None = None

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Do one piece. Its error comes back as a result: Ray Data would wrap, and log, it."""
        number, value, text, kind = int(batch["number"][0]), b"", "", ""
        try:
            value = self._do(number)
        except PumaError as error:
            text, kind = str(error), type(error).__name__
        return {"number": [number], "value": [value], "error": [text], "kind": [kind]}

    def _do(self, number: int) -> bytes:
        import ray

        if self.work is None:
            info = node_info()
            refuse_other_software(info["software"], info["name"], self.versions)
            kind, arguments, self.pieces = ray.get(self.shared[0])
            self.work = kind(*arguments)
        if not ray.get(self.driver.begin.remote(number)):
            raise JobError(
                f"The process of one piece of the work was lost each time ({self.pieces[number]:.200}); look at "
                "the memory of the nodes, then run the command again."
            )
        return self.work.do(json.loads(self.pieces[number]))
