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
from puma_engine.studies.evidence import Evidence, findings_by_model

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
    # Bars of tables and badges are no words.
    words = re.findall(r"\S*\w\S*", (DOCS / "results.md").read_text(encoding="utf-8"))
    assert len(words) < 1200


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
    zoo, _, other = generator.claims_table(reports).split("\n\n")
    for table, words, badge in (
        (zoo, "books", "✅ [reproduced](results/zoo/zoo.md)"),
        (other, "books on SmolLM2", "❌ [not reproduced]"),
    ):
        heads, _, first, *_ = table.splitlines()
        assert heads == f"| claim of the paper | {words} |"
        assert badge in first


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


def test_a_source_outside_the_zoo_is_told_from_a_target(generator):
    source, target = main_results(-0.02), main_results(0.02)
    source["options"] |= {"source": "smollm2", "target": "llama-medium"}
    target["options"] |= {"source": "llama-medium", "target": "smollm2"}
    reports = [Evidence("source", source), Evidence("target", target)]
    by_name = {
        finding.dataset: finding
        for finding in findings_by_model(reports)
        if finding.claim.name == "all-users"
    }
    assert {name: finding.verdict for name, finding in by_name.items()} == {
        "goodbooks from SmolLM2": "reproduced",
        "goodbooks on SmolLM2": "not reproduced",
    }
    assert [main.words for main in generator.main_results(reports)] == [
        "books on SmolLM2",
        "books from SmolLM2",
    ]


@pytest.mark.parametrize(("metric", "sign"), [("rmse", 1), ("uauc", -1)])
def test_strategies_are_compared_with_random_users_of_the_same_seed(generator, metric, sign):
    """Share and seed change the score by far more than the strategy."""
    rows = [
        {"method": name, "share": share, "seed": seed, metric: (0.9 - share - 0.1 * seed) * better}
        for share in (0.01, 0.03)
        for seed in (0, 1, 2)
        for name, better in (("random", 1.0), ("kmeans", 1 - sign * (0.01 + 0.001 * seed)))
    ]
    rows.append({"method": "kmeans", "share": 0.01, "seed": 3, metric: 0.1})  # without its pair
    item = Evidence("table4", {"study": "table4", "rows": rows})
    gain = generator.against_random([item], "kmeans", (0.01, 0.03))
    assert gain.value == pytest.approx(-0.011)
    assert gain.low < -0.013 and gain.high > -0.009
    assert generator.against_random([item], "loss", (0.01, 0.03)) is None
    task = "ratings" if metric == "rmse" else "clicks"
    text = " ".join(generator.strategies_table([item]).split())
    assert text.count(": `kmeans`") == 1 and f"on {task} with 1 % and 3 %: `kmeans`" in text


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        ((0.012, 0.01, 0.02), ("1.2 % worse", "")),
        ((-0.012, -0.03, 0.01), ("1.2 % better", " (may be chance)")),
        ((-0.0001, -0.01, 0.01), ("level", " (may be chance)")),
        ((-0.2, -0.3, -0.1), ("20 % better", "")),
    ],
)
def test_a_loss_is_told_with_its_side_and_chance(generator, loss, words):
    assert generator.loss_in_words(loss) == words
    assert generator.signed(loss[0]) == f"{100 * loss[0]:+.1f}".replace("-0.0", "+0.0")
