"""Many pieces of work of one kind on a cluster, through Ray Data: a pool of actors, a piece at a time each.

Ray Data does not run through a Ray client (ray://), and waits for a piece without end. So an actor
on the head node drives it; this process asks that actor for results, and ends it to cancel.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from puma_engine import errors
from puma_engine.errors import JobError
from puma_engine.jobs.cluster import MAX_LOST, Cluster, NodeLost
from puma_engine.jobs.node_stream import StreamDriver, Work
from puma_engine.jobs.node_worker import refuse_other_software
from puma_engine.pipeline.stage import Execution

# A resource that the head node has, and no other: it outlives the others.
HEAD = {"node:__internal_head__": 0.001}


def stream(
    cluster: Cluster,
    work: type[Work],
    arguments: Sequence[Any],
    pieces: Sequence[Mapping[str, Any]],
    execution: Execution,
    *,
    actors: int | None = None,
) -> Iterator[tuple[int, bytes]]:
    """Do pieces on a cluster, and yield the number of each and what it gave, as they are finished.

    work, arguments: what each actor makes once; pieces: plain values; actors: how many at most
    (default: as many as have room). Pieces of a lost node are done by others, a piece whose process
    is lost MAX_LOST + 1 times ends it. Raises what the work raises, Cancelled, JobError.
    """
    remaining = dict(enumerate(pieces))
    for lost in range(MAX_LOST + 1):
        if not remaining:
            return
        try:
            for number, value in _Stream(cluster, actors).results(
                work, arguments, remaining, execution
            ):
                del remaining[number]
                yield number, value
        except NodeLost:
            if lost == MAX_LOST:
                raise


class _Stream:
    """One driver of Ray Data on the head node."""

    def __init__(self, cluster: Cluster, actors: int | None) -> None:
        import ray

        self.cluster = cluster
        self.gpus = min(1, cluster.gpus)
        self.actors = actors or cluster.capacity(self.gpus)
        self._driver: Any = ray.remote(StreamDriver).options(
            num_cpus=0, max_restarts=0, max_concurrency=4, resources=HEAD
        )

    def results(
        self,
        work: type[Work],
        arguments: Sequence[Any],
        pieces: Mapping[int, Mapping[str, Any]],
        execution: Execution,
    ) -> Iterator[tuple[int, bytes]]:
        driver = self._driver.remote()
        try:
            info = self.cluster.call(driver, "info")
            refuse_other_software(info["software"], info["name"])
            # By position in the list: JSON objects have no integer keys.
            numbers, texts = list(pieces), [json.dumps(piece) for piece in pieces.values()]
            pool = min(self.actors, len(texts))
            options = {"num_cpus": self.cluster.cpus, "num_gpus": self.gpus or None}
            # In a list, so that the driver does not load it, and what it needs, such as torch.
            shared = [self.cluster.put((work, tuple(arguments), texts))]
            self.cluster.call(driver, "start", shared, len(texts), pool, options, MAX_LOST + 1)
            finished = 0
            while finished < len(texts):
                state = self.cluster.call(driver, "results")
                for number, value, error, kind in state["results"]:
                    if error:
                        raise getattr(errors, kind, JobError)(error)
                    finished += 1
                    yield numbers[number], value
                if state["ended"] and finished < len(texts):
                    raise JobError(f"A node failed: {state['error']}")
                if state["begun"]:
                    execution.check_cancel("the rest of the work")
                else:
                    self.cluster.wait_for_room(execution)
        finally:
            # Its actors end with it.
            self.cluster.kill(driver)
