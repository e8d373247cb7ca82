"""The HTTP service: batches of prompts in, batches out, with limits, a token and back-pressure."""

from __future__ import annotations

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

from puma_engine.errors import MigrationError
from puma_engine.serving.mapper import Mapper

SAFETENSORS = ("application/vnd.safetensors", "application/octet-stream")
JSON = "application/json"


@dataclass(frozen=True)
class Limits:
    """What one request, and all that wait, may take."""

    users: int = 4096
    body_bytes: int = 64 << 20
    waiting: int = 16


@dataclass
class Figures:
    """What is counted for /metrics."""

    answers: Counter[int] = field(default_factory=Counter)
    users: int = 0
    seconds: float = 0.0
    waiting: int = 0


class Refused(Exception):
    """A request that is answered with an error status and a sentence."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.headers = status, {k.replace("_", "-"): v for k, v in headers.items()}


PROMETHEUS = "text/plain; version=0.0.4"


def build_app(mapper: Mapper, *, token: str | None = None, limits: Limits | None = None) -> FastAPI:
    """Return the service: POST /v1/migrate, GET /healthz, GET /metrics.

    token: what `Authorization: Bearer` must carry, or None to let everybody in.
    """
    # The pages that show an API would fetch scripts from elsewhere.
    app = FastAPI(title="PUMA adapter", docs_url=None, redoc_url=None, openapi_url=None)
    limits, figures = limits or Limits(), Figures()
    turn = asyncio.Lock()

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        figures.answers[error.status] += 1
        return JSONResponse({"error": str(error)}, error.status, error.headers)

    @app.get("/healthz")
    async def health() -> dict[str, Any]:
        return {
            "status": "ok",
            "adapter": mapper.identity,
            "d_in": mapper.d_in,
            "d_out": mapper.d_out,
        }

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        _authorise(request, token)
        return PlainTextResponse(prometheus(figures, limits), media_type=PROMETHEUS)

    @app.post("/v1/migrate")
    async def migrate(request: Request) -> Response:
        _authorise(request, token)
        if figures.waiting >= limits.waiting:
            raise Refused(503, "Too many requests wait; try again soon.", Retry_After="1")
        figures.waiting += 1
        try:
            batch = _parse(await _body(request, limits), _media(request), limits)
            vectors = _checked(mapper, batch.vectors)
            async with turn:
                started = time.perf_counter()
                moved = await asyncio.to_thread(mapper, vectors)
                figures.seconds += time.perf_counter() - started
        finally:
            figures.waiting -= 1
        figures.users += len(moved)
        figures.answers[200] += 1
        return batch.answer(moved)

    return app


def _authorise(request: Request, token: str | None) -> None:
    given = request.headers.get("authorization", "")
    if token is not None and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
        raise Refused(
            401, "A token is needed: Authorization: Bearer TOKEN.", WWW_Authenticate="Bearer"
        )


def _media(request: Request) -> str:
    media = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media != JSON and media not in SAFETENSORS:
        raise Refused(415, f"Send {JSON} or {SAFETENSORS[0]}, not {media or 'nothing named'!r}.")
    return media


async def _body(request: Request, limits: Limits) -> bytes:
    """Read a body without ever holding more than the limit."""
    too_large = Refused(413, f"A body may have {limits.body_bytes:,} bytes; send smaller batches.")
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > limits.body_bytes:
        raise too_large
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limits.body_bytes:
            raise too_large
        parts.append(part)
    return b"".join(parts)


@dataclass(frozen=True)
class _Batch:
    vectors: np.ndarray
    users: list[Any] | None
    metadata: dict[str, str] | None
    media: str

    def answer(self, moved: np.ndarray) -> Response:
        if self.media == JSON:
            ids = {} if self.users is None else {"user_ids": self.users}
            return JSONResponse(ids | {"vectors": moved.tolist()})
        from safetensors.numpy import save

        return Response(save({"vectors": moved}, self.metadata), media_type=SAFETENSORS[0])


def _parse(body: bytes, media: str, limits: Limits) -> _Batch:
    try:
        batch = _from_json(body) if media == JSON else _from_safetensors(body, media)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise Refused(422, f"The body cannot be read as prompts: {str(error)[:200]}") from error
    if len(batch.vectors) > limits.users:
        raise Refused(413, f"A batch may have {limits.users:,} users; send smaller ones.")
    if batch.users is not None and len(batch.users) != len(batch.vectors):
        raise Refused(
            422, f"{len(batch.users)} user ids came for {len(batch.vectors)} prompts; send as many."
        )
    return batch


def _from_json(body: bytes) -> _Batch:
    given = json.loads(body)
    if not isinstance(given, dict) or "vectors" not in given:
        raise ValueError('it needs {"vectors": [...]}')
    users = given.get("user_ids")
    if users is not None and not isinstance(users, list):
        raise ValueError("user_ids must be a list")
    return _Batch(np.array(given["vectors"], dtype=np.float32), users, None, JSON)


def _from_safetensors(body: bytes, media: str) -> _Batch:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        vectors = load(body)["vectors"]
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    length = int.from_bytes(body[:8], "little")
    metadata = json.loads(body[8 : 8 + length]).get("__metadata__")
    return _Batch(vectors, None, metadata, media)


def _checked(mapper: Mapper, vectors: np.ndarray) -> np.ndarray:
    try:
        return mapper.check(vectors)
    except MigrationError as error:
        raise Refused(422, str(error)) from error


def prometheus(figures: Figures, limits: Limits) -> str:
    """Return the figures in Prometheus' text format."""
    lines = ["# TYPE puma_requests_total counter"]
    lines += [
        f'puma_requests_total{{status="{status}"}} {count}'
        for status, count in sorted(figures.answers.items())
    ]
    for name, kind, value in (
        ("puma_users_migrated_total", "counter", figures.users),
        ("puma_adapter_seconds_total", "counter", figures.seconds),
        ("puma_requests_waiting", "gauge", figures.waiting),
        ("puma_requests_waiting_limit", "gauge", limits.waiting),
    ):
        lines += [f"# TYPE {name} {kind}", f"{name} {value}"]
    return "\n".join(lines) + "\n"
