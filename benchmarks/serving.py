"""Throughput of `puma serve-adapter` on localhost, under real clients in processes of their own.

    python benchmarks/serving.py --seconds 10

Starts the server on an adapter of the paper's shape (default: 2048 to 3072), sends requests
from several client processes, and writes benchmarks/results/serving.json: requests and users a
second, latencies, and how many requests were refused.

    python benchmarks/serving.py --half-open 1000 --workspace WORKSPACE

measures instead how so many connections with unfinished requests influence the latencies of others,
for that server and for the what-if process of a workspace with prompts, and writes them into the
same file.
"""

import argparse
import contextlib
import http.client
import json
import multiprocessing
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from provenance import free_port, machine, provenance, running_server, write_results

from puma_engine.errors import PumaError
from puma_engine.serving import whatif
from puma_engine.store import Workspace

RESULTS = Path(__file__).parent / "results" / "serving.json"


def make_adapter(folder: Path, d_in: int, d_out: int, hidden: int) -> None:
    """Write an adapter with random weights; its speed does not depend on them."""
    import torch

    from puma_engine.config import AdapterConfig
    from puma_engine.exchange.adapter_folders import AdapterFile, write_adapter
    from puma_engine.migration.adapter import Adapter

    generator = torch.Generator().manual_seed(0)
    network = Adapter(d_in, d_out, AdapterConfig(hidden=hidden), generator=generator)
    tensors = {name: value.numpy() for name, value in network.state_dict().items()}
    shape = {"d_in": d_in, "d_out": d_out, "hidden": hidden, "depth": 4, "dropout": 0.1}
    write_adapter(folder, AdapterFile(tensors, shape), "Random weights.")


def client(port: int, body: bytes, media: str, seconds: float, results: Any) -> None:
    """Send requests without pause for some seconds; report status and latency of each."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    requests: list[tuple[int, float]] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        connection.request("POST", "/v1/migrate", body, {"Content-Type": media})
        response = connection.getresponse()
        response.read()
        requests.append((response.status, time.perf_counter() - start))
    results.put(requests)


def load(port: int, width: int, users: int, clients: int, form: str, seconds: float) -> dict:
    """Measure one setting."""
    from safetensors.numpy import save

    vectors = np.random.default_rng(0).normal(size=(users, 1, width)).astype(np.float32)
    body, media = save({"vectors": vectors}), "application/vnd.safetensors"
    if form == "json":
        body, media = json.dumps({"vectors": vectors.tolist()}).encode(), "application/json"
    results: Any = multiprocessing.Queue()
    arguments = (port, body, media, seconds, results)
    processes = [multiprocessing.Process(target=client, args=arguments) for _ in range(clients)]
    start = time.perf_counter()
    for process in processes:
        process.start()
    every = [request for _ in processes for request in results.get()]
    spent = time.perf_counter() - start
    for process in processes:
        process.join()
    succeeded = np.array([latency for status, latency in every if status == 200])
    p50, p95, p99 = (float(v) for v in np.percentile(succeeded, [50, 95, 99]) * 1000)
    return {
        "form": form,
        "users_a_request": users,
        "clients": clients,
        "seconds": spent,
        "requests": len(succeeded),
        "sent_away": sum(status == 503 for status, _ in every),
        "other_errors": sum(status not in (200, 503) for status, _ in every),
        "requests_per_second": len(succeeded) / spent,
        "users_per_second": len(succeeded) * users / spent,
        "latency_ms": {"p50": p50, "p95": p95, "p99": p99},
    }


# Unfinished requests: nothing, a part of the headers, a part of the body.
UNFINISHED = (
    b"",
    b"POST /v1/migrate HTTP/1.1\r\nHost: localhost\r\nContent-",
    b"POST /v1/migrate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 1000\r\n\r\n{",
)


@contextmanager
def half_open(count: int, connect: Callable[[], socket.socket]) -> Iterator[None]:
    """Context manager: hold `count` connections with unfinished requests."""
    clients = []
    try:
        for number in range(count):
            clients.append(connect())
            # The server may close an older one meanwhile, but not this one.
            with contextlib.suppress(OSError):
                clients[-1].sendall(UNFINISHED[number % len(UNFINISHED)])
        yield
    finally:
        for client in clients:
            client.close()


def latencies(ask: Callable[[], bool], seconds: float) -> dict[str, Any]:
    """Ask one question after another, each on a new connection, and return counts and latencies."""
    succeeded, failed, end = [], 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        try:
            answered = ask()
        except (OSError, http.client.HTTPException, PumaError):
            answered = False
        if answered:
            succeeded.append(1000 * (time.perf_counter() - start))
        failed += not answered
    p50, p95 = (float(value) for value in np.percentile(succeeded, [50, 95]))
    return {"requests": len(succeeded), "failed": failed, "latency_ms": {"p50": p50, "p95": p95}}


def beside_half_open(
    server: str,
    count: int,
    connect: Callable[[], socket.socket],
    ask: Callable[[], bool],
    seconds: float,
) -> list[dict[str, Any]]:
    """Return figures of a server without and with unfinished requests."""
    ask()
    rows = []
    for number in (0, count):
        with half_open(number, connect):
            rows.append({"server": server, "half_open": number} | latencies(ask, seconds))
            print(json.dumps(rows[-1]))
    return rows


def half_open_adapter(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return figures of `puma serve-adapter` with a small adapter, asked for one user's prompt."""
    port = free_port()
    body, media = json.dumps({"vectors": [[0.5] * 64]}), {"Content-Type": "application/json"}

    def connect() -> socket.socket:
        return socket.create_connection(("127.0.0.1", port), timeout=60)

    def ask() -> bool:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        client.request("POST", "/v1/migrate", body, media)
        answer = client.getresponse()
        answer.read()
        client.close()
        return answer.status == 200

    with tempfile.TemporaryDirectory() as folder:
        make_adapter(Path(folder), 64, 96, 64)
        command = [sys.executable, "-m", "puma_engine.cli", "serve-adapter", folder]
        with running_server([*command, "--port", str(port)], port):
            return beside_half_open(
                "puma serve-adapter", args.half_open, connect, ask, args.seconds
            )


def half_open_whatif(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return figures of the what-if process, asked for one rating."""
    ws = Workspace.open(args.workspace)
    run = next(run for run in ws.runs("prompts", "finished") if run.config["role"] == "source")
    user = str(ws.open_tensors(run.id, "prompts").meta["ids"][0])

    def connect() -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(60)
        with whatif.socket_address(whatif.socket_path(ws)) as address:
            client.connect(address)
        return client

    def ask() -> bool:
        return whatif.predict(ws, run.id, user, "Dune", idle_seconds=60).value > 0

    return beside_half_open("what-if", args.half_open, connect, ask, args.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="a setting")
    parser.add_argument("--shape", type=int, nargs=3, default=[2048, 3072, 4096])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--half-open", type=int, metavar="N", help="unfinished requests")
    parser.add_argument("--workspace", type=Path, help="whose what-if process is asked")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    written = json.loads(args.out.read_text("utf-8")) if args.out.is_file() else {}
    if args.half_open is not None:
        about = provenance() | machine()
        rows = half_open_adapter(args)
        if args.workspace is not None:
            rows += half_open_whatif(args)
        write_results(args.out, written | {"half_open": {"about": about, "rows": rows}})
        return
    port = free_port()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make_adapter(Path(folder), *args.shape)
        command = [sys.executable, "-m", "puma_engine.cli", "serve-adapter", folder]
        command += ["--port", str(port), "--device", args.device]
        with running_server(command, port):
            for form, users, clients in (
                ("safetensors", 1, 4),
                ("safetensors", 64, 1),
                ("safetensors", 64, 4),
                ("safetensors", 1024, 4),
                ("json", 64, 4),
                ("safetensors", 64, 32),
            ):
                rows.append(load(port, args.shape[0], users, clients, form, args.seconds))
                print(json.dumps(rows[-1]))
    adapter = dict(zip(("d_in", "d_out", "hidden"), args.shape, strict=True))
    about = provenance() | machine() | {"adapter": adapter, "device": args.device}
    kept = {name: written[name] for name in ("half_open",) if name in written}
    write_results(args.out, about | {"rows": rows} | kept)


if __name__ == "__main__":
    main()
