"""Many sessions of the dashboard at once, each by Streamlit's own protocol, without a browser.

A session opens the WebSocket, requests a page like a browser, and reads the server's messages until
the page's script has ended. First paint is the time from opening the connection to the first
element of the page outside the sidebar; a browser needs additional time for loading its code, which
is cached, and for drawing.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import connect

from benchmarks.provenance import free_port, running_server

ROOT = Path(__file__).resolve().parents[2]
# Seconds after which a page's script counts as failed.
PATIENCE_SECONDS = 300.0
# The number of the main part of a page; the sidebar has another.
MAIN = 0


async def visit(port: int, page: str, wait: float) -> dict[str, Any]:
    """Open a page in a new session after a wait, and keep it open; return milliseconds and sent bytes."""
    await asyncio.sleep(wait)
    began = time.perf_counter()

    def milliseconds() -> float:
        return round(1000 * (time.perf_counter() - began), 1)

    row: dict[str, Any] = {"page": page, "bytes": 0, "exceptions": 0}
    address = f"ws://localhost:{port}/_stcore/stream"
    origin: Any = f"http://localhost:{port}"
    protocol: Any = "streamlit"
    async with asyncio.timeout(PATIENCE_SECONDS):
        session = await connect(
            address,
            origin=origin,
            subprotocols=[protocol],
            max_size=None,
            compression=None,
            # A browser also waits for a busy server.
            open_timeout=None,
            ping_interval=None,
        )
        question = BackMsg()
        question.rerun_script.page_name = page
        await session.send(question.SerializeToString())
        async for data in session:
            row["bytes"] += len(data)
            message = ForwardMsg()
            message.ParseFromString(bytes(data))
            if message.WhichOneof("type") == "delta" and message.delta.HasField("new_element"):
                if message.metadata.delta_path[0] == MAIN:
                    row.setdefault("first_paint_ms", milliseconds())
                row["exceptions"] += message.delta.new_element.HasField("exception")
            # A script that asks for another run ends with another status.
            if (
                message.WhichOneof("type") == "script_finished"
                and message.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY
            ):
                row["done_ms"] = milliseconds()
                break
    row["session"] = session
    return row


async def sessions(
    port: int, pages: Sequence[str], count: int, apart: float, server: psutil.Process
) -> tuple[list[Any], int]:
    """Open so many sessions, some seconds apart, on the pages in turn, which stay open together.

    Returns a row for each, and the server's resident bytes while all are open.
    """
    visits = [visit(port, pages[n % len(pages)], n * apart) for n in range(count)]
    rows = await asyncio.gather(*visits, return_exceptions=True)
    resident = server.memory_info().rss
    for row in rows:
        if isinstance(row, dict):
            await row.pop("session").close()
    return rows, resident


def measure(workspace: Path, count: int) -> list[dict[str, Any]]:
    """Return figures of sessions that come at once, and of sessions half a second apart."""
    from dashboard.pages import PAGES, address

    start = ""
    others = [address(name) for name in PAGES]
    table = []
    for title, pages, apart in (
        ("the first page, all at once", [start], 0.0),
        ("the first page, one every half a second", [start], 0.5),
        ("all pages in turn, all at once", others, 0.0),
    ):
        port = free_port()
        command = [sys.executable, "-m", "streamlit", "run", str(ROOT / "dashboard" / "app.py")]
        command += ["--server.port", str(port), "--server.headless", "true"]
        environment = os.environ | {"PUMA_WORKSPACE": str(workspace), "PYTHONPATH": str(ROOT)}
        silent = dict.fromkeys(("stdout", "stderr"), subprocess.DEVNULL)
        with running_server(command, port, cwd=ROOT, env=environment, **silent) as pid:
            server = psutil.Process(pid)
            # The first session loads the libraries, and is not counted.
            (first,), before = asyncio.run(sessions(port, [start], 1, 0.0, server))
            cpu_before = sum(server.cpu_times()[:2])
            load = os.getloadavg()[0]
            rows, after = asyncio.run(sessions(port, pages, count, apart, server))
            cpu_after = sum(server.cpu_times()[:2])
        table.append(
            {"sessions": title, "load_before": round(load, 1)}
            | figures(rows)
            | {
                "very_first_paint_ms": first["first_paint_ms"],
                "server_cpu_ms_a_session": round(1000 * (cpu_after - cpu_before) / count),
                "server_mb_before": round(before / 1e6, 1),
                "server_mb_after": round(after / 1e6, 1),
                "mb_a_session": round((after - before) / 1e6 / count, 2),
            }
        )
    return table


def figures(rows: Sequence[Any]) -> dict[str, Any]:
    """Return counts and percentiles of visits; failed ones are exceptions."""
    done = [row for row in rows if isinstance(row, dict) and "done_ms" in row]
    result: dict[str, Any] = {"count": len(rows), "failed": len(rows) - len(done)}
    errors = {repr(row)[:200] for row in rows if not isinstance(row, dict)}
    result |= {"errors": sorted(errors)} if errors else {}
    result["exceptions"] = sum(row["exceptions"] for row in done)
    for name in ("first_paint_ms", "done_ms"):
        values = [row[name] for row in done if name in row]
        if values:
            result |= {
                f"{name}_p50": round(float(np.percentile(values, 50)), 1),
                f"{name}_p95": round(float(np.percentile(values, 95)), 1),
            }
    if done:
        result["bytes_median"] = int(statistics.median(row["bytes"] for row in done))
    return result
