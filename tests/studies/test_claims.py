"""The claims of the paper: every verdict from constructed reports, and the published reports."""

import json
from pathlib import Path

import pytest
from claim_reports import AGAIN, main_results, method, moved, report, retrained
from typer.testing import CliRunner

from puma_engine.cli import app
from puma_engine.defaults import MARGIN
from puma_engine.errors import ConfigError, StoreError, StudyError
from puma_engine.store import Workspace
from puma_engine.studies import STUDIES, Cell, Study, collect, run_cells, save_report
from puma_engine.studies.claims import (
    ALL_USERS,
    CLAIMS,
    FEW_RANDOM_USERS,
    FEW_USERS,
    FEW_USERS_MARGIN,
    LOWEST_GAIN,
    few_users,
)
from puma_engine.studies.evidence import (
    BEGIN,
    END,
    Evidence,
    column_heading,
    findings,
    findings_by_column,
    findings_markdown,
    model_of_column,
    published_evidence,
    replace_between_marks,
    results_root,
    workspace_evidence,
)

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "results" / "README.md"
PUBLISHED = ROOT / "docs" / "results"
JUDGES = {claim.name: claim.assess for claim in CLAIMS}
KINDS = ("reproduced", "not reproduced", "undecided", "no evidence")


def verdict(name, study_report, dataset="goodbooks"):
    judged = JUDGES[name](study_report, dataset)
    return judged.verdict if judged else "no evidence"


def few(gap, half=0.001, **more):
    return report("table2", [retrained(), moved(gap, FEW_USERS, half=half, **more)])


def costs(few_seconds, *, again=100.0, **more):
    migrated = moved(0.0, FEW_USERS, seconds=few_seconds, **more)
    return report("table2", [retrained(seconds=again), migrated])


def chosen(*values, ends):
    random = method("random", [AGAIN] * len(values), share=0.07)
    best = method("kmeans-variance", [AGAIN + change for change in values], ends, share=0.07)
    return report("table4", [random, best], against={"method": "random"})


def shuffled(whole, mixed, *, seeds=3):
    methods = [retrained(seeds), moved(whole, FEW_RANDOM_USERS, seeds=seeds)]
    return report("table2", [*methods, moved(mixed, "shuffled control", seeds=seeds)])


def pairs(*gaps, half=0.001):
    again = [retrained(target=target) for target in ("a", "b")]
    origins = zip(gaps, ("b", "a"), ("a", "b"), strict=True)
    migrated = [
        moved(gap, "migrated", half=half, origin=origin, target=target)
        for gap, origin, target in origins
    ]
    return report("figure4", [*again, *migrated])


def fused(single, *several):
    ends = (min(several), max(several))
    two = method("two", [AGAIN + change for change in several], ends, sources=2)
    methods = [moved(single, "one", sources=1), two]
    return report("figure6", [retrained(), *methods])


def chains(*shares, half=0.0005):
    """Chains of two, three, … hops that lose these shares of the allowed loss."""
    methods = []
    for hops, share in enumerate(shares, start=2):
        allowed = MARGIN * (hops - 1) * AGAIN
        methods += [method("direct", [AGAIN] * 3, target=f"m{hops}")]
        ends = (share * allowed - half, share * allowed + half)
        score = AGAIN + share * allowed
        methods += [
            method("chain", [score] * 3, ends, kind="migrated", hops=hops, target=f"m{hops}")
        ]
    return report("figure5", methods, against={"method": "direct"})


def stopped(gap, *, unit="seconds", **costs):
    """PUMA on 7 % against retraining for one epoch, which is 0.05 worse than for ten."""
    costs = {"puma": 8.0, "short": 10.0, "whole": 100.0} | costs
    # Seconds alone would find no retraining to compare with.
    more = {
        name: {"seconds": 1000.0 if name == "puma" else 1.0} | {unit: value}
        for name, value in costs.items()
    }
    whole = method("retraining, 10 epochs", [AGAIN] * 3, kind="retrained", **more["whole"])
    scores = [AGAIN + 0.05 + change for change in (-0.001, 0.0, 0.001)]
    short = method("retraining, 1 epoch", scores, (0.049, 0.051), kind="retrained")
    short["more"] = more["short"]
    puma = moved(0.05 + gap, "PUMA, 7%", **more["puma"])
    against = {"method": "retraining, 10 epochs"}
    return report("table3", [whole, short, puma], against=against)


BAR = FEW_USERS_MARGIN * AGAIN
CASES = [
    ("all-users", main_results(-0.01), "reproduced"),
    ("all-users", main_results(0.01), "not reproduced"),
    ("all-users", main_results(0.0), "undecided"),
    ("all-users", report("table2", [retrained()]), "no evidence"),
    ("all-users", main_results(-0.01, seeds=2), "undecided"),
    ("few-users", few(BAR - 0.005), "reproduced"),
    ("few-users", few(BAR + 0.005), "not reproduced"),
    ("few-users", few(BAR), "undecided"),
    ("few-users", report("table2", [retrained(), moved(0.0)]), "no evidence"),
    ("cost", costs([1.0, 2.0, 2.0]), "reproduced"),
    ("cost", costs([3.0, 4.0, 4.0]), "not reproduced"),
    ("cost", costs([1.0, 3.0, 3.0]), "undecided"),
    ("cost", costs([1.0, 1.0, 1.0], device=["cpu", "cuda", "cuda"]), "no evidence"),
    ("cost", costs(None), "no evidence"),
    ("selection", chosen(-0.02, -0.021, -0.022, ends=(-0.03, -0.01)), "reproduced"),
    ("selection", chosen(0.02, 0.021, 0.022, ends=(0.01, 0.03)), "not reproduced"),
    ("selection", chosen(-0.02, 0.03, -0.04, ends=(-0.03, -0.001)), "undecided"),
    ("selection", chosen(-0.02, -0.021, ends=(-0.03, -0.01)), "undecided"),
    ("selection", report("table4", [method("random", [AGAIN])]), "no evidence"),
    ("taste", shuffled(0.0, 0.1), "reproduced"),
    ("taste", shuffled(0.1, 0.0), "not reproduced"),
    ("taste", shuffled(0.0, 0.001, seeds=1), "undecided"),
    ("taste", main_results() | {"differences": []}, "no evidence"),
    ("pairs", pairs(-0.005, -0.004), "reproduced"),
    ("pairs", pairs(0.005, 0.02), "not reproduced"),
    ("pairs", pairs(0.005, -0.005), "undecided"),
    # Better in the mean, but one pair below the paper's lowest gain.
    ("pairs", pairs(-0.05, AGAIN / LOWEST_GAIN - AGAIN + 0.001), "undecided"),
    ("pairs", report("figure4", [retrained(target="a")]), "no evidence"),
    ("sources", fused(0.02, 0.0, 0.0, 0.0), "reproduced"),
    ("sources", fused(0.0, 0.02, 0.02, 0.02), "not reproduced"),
    ("sources", fused(0.0, -0.01, 0.0, 0.02), "undecided"),
    ("sources", report("figure6", [retrained(), moved(0.0, sources=1)]), "no evidence"),
    ("chains", chains(0.2, 0.5), "reproduced"),
    ("chains", chains(0.2, 2.0), "not reproduced"),
    ("chains", chains(0.2, 1.0), "undecided"),
    ("chains", report("figure5", [method("direct", [AGAIN])]), "no evidence"),
    ("equal-cost", stopped(-0.02), "reproduced"),
    ("equal-cost", stopped(0.02), "not reproduced"),
    ("equal-cost", stopped(0.0), "undecided"),
    ("equal-cost", stopped(-0.02, puma=200.0), "no evidence"),
    # Retraining that is too cheap to compare with is passed by for the whole.
    ("equal-cost", stopped(-0.02, short=5.0), "not reproduced"),
    # Arithmetic decides where all rows have it, whatever the seconds say.
    ("equal-cost", stopped(-0.02, unit="flops"), "reproduced"),
    ("equal-cost", stopped(-0.02, unit="flops", short=5.0), "not reproduced"),
]


@pytest.mark.parametrize(("name", "study_report", "wanted"), CASES)
def test_each_claim_is_judged_by_its_rule(name, study_report, wanted):
    assert study_report["study"] == next(claim.study for claim in CLAIMS if claim.name == name)
    assert verdict(name, study_report) == wanted


def test_every_claim_reaches_every_verdict():
    assert {(name, expected) for name, _, expected in CASES} == {
        (claim.name, kind) for claim in CLAIMS for kind in KINDS
    }


def test_claims_respect_metrics_where_higher_is_better():
    scores = {"retrained": [0.60, 0.61, 0.62], ALL_USERS: [0.65, 0.66, 0.67]}
    methods = [method("retrained", scores["retrained"], kind="retrained")]
    methods += [method(ALL_USERS, scores[ALL_USERS], (0.04, 0.06))]
    assert verdict("all-users", report("table2", methods, metric="uauc")) == "reproduced"
    assert verdict("all-users", report("table2", methods, metric="rmse")) == "not reproduced"


def test_both_intervals_must_agree():
    scattered = method(ALL_USERS, [AGAIN - 0.03, AGAIN + 0.02, AGAIN - 0.02], (-0.02, -0.001))
    study_report = report("table2", [retrained(3), scattered])
    judged = JUDGES["all-users"](study_report, "goodbooks")
    assert judged.verdict == "undecided" and judged.seeds == 3
    assert "over users and [" in judged.figures and "over trainings" in judged.figures


def test_two_seeds_decide_nothing_and_the_verdict_says_so():
    judged = JUDGES["all-users"](main_results(-0.01, seeds=2), "goodbooks")
    assert judged.verdict == "undecided" and judged.more_seeds == 1
    assert judged.outlook == "A verdict needs at least 3 seeds."


def test_figures_state_scores_difference_and_size():
    judged = JUDGES["few-users"](few(0.0084), "goodbooks")
    expected = (
        "RMSE 0.8485 against 0.8401 of full retraining: +0.0084 [+0.0074, +0.0094] over users"
    )
    assert judged.figures.startswith(expected)
    assert judged.figures.endswith("1.0 % worse; 3 seeds, 1,000 users")
    judged = JUDGES["cost"](costs([1.0, 1.5, 2.0], flops=5.0, again=100.0), "goodbooks")
    assert judged.figures.startswith(
        "98.5 % fewer seconds: 1.5 s against 100.0 s of full retraining on cpu"
    )
    # Retraining may be faster than all migrations.
    judged = JUDGES["cost"](costs([150.0] * 3, flops=5.0, again=100.0), "goodbooks")
    assert judged.figures.startswith("50.0 % more seconds: 150.0 s against 100.0 s")


def budgets(**measured):
    """Full retraining for 100 TFLOP, and migrations on few users: share to (loss as a share, TFLOP)."""
    methods = [retrained(seconds=100.0, flops=1e14)]
    for share, (loss, tflop) in measured.items():
        name = few_users("kmeans-variance", int(share[1:]) / 100)
        methods += [moved(loss * AGAIN, name, seconds=50.0, flops=tflop * 1e12)]
    return report("table2", methods)


@pytest.mark.parametrize(
    ("measured", "wanted", "share"),
    [
        # Arithmetic counts where all have it, and seconds do not.
        ({"p7": (0.005, 1.9)}, "reproduced", 7),
        ({"p7": (0.005, 8.0)}, "not reproduced", 7),
        # A budget that costs little and loses much does not count, nor one that loses little and costs much.
        ({"p7": (0.005, 8.0), "p1": (0.03, 1.0)}, "not reproduced", 7),
        ({"p7": (0.005, 8.0), "p3": (0.012, 4.0), "p1": (0.015, 1.0)}, "reproduced", 1),
        ({"p7": (0.005, 8.0), "p1": (0.02, 1.0)}, "undecided", 1),
        ({"p7": (0.03, 8.0), "p3": (0.03, 4.0)}, "not reproduced", 3),
    ],
)
def test_the_cost_is_that_of_the_cheapest_share_of_users_that_loses_little(measured, wanted, share):
    judged = JUDGES["cost"](budgets(**measured), "goodbooks")
    assert judged.verdict == wanted
    assert (
        f"on {share} % of the users, {100 * measured[f'p{share}'][0]:.1f} % worse" in judged.figures
    )
    (interval,) = judged.intervals
    assert interval.value == pytest.approx(measured[f"p{share}"][1] / 100)
    assert interval.limit == 0.02 and "arithmetic" in judged.axis
    assert f"{measured[f'p{share}'][1]:.3g} TFLOP against 100 of full" in judged.figures


def in_ranking(study_report, gap):
    """The report with pair accuracy, in which the migration of all users is better by gap."""
    rows = [
        row
        | {"pair_accuracy": 0.6 + 0.0001 * row["seed"] + (gap if row["kind"] == "migrated" else 0)}
        for row in study_report["rows"]
    ]
    lines = [
        line | {"metric": "pair_accuracy", "low": gap - 0.001, "high": gap + 0.001}
        for line in study_report["differences"]
        if line["kind"] == "migrated"
    ]
    return study_report | {"rows": rows, "ranking_differences": lines}


@pytest.mark.parametrize(
    ("gap", "wanted"), [(0.01, "reproduced"), (-0.01, "not reproduced"), (0.0, "undecided")]
)
def test_claims_without_a_margin_are_judged_in_ranking_beside(gap, wanted):
    study_report = in_ranking(main_results(-0.02), gap)
    finding = judged_by("all-users", study_report)
    assert finding.verdict == "reproduced" and finding.ranking.verdict == wanted
    assert finding.ranking.figures.startswith(f"pair accuracy {0.6001 + gap:.4f} against 0.6001")
    text = findings_markdown([finding])
    assert f"| **reproduced**; in ranking **{wanted}** |" in text
    assert f". In ranking: {finding.ranking.figures}" in text
    # A margin of the primary metric says nothing about ranking.
    few_users = judged_by("few-users", study_report)
    assert few_users.evidence is not None and few_users.ranking is None
    assert judged_by("all-users", main_results(-0.02)).ranking is None


def judged_by(name, *reports):
    """The finding of a claim, from reports that are named by their index."""
    evidence = [Evidence(str(place), study_report) for place, study_report in enumerate(reports)]
    (finding,) = [item for item in findings(evidence) if item.claim.name == name]
    return finding


@pytest.mark.parametrize(
    ("better", "other"),
    [
        (main_results(users=2000), main_results(seeds=5)),
        (main_results(seeds=3), main_results(seeds=2, date="2026-02-03")),
        (main_results(date="2026-02-03"), main_results()),
        (main_results(users=100), main_results(users=5000, quick=True)),
    ],
    ids=["users", "seeds", "date", "quick"],
)
def test_the_largest_then_newest_report_is_the_evidence(better, other):
    for reports, place in (([better, other], "0"), ([other, better], "1")):
        finding = judged_by("all-users", *reports)
        assert finding.evidence.name == place and not finding.figures.startswith("Quick")


def test_a_report_without_the_needed_rows_is_skipped():
    large = report("table2", [retrained(), moved(0.1)], users=5000)
    finding = judged_by("few-users", large, main_results())
    assert finding.evidence.name == "1" and finding.verdict == "reproduced"


def test_a_quick_report_is_evidence_and_marked_as_a_trial():
    finding = judged_by("all-users", main_results(quick=True))
    assert finding.evidence is not None and finding.figures.startswith("Quick trial: ")


def test_studies_without_claims_add_no_data_sets():
    other = report("templates", [method("prompt first", [AGAIN])], dataset="elsewhere")
    all_findings = findings([Evidence("t", other), Evidence("m", main_results())])
    assert {finding.dataset for finding in all_findings} == {"goodbooks"}
    assert len(all_findings) == len(CLAIMS)
    assert {finding.claim.study for finding in all_findings} <= set(STUDIES)


def write(folder, study_report, name=None):
    file = folder / f"{name or study_report['study']}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(study_report))
    return file


def test_published_reports_are_named_by_their_path(tmp_path):
    for place in ("table2", "films/table2", "figure4/figure4", "a/b/figure5"):
        write(tmp_path, main_results(), place)
    write(tmp_path, {}, "notes")
    names = [evidence.name for evidence in published_evidence(tmp_path)]
    assert sorted(names) == ["a/b/figure5", "figure4", "films/table2", "table2"]


def test_published_reports_of_models_that_ship_come_first(tmp_path):
    real = main_results()
    real["options"] |= {"source": "smollm2"}
    write(tmp_path, real, "a/table2")
    write(tmp_path, main_results(), "b/table2")
    assert [evidence.name for evidence in published_evidence(tmp_path)] == ["b/table2", "a/table2"]


def test_reports_with_other_models_in_other_roles_share_no_column():
    roles = [{}, {"source": "llama-small", "target": "smollm2"}, {"source": "smollm2"}]
    roles += [{"source": "smollm2", "target": "smollm2-q4_0"}]
    reports = []
    for number, models in enumerate(roles):
        study_report = main_results()
        study_report["options"] |= models
        reports.append(Evidence(f"report-{number}", study_report))
    columns = findings_by_column(reports)
    shown = {
        column_heading(name): (model_of_column(name), column["all-users"].evidence.name)
        for name, column in columns.items()
    }
    assert shown == {
        "goodbooks": ("", "report-0"),
        "goodbooks on SmolLM2": ("smollm2", "report-1"),
        "goodbooks from SmolLM2": ("smollm2", "report-2"),
        "goodbooks from SmolLM2 to smollm2-q4_0": ("smollm2 to smollm2-q4_0", "report-3"),
    }


@pytest.mark.parametrize("text", ["{", "[]", "7", "null", '{"study": "table2"}'])
def test_a_damaged_report_is_refused_with_its_file_name(tmp_path, text):
    write(tmp_path, {}, "table2").write_text(text)
    with pytest.raises(StoreError, match=r"table2\.json .*make it again"):
        published_evidence(tmp_path)


def test_the_results_folder_can_be_set_by_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("PUMA_RESULTS", raising=False)
    assert results_root() == PUBLISHED
    monkeypatch.setenv("PUMA_RESULTS", str(tmp_path))
    assert results_root() == tmp_path
    monkeypatch.setenv("PUMA_RESULTS", str(tmp_path / "none"))
    with pytest.raises(StudyError, match="which is not a folder"):
        results_root()


def test_the_published_reports_answer_every_claim():
    all_findings = findings(published_evidence(PUBLISHED))
    backed = [finding for finding in all_findings if finding.evidence]
    assert {finding.claim.name for finding in backed} == set(JUDGES)
    assert all(finding.evidence.size(finding.dataset)[0] > 0 for finding in backed)


def test_the_markdown_lists_every_verdict_and_every_rule():
    all_findings = findings([Evidence("here", main_results()), Evidence("too", pairs(0.01, 0.02))])
    text = findings_markdown(all_findings)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + len(CLAIMS)
    assert sum("| no evidence |" in row for row in rows) == sum(
        not finding.evidence for finding in all_findings
    )
    assert all(claim.rule in text for claim in CLAIMS)
    # A cell that held a bar would be two cells.
    assert {row.count("|") for row in rows} == {6}


def test_only_the_text_between_the_marks_is_replaced():
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = replace_between_marks(page, "new")
    assert once == f"before\n{BEGIN}\nnew\n{END}\nafter\n" == replace_between_marks(once, "new")
    for broken in ("no marks", BEGIN, f"{END}\n{BEGIN}"):
        with pytest.raises(ConfigError, match="no lines <!-- claims -->"):
            replace_between_marks(broken, "new")


def real_cells(_options):
    """Two baselines that stand for full retraining and for a migration, with three seeds."""
    cells = [Cell("data", "import_dataset", {"source": "movietweetings", "users": 60})]
    for seed in range(3):
        for subject, method_name, kind in (
            ("global_mean", "retrained", "retrained"),
            ("user_item_bias", ALL_USERS, "migrated"),
        ):
            labels = {
                "dataset": "movietweetings",
                "seed": seed,
                "method": method_name,
                "kind": kind,
            }
            inputs = {"dataset": "data"}
            cell = Cell(f"{kind} {seed}", "evaluate", {"subject": subject}, inputs, labels=labels)
            cells.append(cell)
    return cells


@pytest.fixture
def studied(tmp_path):
    """A workspace with the report of a small study."""
    ws = Workspace.open(tmp_path / "ws", create=True)
    study = Study("table2", "small", real_cells, {"method": "retrained"})
    outcome = run_cells(ws, real_cells(None), device="cpu")
    study_report = {"study": "table2", "command": "puma study table2", "date": "2026-01-02"}
    study_report |= collect(ws, study, real_cells(None), outcome.runs)
    save_report(ws, study_report | {"failed": outcome.failed, "missing": outcome.missing})
    return ws


def puma(*words, ws=None):
    options = [] if ws is None else ["--workspace", str(ws.root)]
    return CliRunner().invoke(app, [*map(str, words), *options])


def test_a_study_of_the_workspace_is_judged(studied):
    (evidence,) = workspace_evidence(studied)
    rows = {row["method"]: row["rmse"] for row in evidence.report["rows"]}
    done = puma("--json", "claims", "--workspace-reports", ws=studied)
    assert done.exit_code == 0, done.output
    by_name = {claim["claim"]: claim for claim in json.loads(done.stdout)}
    all_users = by_name["all-users"]
    assert all_users["here"] == "reproduced" and all_users["report"] == "table2"
    assert all_users["figures"].startswith(
        f"RMSE {rows[ALL_USERS]:.4f} against {rows['retrained']:.4f}"
    )
    assert all_users["text"] and all_users["rule"] and all_users["made"] == "2026-01-02, cpu"
    assert by_name["chains"]["here"] == "no evidence" and by_name["chains"]["report"] is None


def test_the_command_writes_the_published_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text(encoding="utf-8").replace("reproduced", "?"), encoding="utf-8")
    done = puma("--json", "claims", "--results", PUBLISHED, "--markdown", page)
    assert done.exit_code == 0, done.output
    between = [text.partition(BEGIN)[2].partition(END)[0] for text in map(_text, (page, PAGE))]
    assert between[0] == between[1]
    assert json.loads(puma("--json", "claims").stdout) == json.loads(done.stdout)


def _text(file):
    return file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--results", "{tmp}/none"], "no published reports in {tmp}/none"),
        (["--results", "{tmp}"], "no reports of studies"),
        (
            ["--workspace-reports", "--results", "{tmp}"],
            "--workspace-reports or --results, not both",
        ),
        (["--markdown", "{tmp}/none.md"], "no page {tmp}/none.md"),
        (["--markdown", "{tmp}/bare.md"], "no lines <!-- claims -->"),
        (["--own", "--workspace", "{tmp}/none"], "no workspace"),
    ],
)
def test_bad_input_is_reported_in_one_sentence(tmp_path, words, said):
    (tmp_path / "bare.md").write_text("no marks\n")
    done = puma("claims", *(word.format(tmp=tmp_path) for word in words))
    assert done.exit_code == 1 and not done.stdout
    assert said.format(tmp=tmp_path).lower() in " ".join(done.stderr.split()).lower()
    assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / "bare.md").read_text() == "no marks\n"


def test_a_workspace_without_studies_says_how_to_run_one(tmp_path):
    ws = Workspace.open(tmp_path / "ws", create=True)
    done = puma("claims", "--workspace-reports", ws=ws)
    assert done.exit_code == 1 and "puma study table2 --quick" in done.stderr


def test_a_damaged_study_of_the_workspace_is_reported(studied):
    (studied.root / "studies" / "table2.json").write_text('{"study": "table2"}')
    done = puma("claims", "--workspace-reports", ws=studied)
    assert done.exit_code == 1 and "puma study table2" in done.stderr


def test_intervals_over_trainings_are_labelled_as_such():
    study_report = report("table2", [retrained(), moved(0.002, half=0.01)])
    assert "over users" in JUDGES["all-users"](study_report, "goodbooks").figures
    for line in study_report["differences"]:
        line["over"] = "trainings"
    judged = JUDGES["all-users"](study_report, "goodbooks")
    assert "over users" not in judged.figures and "over trainings" in judged.figures
