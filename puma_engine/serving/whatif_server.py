"""The what-if process: `python -m puma_engine.serving.whatif_server <workspace> <idle seconds> [run ...]`.

It serves HTTP on a Unix socket in the workspace, one prediction after the other:
POST /v1/predict {"run", "user", "title"} (and "template") and /v1/load {"runs": [...]}.
"""

import asyncio
import dataclasses
import functools
import logging
import socket
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import uvicorn
from fastapi import Request

from puma_engine.errors import JobError, PumaError
from puma_engine.files import parse_json
from puma_engine.pipeline.predicting import Predictor
from puma_engine.pipeline.stage import PROMPT_KINDS, find
from puma_engine.serving.connections import ConnectionLimits, server_config, shorten_log
from puma_engine.serving.http import (
    Limits,
    RequestError,
    ServerMetrics,
    new_app,
    read_body,
    waiting,
)
from puma_engine.serving.whatif import LOG, lock_path, socket_address, socket_path
from puma_engine.store import Workspace, locks

MAX_RUNS = 4
LIMITS = Limits(body_bytes=1 << 16, waiting=32)
CONNECTIONS = ConnectionLimits(connections=128)
MAX_LOG_BYTES = 4 << 20
POLL_SECONDS = 0.2
_log = logging.getLogger("puma_engine.serving")


class PredictorCache:
    """The most recently used predictors, at most `max_runs`."""

    def __init__(self, ws: Workspace, max_runs: int = MAX_RUNS) -> None:
        self.ws, self.max_runs = ws, max_runs
        self._predictors: OrderedDict[tuple[str | None, ...], Predictor] = OrderedDict()

    def predictor(self, run_id: str, template: str | None = None) -> Predictor:
        """Return the predictor of a run and a template, loaded if needed. Raises PumaError."""
        run = find(self.ws, run_id, *PROMPT_KINDS)
        # A run that was deleted and made again has the same id and another time.
        key = (run.id, run.finished, template)
        if key not in self._predictors:
            while len(self._predictors) >= self.max_runs:
                self._predictors.popitem(last=False)
            started = time.perf_counter()
            self._predictors[key] = Predictor(self.ws, run, template=template)
            _log.info("Loaded %s in %.2f s", run.id, time.perf_counter() - started)
        self._predictors.move_to_end(key)
        return self._predictors[key]

    def clear(self) -> None:
        """Drop all predictors, for example after running out of memory."""
        self._predictors.clear()


class WhatIfService:
    """The routes of the process, and the time since its last use."""

    def __init__(self, ws: Workspace) -> None:
        self.predictors = PredictorCache(ws)
        self._lock = asyncio.Lock()
        self._last_use = time.monotonic()
        self.counters = ServerMetrics()
        self.app = new_app("PUMA what-if", self.counters.answers)
        self.app.post("/v1/predict")(self.predict)
        self.app.post("/v1/load")(self.load)

    async def predict(self, request: Request) -> dict[str, Any]:
        """Answer {"run", "user", "title"} with the fields of a Prediction; "template" may be added."""
        body = await self._json_object(request)
        run, user, title = _texts([body.get(name) for name in ("run", "user", "title")])
        (template,) = _texts([body["template"]]) if body.get("template") is not None else (None,)
        with waiting(LIMITS, self.counters):
            prediction = await self._call(
                lambda: self.predictors.predictor(run, template).predict(user, title)
            )
        return dataclasses.asdict(prediction)

    async def load(self, request: Request) -> dict[str, Any]:
        """Load the runs of {"runs": [...]}."""
        runs = _texts((await self._json_object(request)).get("runs"))
        with waiting(LIMITS, self.counters):
            await self.load_runs(runs)
        return {}

    async def load_runs(self, runs: Sequence[str]) -> None:
        """Load runs, at most as many as the cache holds."""
        for run in runs[:MAX_RUNS]:
            await self._call(functools.partial(self.predictors.predictor, run))

    def idle_seconds(self) -> float:
        """Return the seconds since the last use; 0 during a request."""
        return 0.0 if self._lock.locked() else time.monotonic() - self._last_use

    async def _json_object(self, request: Request) -> dict[str, Any]:
        try:
            body = parse_json(await read_body(request, LIMITS, self.counters))
        except ValueError as error:
            raise RequestError(422, f"The body is no JSON ({error}); send an object.") from error
        if not isinstance(body, dict):
            raise RequestError(422, "The body is not a JSON object; send one.")
        return body

    async def _call(self, function: Callable[[], Any]) -> Any:
        """Call a function in a thread, one at a time; turn its errors into a RequestError."""
        try:
            async with self._lock:
                return await asyncio.to_thread(function)
        except PumaError as error:
            raise RequestError(422, str(error), type=type(error).__name__) from error
        except Exception as error:  # a failed request must not end the process
            self.predictors.clear()
            _log.exception("A prediction failed.")
            text = f"The prediction failed ({type(error).__name__}: {error}); read the log."
            raise RequestError(500, text, type=JobError.__name__) from error
        finally:
            self._last_use = time.monotonic()


def _texts(values: Any) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise RequestError(422, "The body needs run, user and title, or runs, as texts.")
    try:
        "".join(values).encode()
    except UnicodeEncodeError:
        raise RequestError(
            422, "The body holds half of a surrogate pair; send whole characters."
        ) from None
    return values


def serve(ws: Workspace, *, idle_seconds: float, runs: Sequence[str] = ()) -> bool:
    """Serve until there was no request for idle_seconds; return False if another process serves already.

    runs: ids to load before the first request.
    """
    path = socket_path(ws)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if not locks.acquire(lock_path(ws)):
        return False
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        with socket_address(path) as address:
            listener.bind(address)
        listener.listen(64)
        try:
            asyncio.run(_serve(ws, listener, idle_seconds, runs))
        finally:
            path.unlink(missing_ok=True)
    return True


async def _serve(
    ws: Workspace, listener: socket.socket, idle_seconds: float, runs: Sequence[str]
) -> None:
    service = WhatIfService(ws)
    server = uvicorn.Server(server_config(service.app, CONNECTIONS))
    loading = asyncio.create_task(service.load_runs(runs))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not serving.done():
        await asyncio.wait([serving], timeout=POLL_SECONDS)
        if service.idle_seconds() >= idle_seconds or not socket_path(ws).exists():
            server.should_exit = True
        shorten_log(ws.root / "logs" / LOG, MAX_LOG_BYTES)
    await asyncio.wait([loading, serving])


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve a workspace until it is idle for long, or terminated."""
    root, idle, *runs = arguments if arguments is not None else sys.argv[1:]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if not serve(Workspace.open(root), idle_seconds=float(idle), runs=runs):
        _log.info("Another process already answers")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
