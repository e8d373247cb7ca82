"""A real browser on the real dashboard, for tests: the server, Chromium, and waiting."""

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from store_processes import kill_all as kill_all
from waiting import free_port, wait_for_server
from waiting import wait_for as wait_for

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
    port = free_port()
    command = [sys.executable, "-m", "puma_engine.cli", "serve", "--port", str(port)]
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    with (root.parent / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "--workspace", str(root)], env=environment, stdout=log, stderr=log
        )
    base = f"http://localhost:{port}"
    try:
        wait_for_server(f"{base}/_stcore/health", server)
        yield base
    finally:
        server.terminate()
        server.wait(60)


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
