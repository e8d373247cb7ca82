"""Server time, bytes and memory of every page, at 10,000 to 1,000,000 made-up users.

    python benchmarks/dashboard.py --out benchmarks/results/dashboard.json

Times are of the page's script, in a process that has loaded the libraries and opened an empty
page: server_ms_worst is the slowest of all runs, which is nearly always the first (cold: nothing
cached, files not yet checked); server_ms_median is that of the others (warm). The page "start" is the
first one after a start, which loads the libraries too. Bytes are those that a
real Chromium receives on the websocket when it opens the page in the real app; rss_mb is the
memory of that app's process afterwards, all pages before it included.

    python benchmarks/dashboard.py --first-paint WORKSPACE --out benchmarks/results/dashboard.json

measures the page People of a workspace, such as that of the demo, in a real Chromium instead, and
writes the section "first_paint": milliseconds from the navigation to the first text or picture
(first contentful paint), to the page's title, and to the drawn maps. Cold: of the first page of a
server that was just started, in a browser that has nothing of it. Warm: of a server that has shown the page
before, in a browser that has its scripts.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from provenance import free_port, measured, provenance, running_server, write_results

ROOT = Path(__file__).resolve().parents[1]
SIZES = (10_000, 50_000, 1_000_000)
WARM = 7
STARTS = 3  # of a server, for the first paint
START = "start"
CHROMIUM = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
# Stores when the title and the maps of a page are first in the document, in milliseconds.
WATCH = """() => {
  window.paints = {};
  const look = () => {
    const drawn = {title: 'h1', maps: '.st-key-people-maps .js-plotly-plot .main-svg'};
    for (const [name, selector] of Object.entries(drawn)) {
      if (!window.paints[name] && document.querySelector(selector)) {
        window.paints[name] = performance.now();
      }
    }
    if (!window.paints.maps) requestAnimationFrame(look);
  };
  look();
}"""
PAINTS = """() => ({
  contents: performance.getEntriesByName('first-contentful-paint')[0].startTime, ...window.paints
})"""
STILL = '[data-testid="stApp"][data-test-script-state="notRunning"]'
USER_VIEWS = ("items", "history", "neighbours", "what-if", "lineage")


def addresses() -> dict[str, tuple[str, dict[str, str]]]:
    """Return every page by name, the views of People, and the parts of a person's drawer."""
    from dashboard.pages import PAGES

    pages = {name: (name, {}) for name in (START, *PAGES)}
    pages["users: behaviour"] = ("users", {"map": "behaviour"})
    pages["users: map"] = ("users", {"map": "pca"})
    pages["users: map, gain"] = ("users", {"map": "pca", "shade": "gain", "colour": "gain"})
    pages["users: map, sample"] = ("users", {"map": "pca", "drawn": "sample"})
    pages["compare: users"] = ("compare", {"view": "users"})
    person = {"user": "1"}
    return pages | {f"person: {view}": ("users", person | {"view": view}) for view in USER_VIEWS}


def measure(page: str, query: dict[str, str]) -> list[float]:
    """Return the milliseconds of the page's script in this process, cold first."""
    from importlib import import_module

    from streamlit.testing.v1 import AppTest

    from dashboard.pages import PAGES

    AppTest.from_string("import streamlit as st\nst.title('empty')", default_timeout=60).run()
    if page != START:
        for name in PAGES:
            import_module(f"dashboard.views.{name}")
    page = next(iter(PAGES)) if page == START else page
    script = f"from dashboard import pages\npages.navigation({page!r}).run()"
    app = AppTest.from_string(script, default_timeout=300)
    for name, value in query.items():
        app.query_params[name] = value
    times = []
    for _ in range(1 + WARM):
        started = time.perf_counter()
        app.run()
        times.append(1000 * (time.perf_counter() - started))
        if app.exception:
            raise SystemExit(f"The page {page} failed: {app.exception[0].message}")
    return times


@contextmanager
def served() -> Iterator[tuple[int, int]]:
    """Context manager: run the app on the workspace of PUMA_WORKSPACE; yield its process id and port."""
    port = free_port()
    command = [sys.executable, "-m", "streamlit", "run", str(ROOT / "dashboard" / "app.py")]
    command += ["--server.port", str(port)]
    silent = dict.fromkeys(("stdout", "stderr"), subprocess.DEVNULL)
    with running_server(command, port, cwd=ROOT, **silent) as pid:
        yield pid, port


def first_paints() -> list[dict[str, Any]]:
    """Return one row for each visit of People; the first after each start of the server is cold."""
    from playwright.sync_api import sync_playwright

    rows = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM)
        for _ in range(STARTS):
            with served() as (_, port):
                context = browser.new_context(viewport={"width": 1440, "height": 900})
                for visit in range(1 + WARM):
                    page = context.new_page()
                    page.add_init_script(f"({WATCH})()")
                    page.goto(f"http://localhost:{port}/people")
                    page.wait_for_function(
                        "() => window.paints && window.paints.maps", timeout=120_000
                    )
                    paints = page.evaluate(PAINTS)
                    row = {"server": "warm" if visit else "cold"}
                    rows.append(row | {f"{name}_ms": round(ms) for name, ms in paints.items()})
                    print(json.dumps(rows[-1]), flush=True)
                    page.close()
                context.close()
        browser.close()
    return rows


def first_paint_summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return median and worst of the visits, cold and warm: {"cold": {"contents_ms_median": ...}}."""
    summary = {}
    for server in ("cold", "warm"):
        visits = [row for row in rows if row["server"] == server]
        summary[server] = {"visits": len(visits)} | {
            f"{name}_{kind}": of([row[name] for row in visits])
            for name in ("contents_ms", "title_ms", "maps_ms")
            for kind, of in (("median", statistics.median), ("worst", max))
        }
    return summary


def visited() -> dict[str, tuple[int, float]]:
    """Return the bytes that a browser receives for each page, and the server's megabytes afterwards."""
    import psutil
    from playwright.sync_api import sync_playwright

    measurements = {}
    with served() as (pid, port), sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM)
        for label, (page, query) in addresses().items():
            page = "" if page == START else page
            count = _bytes_of(browser, f"http://localhost:{port}/{page}?{urlencode(query)}")
            measurements[label] = (count, psutil.Process(pid).memory_info().rss / 1e6)
        browser.close()
    return measurements


def _bytes_of(browser: Any, url: str) -> int:
    """Return the bytes received on the websocket until the page is still."""
    sizes: list[int] = []
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.on(
        "websocket",
        lambda socket: socket.on("framereceived", lambda frame: sizes.append(len(frame))),
    )
    page.goto(url)
    page.wait_for_selector("h1", timeout=120_000)
    page.wait_for_selector(STILL, timeout=120_000)
    count = -1
    while count != len(sizes):
        count = len(sizes)
        page.wait_for_timeout(1500)
    context.close()
    return sum(sizes)


def rows_of(users: int) -> list[dict[str, Any]]:
    """Return one row for each page, at one size."""
    seen = visited()
    rows = []
    for label, (page, query) in addresses().items():
        (cold, *warm), _ = measured(measure, page, query)
        row = {
            "page": label,
            "users": users,
            "server_ms_median": round(statistics.median(warm), 1),
            "server_ms_worst": round(max(cold, *warm), 1),
            "bytes_sent": seen[label][0],
            "rss_mb": round(seen[label][1], 1),
        }
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


def write_first_paint(workspace: Path, out: Path) -> None:
    """Measure the first paint of People on a copy of a workspace, and write it into a results file."""
    from dashboard.screenshots import copied
    from puma_engine.store import Workspace

    load = round(os.getloadavg()[0], 1)
    with tempfile.TemporaryDirectory() as folder:
        root = copied(workspace, Path(folder) / "workspace")
        os.environ["PUMA_WORKSPACE"] = str(root)
        newest = Workspace.open(root).runs("comparison")[0]
        summary = first_paint_summary(first_paints())
    written = json.loads(out.read_text()) if out.exists() else {}
    written["first_paint"] = {
        "date": provenance()["date"],
        "page": "users",
        "users": newest.summary["users"],
        "load_average_before": load,
    } | summary
    write_results(out, written)


def main() -> None:
    """Measure all sizes and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/dashboard.json")
    parser.add_argument("--users", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "puma-synthetic")
    parser.add_argument(
        "--first-paint",
        type=Path,
        metavar="WORKSPACE",
        help="Measure the first paint of People of this workspace, and nothing else.",
    )
    args = parser.parse_args()
    os.environ["PYTHONPATH"] = str(ROOT)
    if args.first_paint is not None:
        write_first_paint(args.first_paint, args.out)
        return
    from benchmarks.synthetic import build

    rows: list[dict[str, Any]] = []
    load = {}
    for users in args.users:
        load[str(users)] = round(os.getloadavg()[0], 1)
        root = args.work / str(users)
        build(root, users)
        # Read by the app and by the processes that time its pages.
        os.environ["PUMA_WORKSPACE"] = str(root)
        rows += rows_of(users)
        header = {
            "date": provenance()["date"],
            "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
            "python": platform.python_version(),
            "warm_runs": WARM,
            "load_average_before": load,
        }
        # `python -m dashboard.audit` writes a section of its own into the same file.
        written = json.loads(args.out.read_text()) if args.out.exists() else {}
        write_results(args.out, written | {"about": header, "rows": rows})


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
