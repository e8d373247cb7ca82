"""Screenshots of every page for the documentation: `python -m dashboard.screenshots`.

It serves a finished demo workspace, opens every page in a headless Chromium, and writes WebPs without
loss. To judge the design, it also takes other states, widths and the dark theme: `python -m
dashboard.screenshots --out pictures --states filled empty busy failed read-only --widths 1440 1920
420 --themes light dark`, and parts of a page with `--query`, such as `--pages users --query user=1` for the
drawer of a person. Needs requirements-dev.txt and Chromium.
"""

import argparse
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, ViewportSize, sync_playwright

from dashboard import presenter
from dashboard.pages import PAGES, address

ROOT = Path(__file__).resolve().parents[1]
THEMES = ("light", "dark")
# Addresses of pages that show more than the demo's workspace.
QUERIES = {"plan": "?step=users"}
STATES = ("filled", "empty", "busy", "failed", "read-only")
WIDTH = 1280  # pixels, of the pictures in the documentation
STORY_SIZE: ViewportSize = {"width": 1280, "height": 860}
STORY_MILLISECONDS, MAX_STORY_BYTES = 3_000, 2_900_000
START_SECONDS = 60.0
MIN_HEIGHT, MAX_HEIGHT = 500, 1600  # pixels
FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-component-update") + (
    "--disable-background-networking",
    "--disable-sync",
)
# A page is complete when its script has ended and no placeholder is left.
READY = """() => {
  const app = document.querySelector('[data-testid="stApp"]');
  return app && app.dataset.testScriptState === 'notRunning'
    && document.querySelector('h1')
    && !document.querySelector('[data-testid="stSkeleton"]');
}"""
HEIGHT = """() => document.querySelector('[data-testid="stMainBlockContainer"]').scrollHeight"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the screenshots of the pages given on the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--workspace", default=os.environ.get("PUMA_WORKSPACE", "workspace"))
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--pages", nargs="*", default=list(PAGES), choices=list(PAGES))
    parser.add_argument("--states", nargs="*", default=["filled"], choices=STATES)
    parser.add_argument("--widths", nargs="*", type=int, default=[WIDTH])
    parser.add_argument("--themes", nargs="*", default=["light"], choices=THEMES)
    parser.add_argument(
        "--max-height", type=int, default=MAX_HEIGHT, help="Of a picture, in pixels."
    )
    parser.add_argument("--query", help="What the addresses of the pages end with, such as user=1.")
    parser.add_argument(
        "--story", type=Path, help="Record the presenter's script as an animated WebP, too."
    )
    args = parser.parse_args(arguments)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    args.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright, prepared(Path(args.workspace)) as filled:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        for state in args.states:
            with in_state(state, filled) as url:
                for name, width, theme in product(args.pages, args.widths, args.themes):
                    usual = (state, width) == ("filled", WIDTH)
                    parts = [name, theme] if usual else [name, state, str(width), theme]
                    path = args.out / f"{'-'.join(parts)}.webp"
                    query = QUERIES.get(name, "") if args.query is None else f"?{args.query}"
                    link = f"{url}/{address(name)}{query}"
                    path.write_bytes(picture(browser, link, theme, width, args.max_height))
                    print(f"{path} {path.stat().st_size / 1000:.0f} kB", flush=True)
        if args.story is not None:
            with in_state("filled", filled) as url:
                args.story.write_bytes(story(browser, url))
            print(f"{args.story} {args.story.stat().st_size / 1000:.0f} kB", flush=True)
        browser.close()


@contextmanager
def in_state(state: str, filled: Path) -> Iterator[str]:
    """Serve a workspace in a state, made from a filled one; yield the address."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        root = Path(folder) / "workspace"
        if state != "empty":
            copied(filled, root)
        if state == "busy":
            newest = json.loads(_puma(root, "prompts", "list", "--json"))[0]
            fit = ["--dataset", newest["inputs"]["dataset"], "--name", "again"]
            model = ["--backbone", newest["inputs"]["backbone"]]
            _puma(root, "prompts", "fit", *fit, *model, "--batch-size", "1", "--queue")
            worker = [sys.executable, "-m", "puma_engine.cli", "worker", "--once"]
            process = stack.enter_context(
                _running(worker, os.environ | {"PUMA_WORKSPACE": str(root)})
            )
            stack.callback(_stop_jobs, root, process)
        elif state == "failed":
            table = Path(folder) / "ratings.csv"
            table.write_text("user,item,rating\n1,1,5\n")
            _puma(root, "data", "import", "table", str(table), "--task", "rating", "--queue")
            table.unlink()
            _puma(root, "worker", "--once")
        elif state == "read-only":
            everything = [root.parent, root, *root.rglob("*")]
            for path in everything:
                path.chmod(0o555 if path.is_dir() else 0o444)
            stack.callback(_make_writable, everything)
            if os.access(root, os.W_OK):
                raise SystemExit(
                    "This user may write every workspace, as root; run the state read-only as another."
                )
        yield stack.enter_context(serving(root))


def _stop_jobs(root: Path, worker: subprocess.Popen[bytes]) -> None:
    """Cancel the unfinished jobs, which would outlive their worker and write into a removed folder."""
    for job in json.loads(_puma(root, "jobs", "list", "--json")):
        if job["status"] in ("queued", "running"):
            _puma(root, "jobs", "cancel", job["id"])
    worker.wait(120)


def _make_writable(paths: Iterable[Path]) -> None:
    for path in paths:
        path.chmod(0o700)


@contextmanager
def _running(
    command: Sequence[str], environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process of this checkout, and end it."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def copied(workspace: Path, target: Path) -> Path:
    """Copy a workspace; SQLite makes its index of the log (-shm) anew, and removes it at any time."""
    shutil.copytree(workspace, target, ignore=shutil.ignore_patterns("*-shm", "whatif"))
    return target


@contextmanager
def prepared(workspace: Path) -> Iterator[Path]:
    """Yield a copy of a workspace with some finished jobs."""
    with tempfile.TemporaryDirectory() as folder:
        copy = copied(workspace, Path(folder) / "workspace")
        # Jobs whose logs contain no path of this machine.
        _puma(copy, "data", "import", "movietweetings", "--users", "200", "--queue")
        prompts = json.loads(_puma(copy, "prompts", "list", "--json"))
        newest = {run["config"]["role"]: run["id"] for run in reversed(prompts)}
        if not {"source", "migrated"} <= set(newest):
            raise SystemExit("The workspace has no migrated prompts; run `puma demo`.")
        _puma(copy, "project", newest["source"], newest["migrated"], "--queue")
        _puma(copy, "worker", "--once")
        yield copy


def _puma(workspace: Path, *arguments: str) -> str:
    """Run a puma command on a workspace and return its output."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "puma_engine.cli", *arguments],
        cwd=workspace.parent,
        env=os.environ | {"PUMA_WORKSPACE": str(workspace), "PYTHONPATH": paths},
        check=True,
        stdout=subprocess.PIPE,
    )
    return done.stdout.decode()


@contextmanager
def serving(workspace: str | Path) -> Iterator[str]:
    """Serve a workspace on a free port and yield the address."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "puma_engine.cli", "serve", "--port", str(port)]
    command += ["--workspace", str(workspace)]
    with _running(command, os.environ) as process:
        url = f"http://localhost:{port}"
        end = time.monotonic() + START_SECONDS
        while True:
            if time.monotonic() > end or process.poll() is not None:
                raise SystemExit("The app did not start; try `puma serve` to see why.")
            try:
                urllib.request.urlopen(f"{url}/_stcore/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.3)
        yield url


def picture(browser: Browser, url: str, theme: str, width: int, max_height: int) -> bytes:
    """Open a page and return a WebP of it, as high as the page and at most `max_height` pixels."""
    page = browser.new_page(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if theme == "dark" else "light",
        reduced_motion="reduce",
    )
    try:
        page.goto(url)
        page.wait_for_function(READY, timeout=120_000)
        height = min(max(int(page.evaluate(HEIGHT)), MIN_HEIGHT), max_height)
        # Elements that come into view load now.
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_function(READY, timeout=120_000)
        page.wait_for_timeout(2_000)
        return webp(page.screenshot())
    finally:
        page.close()


def story(browser: Browser, url: str) -> bytes:
    """Take the presenter's script, a picture after each step; return an animated WebP."""
    page = browser.new_page(
        viewport=STORY_SIZE, color_scheme="light", reduced_motion="reduce", device_scale_factor=1
    )
    page.set_default_timeout(120_000)
    frames = []
    try:
        for step in presenter.STEPS:
            step.do(page, url)
            page.wait_for_timeout(2_000)
            frames.append(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
            print(f"{step.title}: {page.url.partition(url)[2][:80]}", flush=True)
    finally:
        page.close()
    for quality in (80, 60, 40, 20):
        buffer = io.BytesIO()
        frames[0].save(
            buffer,
            "WEBP",
            save_all=True,
            append_images=frames[1:],
            duration=STORY_MILLISECONDS,
            loop=0,
            quality=quality,
        )
        if buffer.tell() <= MAX_STORY_BYTES:
            break
    return buffer.getvalue()


def webp(png: bytes) -> bytes:
    """Return a picture as a WebP without loss, which takes less than half of a PNG."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(buffer, "WEBP", lossless=True, method=6)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
