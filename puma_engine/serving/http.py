"""The HTTP service of an adapter: maps the prompts of a request, with limits, a token and metrics."""

import asyncio
import contextlib
import hmac
import logging
import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from safetensors import SafetensorError
from safetensors.numpy import load, save
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from puma_engine.errors import MigrationError
from puma_engine.files import parse_json
from puma_engine.serving.hosts import AllowedHosts, HostGuard

if TYPE_CHECKING:
    # It loads torch, which the what-if process does without until it loads a model.
    from puma_engine.serving.mapper import Mapper

SAFETENSORS = ("application/vnd.safetensors", "application/octet-stream")
JSON = "application/json"
CLIENT_CLOSED = 499  # what nginx logs for a client that did not wait
CLOSE = {"Connection": "close"}
RETRY = {"Retry-After": "1"}
_UNREADABLE = (ValueError, KeyError, TypeError, OverflowError, RecursionError, SafetensorError)
_log = logging.getLogger("puma_engine.serving")


@dataclass(frozen=True)
class Limits:
    """Limits of one request (users, body_bytes, tokens over all users) and of all (waiting).

    body_seconds: time for a body to arrive. waiting: number of requests that have arrived and are
    not answered yet; arriving bodies together may have at most `waiting` times body_bytes.
    """

    users: int = 4096
    body_bytes: int = 64 << 20
    waiting: int = 16
    tokens: int = 65_536
    body_seconds: float = 30.0


@dataclass
class ServerMetrics:
    """Counters for /metrics. answers: responses by status; seconds: time spent mapping.

    dropped: connections closed because they were too slow; arriving: bytes of incomplete bodies.
    """

    answers: Counter[int] = field(default_factory=Counter)
    users: int = 0
    seconds: float = 0.0
    waiting: int = 0
    dropped: int = 0
    arriving: int = 0

    def count_dropped(self) -> None:
        """Count a connection that was closed because it was too slow."""
        self.dropped += 1


class RequestError(Exception):
    """A request that gets an error status and a sentence, as JSON {"error": ..., **details}."""

    def __init__(
        self, status: int, message: str, headers: dict[str, str] | None = None, **details: str
    ) -> None:
        super().__init__(message)
        self.status, self.headers, self.details = status, headers, details


class ErrorBoundary:
    """ASGI middleware that counts responses and turns an unexpected error into a 500 with a sentence.

    Responses below /v1/ are counted, and errors everywhere.
    """

    def __init__(self, app: ASGIApp, answers: Counter[int]) -> None:
        self.app, self.answers = app, answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        started = False

        async def counted(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                if message["status"] >= 400 or scope["path"].startswith("/v1/"):
                    self.answers[message["status"]] += 1
            await send(message)

        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            await self.app(scope, receive, counted)
        except ClientDisconnect:
            self.answers[CLIENT_CLOSED] += 1
        except Exception:  # a failed request must not end the process
            _log.exception("A request failed unexpectedly.")
            if not started:
                text = "The server failed unexpectedly; its log has the reason."
                await JSONResponse({"error": text}, 500)(scope, receive, counted)


def new_app(title: str, answers: Counter[int], hosts: AllowedHosts | None = None) -> FastAPI:
    """Return an app without documentation pages that counts the statuses of its responses.

    hosts: the names that it answers to (default: all, for a socket that no browser can reach).
    """
    # FastAPI's documentation pages fetch scripts from other hosts.
    app = FastAPI(title=title, docs_url=None, redoc_url=None, openapi_url=None)
    if hosts is not None:
        app.add_middleware(HostGuard, hosts=hosts)
    app.add_middleware(ErrorBoundary, answers=answers)

    @app.exception_handler(RequestError)
    async def answer_error(request: Request, error: RequestError) -> Response:
        return JSONResponse({"error": str(error)} | error.details, error.status, error.headers)

    return app


async def read_body(request: Request, limits: Limits, counters: ServerMetrics) -> bytes:
    """Return a request's body.

    Raises RequestError: 413 before more than body_bytes are in memory, 408 after body_seconds, 503
    if arriving bodies together have too many bytes.
    """
    too_large = RequestError(
        413, f"A body may have {limits.body_bytes:,} bytes; send a smaller one.", CLOSE
    )
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced[:20]) > limits.body_bytes:
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for part in request.stream():
                size += len(part)
                counters.arriving += len(part)
                if size > limits.body_bytes:
                    raise too_large
                if counters.arriving > limits.body_bytes * limits.waiting:
                    raise RequestError(503, "Too many bodies are arriving; try again soon.", RETRY)
                parts.append(part)
    except TimeoutError:
        raise RequestError(
            408, f"The body did not arrive within {limits.body_seconds:g} seconds.", CLOSE
        ) from None
    finally:
        counters.arriving -= size
    return b"".join(parts)


@contextlib.contextmanager
def waiting(limits: Limits, counters: ServerMetrics) -> Iterator[None]:
    """Count a request that has arrived as waiting; raises RequestError 503 beyond the limit."""
    if counters.waiting >= limits.waiting:
        raise RequestError(503, "Too many requests wait; try again soon.", RETRY)
    counters.waiting += 1
    try:
        yield
    finally:
        counters.waiting -= 1


def build_app(
    mapper: "Mapper",
    *,
    token: str | None = None,
    limits: Limits | None = None,
    hosts: AllowedHosts | None = None,
    counters: ServerMetrics | None = None,
) -> FastAPI:
    """Return the service: POST /v1/migrate, GET /healthz, GET /metrics.

    token: the required `Authorization: Bearer` token (default: none is required). hosts: the names
    that it answers to (default: those of this machine's own browser).
    """
    limits, counters, mapping = limits or Limits(), counters or ServerMetrics(), asyncio.Lock()
    app = new_app("PUMA adapter", counters.answers, hosts or AllowedHosts("localhost"))

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
        media = _media_type(request)
        body = await read_body(request, limits, counters)
        with waiting(limits, counters):
            async with mapping:
                return await asyncio.to_thread(_answer, body, media, mapper, limits, counters)

    return app


def _authorise(request: Request, token: str | None) -> None:
    header = request.headers.get("authorization", "")
    if token is not None and not hmac.compare_digest(header.encode(), f"Bearer {token}".encode()):
        raise RequestError(
            401, "A token is needed: Authorization: Bearer TOKEN.", {"WWW-Authenticate": "Bearer"}
        )


def _media_type(request: Request) -> str:
    media = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media != JSON and media not in SAFETENSORS:
        received = repr(media[:100]) if media else "no type"
        raise RequestError(415, f"Send {JSON} or {SAFETENSORS[0]}, not {received}.", CLOSE)
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise RequestError(415, "Send the body without a Content-Encoding.", CLOSE)
    return media


def _answer(
    body: bytes, media: str, mapper: "Mapper", limits: Limits, counters: ServerMetrics
) -> Response:
    """Map the prompts of a body, and return them in the media type of the request."""
    try:
        batch = _read_json(body) if media == JSON else _read_safetensors(body)
        vectors = mapper.check(batch.vectors)
    except MigrationError as error:
        raise RequestError(422, str(error)) from error
    except _UNREADABLE as error:
        reason = str(error)[:200].encode(errors="replace").decode()
        raise RequestError(422, f"The body cannot be read as prompts: {reason}") from error
    if len(vectors) > limits.users:
        raise RequestError(413, f"A batch may have {limits.users:,} users; send smaller ones.")
    tokens = vectors.shape[0] * vectors.shape[1]
    if tokens > limits.tokens:
        raise RequestError(
            413,
            f"A batch may have {limits.tokens:,} tokens over all users, not {tokens:,}; send smaller "
            "ones.",
        )
    if batch.users is not None and len(batch.users) != len(vectors):
        raise RequestError(
            422,
            f"{len(batch.users)} user ids were sent for {len(vectors)} prompts; send one for each.",
        )
    started = time.perf_counter()
    try:
        mapped = mapper(vectors)
    except MigrationError as error:
        raise RequestError(422, str(error)) from error
    counters.seconds += time.perf_counter() - started
    counters.users += len(mapped)
    return batch.response(mapped)


@dataclass(frozen=True)
class _Batch:
    vectors: np.ndarray
    users: list[Any] | None
    metadata: dict[str, str] | None
    media: str

    def response(self, mapped: np.ndarray) -> Response:
        """Return mapped prompts in the media type of the request."""
        if self.media == JSON:
            ids = {} if self.users is None else {"user_ids": self.users}
            return JSONResponse(ids | {"vectors": mapped.tolist()})
        return Response(save({"vectors": mapped}, self.metadata), media_type=SAFETENSORS[0])


def _read_json(body: bytes) -> _Batch:
    content = parse_json(body)
    if not isinstance(content, dict) or "vectors" not in content:
        raise ValueError('it needs {"vectors": [...]}')
    users = content.get("user_ids")
    if users is not None and not (isinstance(users, list) and all(map(_is_user_id, users))):
        raise ValueError("user_ids must be a list of texts or numbers")
    values = np.array(content["vectors"])
    if values.dtype.kind not in "iuf":
        raise ValueError("vectors must hold numbers, in lists of equal length")
    # A number beyond float32 becomes infinite, which the mapper refuses.
    with np.errstate(over="ignore"):
        return _Batch(values.astype(np.float32), users, None, JSON)


def _is_user_id(value: Any) -> bool:
    if isinstance(value, str):
        value.encode()  # a lone surrogate raises ValueError; no response can hold it
        return True
    return isinstance(value, int | float) and math.isfinite(value) and not isinstance(value, bool)


def _read_safetensors(body: bytes) -> _Batch:
    tensors = load(body)
    if "vectors" not in tensors:
        raise ValueError("it has no tensor named vectors")
    # The library has checked the header, but returns metadata only for files.
    length = int.from_bytes(body[:8], "little")
    metadata = parse_json(body[8 : 8 + length]).get("__metadata__")
    return _Batch(tensors["vectors"], None, metadata, SAFETENSORS[0])


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
        ("puma_connections_dropped_total", "counter", counters.dropped),
    ):
        lines += [f"# TYPE {name} {kind}", f"{name} {value}"]
    return "\n".join(lines) + "\n"
