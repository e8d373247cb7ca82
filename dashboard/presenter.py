"""The presenter's script of docs/demo.md as steps in a browser, which tests and the recorder take.

Every step waits for what it is to show, so that a step that no longer works fails.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from playwright.sync_api import Page

SECONDS = 240
BOOK = "The Hobbit by J.R.R. Tolkien"
READY = '[data-testid="stApp"][data-test-script-state="notRunning"]'


@dataclass(frozen=True)
class Step:
    """One step: its title, as in docs/demo.md, and what is done in the window."""

    title: str
    do: Callable[[Page, str], None]


def ready(page: Page) -> Page:
    """Wait until the page's script has ended."""
    page.locator("h1").first.wait_for(timeout=SECONDS * 1000)
    page.wait_for_timeout(300)
    page.locator(READY).wait_for(timeout=SECONDS * 1000)
    return page


def question(page: Page, base: str) -> None:
    """Open the Summary: the question, its verdict, and what it rests on."""
    page.goto(f"{base}/summary")
    ready(page)
    page.get_by_role("heading", name=re.compile(r"^Move \d+ users from .+ to .+\?")).wait_for()
    page.get_by_text("What each plan costs, and what it keeps").wait_for()


def slider(page: Page, _base: str) -> None:
    """Accept more error; the address holds it, and the decision follows."""
    thumb = page.get_by_role("slider").first
    thumb.focus()
    for _ in range(12):
        page.keyboard.press("ArrowRight")
    page.wait_for_url(re.compile("margin="))
    ready(page)


def maps(page: Page, _base: str) -> None:
    """Open People: how each user is predicted by the old, the migrated and the retrained prompts."""
    page.get_by_role("link", name="People").first.click()
    page.get_by_role("heading", name=re.compile("People")).first.wait_for()
    ready(page)
    page.locator(".js-plotly-plot").first.wait_for()


def most_affected(page: Page, _base: str) -> None:
    """Open the first person of the list of those who are most affected."""
    page.get_by_text("How sure", exact=True).first.wait_for(state="attached")
    table = page.locator('[data-testid="stDataFrame"]').first
    table.scroll_into_view_if_needed()
    page.wait_for_timeout(1000)
    place = table.bounding_box()
    if place is None:
        raise RuntimeError("The list of the most affected is not drawn.")
    # Its cells are drawn on a canvas: the first row is below the header.
    page.mouse.click(place["x"] + 40, place["y"] + 50)
    page.get_by_role("dialog").wait_for(timeout=SECONDS * 1000)
    ready(page)


def what_if(page: Page, _base: str) -> None:
    """Ask what the person would think of a title that they have not read."""
    page.get_by_role("dialog").get_by_text("What if", exact=True).click()
    ready(page)
    page.get_by_role("textbox", name="Title").fill(BOOK)
    page.get_by_role("button", name="Ask").click()
    page.wait_for_url(re.compile("title="))
    answers = page.get_by_role("dialog").locator('[data-testid="stMetric"]')
    answers.filter(has_text="Full retraining").first.wait_for(timeout=SECONDS * 1000)
    answers.last.scroll_into_view_if_needed()


def launch(page: Page, base: str) -> None:
    """Go through the stages of a migration up to its cost and the button that launches it."""
    page.goto(f"{base}/new-migration")
    for heading in ("2. Models and route", "3. Prompts of the old model", "4. Users who train it"):
        ready(page)
        page.get_by_role("button", name="Continue").click()
        page.get_by_role("heading", name=heading).wait_for(timeout=SECONDS * 1000)
    ready(page)
    page.get_by_role("button", name="Launch the migration").wait_for()


def evidence(page: Page, base: str) -> None:
    """Show which claims of the paper the published studies reproduce."""
    page.goto(f"{base}/evidence?from=published")
    ready(page)
    page.get_by_text("reproduced", exact=False).first.wait_for()


def report(page: Page, base: str) -> None:
    """Open the page that writes the decision on one sheet, and the report."""
    page.goto(f"{base}/export")
    ready(page)
    page.get_by_role("button", name="One page to print").wait_for()


STEPS = (
    Step("The question", question),
    Step("The slider", slider),
    Step("The maps", maps),
    Step("The most affected reader", most_affected),
    Step("A what-if", what_if),
    Step("A launch", launch),
    Step("The evidence", evidence),
    Step("The report", report),
)
