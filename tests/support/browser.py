"""A real browser on the real dashboard, for tests: the server, Chromium, and waiting."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from puma_engine.jobs import processes

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
STILL = '[data-testid="stApp"][data-test-script-state="notRunning"]'
SECONDS = 120


@contextmanager
def served(root: Path):
    """Serve the workspace at root with `puma serve`; yield the address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "puma_engine.cli", "serve", "--port", str(port)]
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    with (root.parent / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "--workspace", str(root)], env=environment, stdout=log, stderr=log
        )
    base = f"http://localhost:{port}"
    try:
        wait_for(lambda: _answers(f"{base}/_stcore/health"), "the dashboard to start")
        yield base
    finally:
        server.terminate()
        server.wait(60)


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=1).close()
        return True
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def chromium():
    """Yield a headless browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


def opened(browser, url: str, script: str | None = None):
    """Open an address in a new tab, and wait until the page has finished loading.

    Tabs share a window, so that the app's own scripts are fetched once. script: JavaScript that runs
    before any of the page.
    """
    if browser.contexts:
        window = browser.contexts[0]
    else:
        window = browser.new_context(viewport={"width": 1280, "height": 1000})
        # Also of tabs that a page opens.
        window.set_default_timeout(SECONDS * 1000)
    page = window.new_page()
    if script is not None:
        page.add_init_script(script)
    page.goto(url)
    return still(page)


def picture(browser, path: Path) -> None:
    """Save a screenshot of every open tab, to see why a test failed, and close all windows."""
    for number, context in enumerate(browser.contexts):
        for page in context.pages:
            page.screenshot(path=path.with_stem(f"{path.stem}-{number}"))
            page.close()
        context.close()


def still(page):
    """Wait until the page's script has ended; fail if it shows a traceback."""
    page.wait_for_selector("h1")
    page.wait_for_timeout(200)
    page.wait_for_selector(STILL)
    broken = page.locator('[data-testid="stException"]')
    assert broken.count() == 0, broken.first.inner_text()
    return page


def wait_for(condition, what: str, seconds: float = SECONDS):
    """Return what the condition returns once it is true."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if value := condition():
            return value
        time.sleep(0.1)
    raise AssertionError(f"It took longer than {seconds:.0f} s for {what}.")


def kill_all(ws) -> None:
    """End the workers and jobs of a workspace."""
    for row in [
        *ws.query("SELECT pid, process FROM workers"),
        *ws.query("SELECT pid, process FROM jobs WHERE pid IS NOT NULL"),
    ]:
        if row["pid"] != os.getpid():
            processes.kill(row["pid"], row["process"])
