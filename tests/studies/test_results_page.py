"""The results page and the README's figures are those of the published reports."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
from claim_reports import AGAIN, main_results, method, report, retrained

from puma_engine.studies.builder import BLENDED
from puma_engine.studies.claims import ALL_USERS, FEW_USERS
from puma_engine.studies.evidence import Evidence

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("generate_results", DOCS / "generate_results.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks its own module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_the_pages_and_pictures_are_up_to_date(generator):
    for page, blocks in generator.pages().items():
        text = page.read_text(encoding="utf-8")
        for name, block in blocks.items():
            written = text.partition(f"<!-- {name} -->\n")[2].partition(f"\n<!-- /{name} -->")[0]
            assert written == block, f"{page} is old; run `make docs`"
    for name, drawn in generator.pictures(generator.published_results()).items():
        assert (DOCS / "images" / name).read_text(encoding="utf-8") == drawn, name


def test_figures_of_the_results_page_equal_those_of_the_reports():
    text = " ".join((DOCS / "results.md").read_text(encoding="utf-8").split())
    for data, words in (("goodbooks", "books"), ("movietweetings", "films")):
        path = DOCS / "results" / data / "table2.json"
        rows = {
            row["method"]: row["rmse"]
            for row in json.loads(path.read_text(encoding="utf-8"))["summary"]
        }
        for name in (ALL_USERS, FEW_USERS, f"{ALL_USERS}, refined"):
            change = rows[name] / rows["retrained"] - 1
            side = "worse" if change > 0 else "better"
            assert f"{100 * abs(change):.1f} % {side} on {words}" in text, (data, name)
        assert f"{rows['matrix_factorisation']:.3f} on {words}" in text


def test_the_results_are_one_page_whose_links_have_targets():
    for page in (DOCS / "results.md", DOCS / "results" / "README.md"):
        text = page.read_text(encoding="utf-8")
        links = re.findall(r"\]\(([^)#]+)", text)
        assert links and [link for link in links if not (page.parent / link).exists()] == []
        # A line break inside a target would end the link.
        assert not re.search(r"\]\([^)]*\s", text)
    assert len((DOCS / "results.md").read_text(encoding="utf-8").split()) < 1200


@pytest.mark.parametrize(
    ("gap", "words"), [(0.0084, "1.0 % worse"), (-0.0084, "1.0 % better"), (0.126, "15 % worse")]
)
def test_losses_are_told_in_percent_of_full_retraining(generator, gap, words):
    main = generator.Main(main_results(gap), "goodbooks", "books")
    assert generator.losses([main], ALL_USERS) == f"{words} on books"


def test_losses_are_losses_where_higher_is_better_and_say_where_they_may_be_chance(generator):
    scattered = method(ALL_USERS, [AGAIN + 0.05, AGAIN - 0.05, AGAIN + 0.06], (0.01, 0.03))
    uauc = report("table2", [retrained(), scattered], metric="uauc")
    main = generator.Main(uauc, "goodbooks", "clicks")
    assert generator.losses([main], ALL_USERS) == "2.4 % better on clicks (may be chance)"
    assert generator.losses([main], FEW_USERS) == ""


def test_another_model_has_figures_and_verdicts_of_its_own(generator):
    real = main_results(0.02, users=60)
    real["options"] |= {"target": "smollm2"}
    reports = [Evidence("zoo", main_results(-0.02)), Evidence("real", real)]
    assert [main.words for main in generator.main_results(reports)] == [
        "books",
        "books on SmolLM2",
    ]
    heads, _, first, *_ = generator.claims_table(reports).splitlines()
    assert heads == "| claim of the paper | books | books on SmolLM2 |"
    assert "✅ [reproduced](results/zoo/zoo.md)" in first and "❌ [not reproduced]" in first


def test_blends_are_told_beside_the_plans_and_not_as_one_of_them(generator):
    methods = [retrained(), method("matrix_factorisation", [0.82], kind="baseline")]
    methods += [
        method(ALL_USERS, [0.83] * 3, (-0.02, 0.0)),
        method(f"{ALL_USERS}, {BLENDED}", [0.81] * 3, (-0.04, -0.02), kind="blended"),
    ]
    main = generator.Main(report("table2", methods), "goodbooks", "books")
    text = generator.against_no_language_model([main])
    assert f"({ALL_USERS}) has 0.830 on books. Matrix factorisation is ahead on books" in text
    # The baseline has one training, whatever the seed.
    assert text.endswith(
        "Blended with it, a migration of all users has 0.810 on books: 1.2 % better on books than matrix factorisation "
        "alone."
    )
