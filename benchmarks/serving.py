"""Throughput of `puma serve-adapter` on localhost, under real clients in processes of their own.

    python benchmarks/serving.py --seconds 10

Starts the server on an adapter of the paper's shape (default: 2048 to 3072), sends requests
from several client processes, and writes benchmarks/results/serving.json: requests and users a
second, latencies, and how many requests were refused.
"""

import argparse
import http.client
import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from provenance import free_port, machine, provenance, running_server, write_results

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
    good = np.array([latency for status, latency in every if status == 200])
    p50, p95, p99 = (float(v) for v in np.percentile(good, [50, 95, 99]) * 1000)
    return {
        "form": form,
        "users_a_request": users,
        "clients": clients,
        "seconds": spent,
        "requests": len(good),
        "sent_away": sum(status == 503 for status, _ in every),
        "other_errors": sum(status not in (200, 503) for status, _ in every),
        "requests_per_second": len(good) / spent,
        "users_per_second": len(good) * users / spent,
        "latency_ms": {"p50": p50, "p95": p95, "p99": p99},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="a setting")
    parser.add_argument("--shape", type=int, nargs=3, default=[2048, 3072, 4096])
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    port = free_port()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make_adapter(Path(folder), *given.shape)
        command = [sys.executable, "-m", "puma_engine.cli", "serve-adapter", folder]
        command += ["--port", str(port), "--device", given.device]
        with running_server(command, port):
            for form, users, clients in (
                ("safetensors", 1, 4),
                ("safetensors", 64, 1),
                ("safetensors", 64, 4),
                ("safetensors", 1024, 4),
                ("json", 64, 4),
                ("safetensors", 64, 32),
            ):
                rows.append(load(port, given.shape[0], users, clients, form, given.seconds))
                print(json.dumps(rows[-1]))
    adapter = dict(zip(("d_in", "d_out", "hidden"), given.shape, strict=True))
    facts = provenance() | machine() | {"adapter": adapter, "device": given.device}
    write_results(RESULTS, facts | {"rows": rows})


if __name__ == "__main__":
    main()
