"""The HTTP service of an adapter: prompts in, mapped prompts out, with limits, a token and metrics."""

import asyncio
import hmac
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from safetensors import SafetensorError
from safetensors.numpy import load, save

from puma_engine.errors import MigrationError
from puma_engine.serving.mapper import Mapper

SAFETENSORS = ("application/vnd.safetensors", "application/octet-stream")
JSON = "application/json"
_UNREADABLE = (ValueError, KeyError, TypeError, OverflowError, RecursionError, SafetensorError)


@dataclass(frozen=True)
class Limits:
    """Limits of one request (users, body_bytes) and of requests in work (waiting)."""

    users: int = 4096
    body_bytes: int = 64 << 20
    waiting: int = 16


@dataclass
class ServerMetrics:
    """Counters for /metrics. answers: responses by status; seconds: time spent mapping."""

    answers: Counter[int] = field(default_factory=Counter)
    users: int = 0
    seconds: float = 0.0
    waiting: int = 0


class RequestError(Exception):
    """A request that gets an error status and a sentence, as JSON {"error": ..., **details}."""

    def __init__(
        self, status: int, message: str, headers: dict[str, str] | None = None, **details: str
    ) -> None:
        super().__init__(message)
        self.status, self.headers, self.details = status, headers, details


def new_app(title: str, answers: Counter[int] | None = None) -> FastAPI:
    """Return an app without pages of its own; answers counts the statuses of its RequestErrors."""
    # FastAPI's documentation pages fetch scripts from other hosts.
    app = FastAPI(title=title, docs_url=None, redoc_url=None, openapi_url=None)

    @app.exception_handler(RequestError)
    async def answer_error(request: Request, error: RequestError) -> Response:
        if answers is not None:
            answers[error.status] += 1
        return JSONResponse({"error": str(error)} | error.details, error.status, error.headers)

    return app


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Return a request's body; raises RequestError 413 before more than `max_bytes` are held."""
    too_large = RequestError(413, f"A body may have {max_bytes:,} bytes; send a smaller one.")
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > max_bytes:
        raise too_large
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > max_bytes:
            raise too_large
        parts.append(part)
    return b"".join(parts)


def build_app(mapper: Mapper, *, token: str | None = None, limits: Limits | None = None) -> FastAPI:
    """Return the service: POST /v1/migrate, GET /healthz, GET /metrics.

    token: what `Authorization: Bearer` must carry (default: no token is needed).
    """
    limits, counters, mapping = limits or Limits(), ServerMetrics(), asyncio.Lock()
    app = new_app("PUMA adapter", counters.answers)

    @app.get("/healthz")
    async def health() -> dict[str, Any]:
        shape = {"d_in": mapper.d_in, "d_out": mapper.d_out}
        return {"status": "ok", "adapter": mapper.identity, **shape}

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        _authorise(request, token)
        text = prometheus(counters, limits)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    @app.post("/v1/migrate")
    async def migrate(request: Request) -> Response:
        _authorise(request, token)
        if counters.waiting >= limits.waiting:
            raise RequestError(503, "Too many requests wait; try again soon.", {"Retry-After": "1"})
        counters.waiting += 1
        try:
            batch = await _read(request, limits)
            try:
                vectors = mapper.check(batch.vectors)
            except MigrationError as error:
                raise RequestError(422, str(error)) from error
            async with mapping:
                started = time.perf_counter()
                try:
                    mapped = await asyncio.to_thread(mapper, vectors)
                except MigrationError as error:
                    raise RequestError(422, str(error)) from error
                counters.seconds += time.perf_counter() - started
        finally:
            counters.waiting -= 1
        counters.users += len(mapped)
        counters.answers[200] += 1
        return batch.response(mapped)

    return app


def _authorise(request: Request, token: str | None) -> None:
    given = request.headers.get("authorization", "")
    if token is not None and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
        raise RequestError(
            401, "A token is needed: Authorization: Bearer TOKEN.", {"WWW-Authenticate": "Bearer"}
        )


@dataclass(frozen=True)
class _Batch:
    vectors: np.ndarray
    users: list[Any] | None
    metadata: dict[str, str] | None
    media: str

    def response(self, mapped: np.ndarray) -> Response:
        """Return mapped prompts in the type that the request came in."""
        if self.media == JSON:
            ids = {} if self.users is None else {"user_ids": self.users}
            return JSONResponse(ids | {"vectors": mapped.tolist()})
        return Response(save({"vectors": mapped}, self.metadata), media_type=SAFETENSORS[0])


async def _read(request: Request, limits: Limits) -> _Batch:
    body = await read_body(request, limits.body_bytes)
    media = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media != JSON and media not in SAFETENSORS:
        raise RequestError(415, f"Send {JSON} or {SAFETENSORS[0]}, not {media or 'no type'!r}.")
    try:
        if media == JSON:
            given = json.loads(body)
            if not isinstance(given, dict) or "vectors" not in given:
                raise ValueError('it needs {"vectors": [...]}')
            users = given.get("user_ids")
            if users is not None and not isinstance(users, list):
                raise ValueError("user_ids must be a list")
            batch = _Batch(np.array(given["vectors"], dtype=np.float32), users, None, media)
        else:
            vectors = load(body)["vectors"]
            # The library has checked the header, but gives metadata of files only.
            length = int.from_bytes(body[:8], "little")
            metadata = json.loads(body[8 : 8 + length]).get("__metadata__")
            batch = _Batch(vectors, None, metadata, media)
    except _UNREADABLE as error:
        raise RequestError(
            422, f"The body cannot be read as prompts: {str(error)[:200]}"
        ) from error
    if len(batch.vectors) > limits.users:
        raise RequestError(413, f"A batch may have {limits.users:,} users; send smaller ones.")
    if batch.users is not None and len(batch.users) != len(batch.vectors):
        raise RequestError(
            422, f"{len(batch.users)} user ids came for {len(batch.vectors)} prompts; send as many."
        )
    return batch


def prometheus(counters: ServerMetrics, limits: Limits) -> str:
    """Return the counters in Prometheus' text format."""
    lines = ["# TYPE puma_requests_total counter"]
    for status, count in sorted(counters.answers.items()):
        lines.append(f'puma_requests_total{{status="{status}"}} {count}')
    for name, kind, value in (
        ("puma_users_migrated_total", "counter", counters.users),
        ("puma_adapter_seconds_total", "counter", counters.seconds),
        ("puma_requests_waiting", "gauge", counters.waiting),
        ("puma_requests_waiting_limit", "gauge", limits.waiting),
    ):
        lines += [f"# TYPE {name} {kind}", f"{name} {value}"]
    return "\n".join(lines) + "\n"
