"""The warm process: `python -m puma_engine.serving.whatif_server <workspace> <idle seconds> [run ...]`.

It answers one question after the other and keeps the runs that were asked about last.
"""

from __future__ import annotations

import dataclasses
import logging
import signal
import socket
import sys
import time
import traceback
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from puma_engine.errors import JobError, PumaError
from puma_engine.pipeline.predicting import Predictor
from puma_engine.pipeline.stage import PROMPT_KINDS, find
from puma_engine.serving.whatif_protocol import address, lock_path, receive, send, socket_path
from puma_engine.store import Workspace, locks

MOST_RUNS = 4
# A connection that says nothing for so long is dropped, so that others get their turn.
SILENT_SECONDS = 5.0
LOOK_SECONDS = 5.0
_log = logging.getLogger("puma_engine.serving")


class Kept:
    """The predictors that were used last, at most so many."""

    def __init__(self, ws: Workspace, most: int = MOST_RUNS) -> None:
        self.ws, self.most = ws, most
        self._predictors: OrderedDict[tuple[str, str | None], Predictor] = OrderedDict()

    def predictor(self, run_id: str) -> Predictor:
        """Return the predictor of a run, loading it if needed."""
        run = find(self.ws, run_id, *PROMPT_KINDS)
        # A run that was deleted and done again has the same id and another time.
        key = (run.id, run.finished)
        if key not in self._predictors:
            while len(self._predictors) >= self.most:
                self._predictors.popitem(last=False)
            started = time.perf_counter()
            self._predictors[key] = Predictor(self.ws, run)
            _log.info("Loaded %s in %.2f s", run.id, time.perf_counter() - started)
        self._predictors.move_to_end(key)
        return self._predictors[key]

    def clear(self) -> None:
        """Forget all, as after a lack of memory."""
        self._predictors.clear()


def answer(kept: Kept, message: dict[str, Any]) -> dict[str, Any]:
    """Return the reply to one message; whatever goes wrong is a reply too."""
    try:
        return _answer(kept, message)
    except PumaError as error:
        return {"error": str(error), "type": type(error).__name__}
    except Exception as error:  # one question that fails must not end the process
        kept.clear()
        traceback.print_exc()
        text = f"The prediction failed ({type(error).__name__}: {error}); read the log."
        return {"error": text, "type": JobError.__name__}


def _answer(kept: Kept, message: dict[str, Any]) -> dict[str, Any]:
    what = message.get("do")
    if what == "stop":
        return {}
    if what == "warm":
        for run in _texts(message.get("runs"))[: kept.most]:
            kept.predictor(run)
        return {}
    if what == "predict":
        run, user, title = _texts([message.get(name) for name in ("run", "user", "title")])
        return {"prediction": dataclasses.asdict(kept.predictor(run).predict(user, title))}
    raise JobError(f"{what!r} is no question; ask predict, warm or stop.")


def _texts(values: Any) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise JobError("A question holds run, user and title as texts.")
    return values


@contextmanager
def _listening(ws: Workspace) -> Iterator[socket.socket]:
    path = socket_path(ws)
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server, address(path) as place:
        server.bind(place)
        server.listen(64)
        try:
            yield server
        finally:
            path.unlink(missing_ok=True)


def serve(ws: Workspace, *, idle_seconds: float, runs: Sequence[str] = ()) -> bool:
    """Answer until nobody has asked for idle_seconds; False if another process already does.

    runs: ids to load before the first question.
    """
    socket_path(ws).parent.mkdir(mode=0o700, exist_ok=True)
    if not locks.acquire(lock_path(ws)):
        return False
    kept = Kept(ws)
    with _listening(ws) as server:
        if runs:
            answer(kept, {"do": "warm", "runs": list(runs)})
        asked = time.monotonic()
        server.settimeout(min(LOOK_SECONDS, idle_seconds))
        while time.monotonic() - asked < idle_seconds and socket_path(ws).exists():
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            with connection:
                if not _serve_one(kept, connection):
                    break
            asked = time.monotonic()
    return True


def _serve_one(kept: Kept, connection: socket.socket) -> bool:
    """Answer one connection; return False when asked to end."""
    connection.settimeout(SILENT_SECONDS)
    message: dict[str, Any] = {}
    try:
        try:
            message = receive(connection)
            reply = answer(kept, message)
        except JobError as error:
            reply = {"error": str(error), "type": JobError.__name__}
        send(connection, reply)
    except OSError as error:
        # Whoever asked has gone; nobody waits for this answer.
        _log.info("A connection ended early: %s", error)
    return message.get("do") != "stop"


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve a workspace until idle for long, or told to end."""
    root, idle, *runs = arguments if arguments is not None else sys.argv[1:]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    if not serve(Workspace.open(root), idle_seconds=float(idle), runs=runs):
        _log.info("Another process already answers")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
