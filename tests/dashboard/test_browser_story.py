"""The whole workflow in a real browser: from a file to a report, with interruptions."""

import re

import pytest
from browser import CHROMIUM, chromium, kill_all, opened, picture, served, still, wait_for
from playwright.sync_api import TimeoutError, expect
from whatif_processes import kill as kill_whatif

from dashboard import presenter
from puma_engine import jobs, pipeline
from puma_engine.datasets import load_shipped
from puma_engine.store import Workspace

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="There is no chromium on this machine."),
    pytest.mark.timeout(1800),
]
BOOK = "The Hobbit by J.R.R. Tolkien"
COLUMNS = {
    "user_id": "customer_no",
    "item_id": "sku",
    "text": "product name",
    "outcome": "stars given",
}
LABELS = {"User": "user_id", "Item": "item_id", "Outcome": "outcome", "Title": "text"}
MAX_CLICKS = 12
COUNT_CLICKS = """
addEventListener("click", (event) => {
  if (event.isTrusted) sessionStorage.clicks = Number(sessionStorage.clicks || 0) + 1;
}, true);
"""
QUICK = {"epochs": 1, "batch_size": 128, "learning_rate": 0.01}
JOB_SECONDS = 240  # for a job on a busy machine


@pytest.fixture(scope="module")
def browser():
    with chromium() as chromium_browser:
        yield chromium_browser


@pytest.fixture(autouse=True)
def windows(browser, tmp_path):
    """Close all windows after a test; save screenshots if it failed."""
    yield
    picture(browser, tmp_path / "window.png")


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """A dashboard on a folder without a workspace."""
    root = tmp_path_factory.mktemp("story") / "workspace"
    with served(root) as base:
        yield base, root
    ws = Workspace.open(root)
    kill_whatif(ws)
    kill_all(ws)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A team's table of ratings of thirty readers, with columns of its own."""
    books = load_shipped("goodbooks", users=30)
    # Enough to train on for a verdict; the journey is what counts here.
    some = books.interactions.groupby("user_id").head(12)
    rows = some.merge(books.items, on="item_id")
    path = tmp_path_factory.mktemp("file") / "readers.csv"
    rows.rename(columns=COLUMNS)[list(COLUMNS.values())].to_csv(path, index=False)
    return path


def choose(place, label, option):
    """Choose an option of a select box on a page, or in a part of a page."""
    page = getattr(place, "page", place)
    expected = page.get_by_role("option", name=option).first
    box = place.get_by_role("combobox", name=label).first
    box.scroll_into_view_if_needed()
    for last in (False, False, False, False, True):
        page.wait_for_timeout(300)  # a list that opens while the page scrolls is closed again
        box.click()
        try:
            expected.click(timeout=120_000 if last else 4_000)
            break
        except TimeoutError:
            if last:
                raise
    still(page)


def shows(page, status):
    """Wait until a job's badge shows a status."""
    page.locator(".stMarkdownBadge", has_text=status).first.wait_for(timeout=JOB_SECONDS * 1000)


def finished(ws, command):
    """Wait for the newest job of a command to finish, and return it."""

    def newest():
        matching = [job for job in jobs.jobs(ws) if job.command == command]
        assert not matching or matching[0].status not in ("failed", "cancelled"), matching[0].error
        return matching[0] if matching and matching[0].status == "finished" else None

    return wait_for(newest, f"the job {command}", JOB_SECONDS)


def heading(page, words):
    page.get_by_role("heading", name=words).first.wait_for(timeout=JOB_SECONDS * 1000)
    return still(page)


def migrate(browser, base, root, file):
    """Lead a team's file to a verdict on the demo's models: one page, one job, few clicks."""
    page = opened(browser, f"{base}/new-migration", script=COUNT_CLICKS)
    with page.expect_file_chooser() as chooser:
        page.get_by_test_id("stFileUploader").locator("button").first.click()
    chooser.value.set_files(file)
    page.get_by_text(re.compile("All .* rows can be used")).wait_for(timeout=JOB_SECONDS * 1000)
    for label, field in LABELS.items():
        box = page.get_by_role("combobox", name=label).first
        assert COLUMNS[field] in (box.input_value() or box.inner_text())
    page.get_by_role("button", name="Import", exact=True).last.click()
    heading(page, "2. Models and route")
    choose(page, "Old model", "llama-small ")
    choose(page, "New model", "llama-medium ")
    page.get_by_role("button", name="Continue").click()
    heading(page, "3. Prompts of the old model")
    page.get_by_role("button", name="Continue").click()
    heading(page, "4. Users who train it, and cost")
    page.get_by_text("One job does all of it").wait_for()
    page.get_by_role("button", name="Launch the migration").click()
    page.wait_for_url(re.compile("job="))
    ws = Workspace.open(root)
    finished(ws, "run_plan")
    page.get_by_role("button", name="See the verdict").click(timeout=JOB_SECONDS * 1000)
    heading(page, re.compile("Move 30 users from llama-small to llama-medium"))
    clicks = int(page.evaluate("sessionStorage.clicks"))
    assert clicks <= MAX_CLICKS, f"It took {clicks} clicks from the upload to the verdict."
    page.close()
    moved = ws.runs(kind="migration", status="finished")[0]
    assert moved.cost["users_trained"] == 3
    return ws, ws.run(moved.inputs["source_0"]), moved


def compare(ws, browser, base, source, moved):
    """An address of an earlier version leads to today's, with all that it says; then the evidence."""
    target = moved.inputs["backbone"]
    page = opened(browser, f"{base}/plan?source={source.id}&target={target}&strategy=random")
    page.wait_for_url(re.compile(f"/new-migration.source={source.id}&target={target}"))
    heading(page, "4. Users who train it, and cost")
    job = jobs.jobs(ws)[0]
    page.goto(f"{base}/new-migration?job={job.id}")
    shows(page, "Finished")
    page.get_by_role("link", name="See the comparison").click()
    return heading(page, "Trade-off")


def lasso(ws, browser, base, source, moved):
    """Select users on the source map with a lasso; the address restores the selection."""
    pipeline.project(ws, source, moved, method="pca", clusters=3, neighbours=5)
    page = opened(browser, f"{base}/users?map=pca")
    page.get_by_text("Select", exact=True).click()
    still(page)
    chart = page.locator(".js-plotly-plot .nsewdrag").first
    chart.wait_for()
    page.wait_for_timeout(1000)
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    corners = [(0.02, 0.02), (0.98, 0.02), (0.98, 0.98), (0.02, 0.98), (0.02, 0.05)]
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=8)
    page.mouse.up()
    picked = page.get_by_role("heading", name=re.compile(r"of 30 users selected"))
    picked.wait_for()
    heading = picked.inner_text()
    assert int(heading.split()[0]) > 0 and "area=" in page.url
    again = opened(browser, page.url)
    again.get_by_role("heading", name=heading).wait_for()
    again.close()
    page.close()


def fail(ws, browser, base, source, moved):
    """Plan shows a failed migration; People shows a damaged map and draws it again."""
    args = {
        "sources": [source.id],
        "targets": [moved.inputs["backbone"]],
        "strategy": "no **such**",
    }
    job = jobs.enqueue(ws, "run_plan", args, title="A migration that fails")
    jobs.ensure_worker(ws)
    page = opened(browser, f"{base}/plan?job={job.id}")
    shows(page, "Failed")
    page.get_by_text("no **such**").first.wait_for()
    page.get_by_role("button", name="Retry", exact=True).first.wait_for()
    run = pipeline.project(ws, source, moved, method="pca", clusters=3, neighbours=5)
    next(ws.folder(run.id).glob("map.*")).write_bytes(b"PAR1")
    # An address of an earlier version, which means the map that there is.
    page.goto(f"{base}/users?migration={moved.id}&colour=variance")
    page.get_by_text("This map is damaged.").wait_for()
    page.get_by_role("button", name="Make it again").click()
    # Components are drawn without the job, which finds the clusters too, and may have ended.
    page.get_by_text("All 30 users are drawn").wait_for()
    again = finished(ws, "project")
    assert again.args["migrated"] == moved.id
    page.close()


def worst_user(page):
    """Open the drawer of the user with the largest regression."""
    page.get_by_text("Who gains, who loses").click()
    still(page)
    table = page.get_by_role("heading", name="Users who regress most").locator(
        "xpath=following::div[@data-testid='stDataFrame'][1]"
    )
    table.scroll_into_view_if_needed()
    page.wait_for_timeout(1000)
    place = table.bounding_box()
    pages = page.context.pages
    # The cells are drawn on a canvas: the link is somewhere in the first cell of the first row.
    for right in range(20, 130, 12):
        page.mouse.move(place["x"] + right, place["y"] + 35 + 17)
        page.mouse.click(place["x"] + right, place["y"] + 35 + 17)
        page.wait_for_timeout(150)
        if len(page.context.pages) > len(pages):
            break
    other = next(tab for tab in page.context.pages if tab is not page)
    return still(other)


def ask(ws, page, run):
    """Predict the rating of a book on the page; it equals that of the engine."""
    drawer = page.get_by_role("dialog")
    user = drawer.get_by_text(re.compile(r"^User \S+$")).first.inner_text().split()[1]
    page.get_by_text("What if", exact=True).click()
    still(page)
    page.get_by_role("textbox", name="Title").fill(BOOK)
    page.get_by_role("button", name="Ask").click()
    value = f"{pipeline.predict_title(ws, run, user, BOOK).value:.2f}"
    page.locator('[data-testid="stMetricValue"]', has_text=value).first.wait_for(
        timeout=JOB_SECONDS * 1000
    )
    assert "title=" in page.url and f"user={user}" in page.url
    return page.url


def report(browser, base, folder):
    """Export the one page and the report, and open the report in a browser without a network."""
    page = opened(browser, f"{base}/reports")
    path = folder / "report.html"
    for label in ("One page to print", "Full report"):
        with page.expect_download() as coming:
            page.get_by_role("button", name=label).click()
        coming.value.save_as(path)
        # The page leads back to the Summary that it shows.
        back = f"{base}/summary?comparison="
        assert (back in path.read_text(encoding="utf-8")) == (label == "One page to print")
    page.close()
    context = browser.new_context(offline=True)
    asked = []
    context.on("request", lambda request: asked.append(request.url))
    alone = context.new_page()
    alone.goto(path.as_uri())
    alone.locator("h1").first.wait_for()
    assert alone.locator("svg").count()
    assert alone.get_by_text("Full retraining").count() and alone.get_by_text("Migrated").count()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    context.close()


def test_the_whole_story(browser, app, file, tmp_path):
    base, root = app
    ws, source, moved = migrate(browser, base, root, file)
    page = compare(ws, browser, base, source, moved)
    inspector = worst_user(page)
    address = ask(ws, inspector, moved)
    inspector.close()
    page.close()
    fail(ws, browser, base, source, moved)
    lasso(ws, browser, base, source, moved)
    again = opened(browser, address)
    expect(again.get_by_role("textbox", name="Title")).to_have_value(
        BOOK, timeout=JOB_SECONDS * 1000
    )
    answers = again.locator('[data-testid="stMetric"]', has_text="Full retraining")
    expect(answers).to_have_count(1, timeout=JOB_SECONDS * 1000)
    again.close()
    report(browser, base, tmp_path)


def test_the_presenters_script(browser, app, file):
    """Every step of docs/demo.md does in a browser what it says, in the workspace of the story."""
    base, root = app
    if not Workspace.open(root, create=True).runs(kind="comparison"):
        migrate(browser, base, root, file)
    page = opened(browser, f"{base}/summary")
    for step in presenter.STEPS:
        step.do(page, base)
        still(page)
    page.close()


def test_jobs_outlive_browsers_and_workers(browser, app):
    base, root = app
    ws = Workspace.open(root, create=True)
    if not ws.runs(kind="dataset"):
        pipeline.import_dataset(ws, "goodbooks", users=30, name="readers")
    args = {"dataset": "readers", "backbone": "llama-small", "name": "long"}
    args |= {"training": QUICK | {"epochs": 400, "patience": 0, "checkpoint_seconds": 1}}
    job = jobs.enqueue(ws, "fit_prompts", args, title="A long fit")
    jobs.ensure_worker(ws)
    first, second = (opened(browser, f"{base}/jobs") for _ in range(2))
    for page in (first, second):
        shows(page, "Running")
    first.close()
    step = wait_for(
        lambda: jobs.job(ws, job.id).progress.get("step"), "the first steps", JOB_SECONDS
    )
    wait_for(lambda: jobs.job(ws, job.id).progress["step"] > step, "more steps")
    kill_all(ws)
    shows(second, "Interrupted")
    second.get_by_role("button", name=re.compile("^(Retry|Resume)$")).first.click()
    reopened = opened(browser, f"{base}/jobs")
    for page in (second, reopened):
        shows(page, "Running")
    wait_for(lambda: jobs.job(ws, job.id).progress.get("step", 0) > step, "going on", JOB_SECONDS)
    assert jobs.job(ws, job.id).attempt == 2
    reopened.get_by_role("button", name="Cancel", exact=True).first.click()
    for page in (second, reopened):
        shows(page, "Cancelled")
        page.close()


def test_an_error_of_the_engine_is_shown_as_text(browser, app):
    base, root = app
    ws = Workspace.open(root, create=True)
    name = "<b>no **model**"
    jobs.enqueue(ws, "add_backbone", {"spec": f"/{name}"}, title=f"Add {name}")
    jobs.ensure_worker(ws)
    page = opened(browser, f"{base}/jobs")
    page.get_by_text("The job failed.").wait_for(timeout=JOB_SECONDS * 1000)
    error = page.get_by_text(f"There is no backbone '/{name}'").first
    error.wait_for(timeout=JOB_SECONDS * 1000)
    page.get_by_role("heading", name=f"Add {name}").wait_for(timeout=JOB_SECONDS * 1000)
    page.goto(f"{base}/user?user=../../etc/passwd&comparison=nothing")
    still(page)
    page.goto(f"{base}/compare?comparison=<script>alert(1)</script>")
    still(page)
    page.close()
