"""Writes the figures of the results page and the README from the published reports.

`python docs/generate_results.py` replaces the texts between the marks of docs/results.md,
docs/results/README.md, docs/models.md and README.md, and draws the pictures of the results page.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from puma_engine.defaults import DEFAULT_STRATEGIES, PAPER_STRATEGY
from puma_engine.evaluation.baselines import BASELINES
from puma_engine.evaluation.metrics import METRICS
from puma_engine.report import svg
from puma_engine.studies import evidence
from puma_engine.studies.builder import ALL_USERS, BLENDED, SMALL_SHARE, few_users
from puma_engine.studies.catalog import STUDIES
from puma_engine.studies.claims import Claim
from puma_engine.studies.differences import (
    paired_t_test,
    primary_metric,
    ranking_metric,
    scores_by_seed,
)
from puma_engine.studies.evidence import Evidence, Finding
from puma_engine.studies.reports import datasets, label_of

ROOT = Path(__file__).parents[1]
PAGE, REPORTS, README, MODELS, METHOD = (
    ROOT / "docs/results.md",
    ROOT / "docs/results/README.md",
    ROOT / "README.md",
    ROOT / "docs/models.md",
    ROOT / "docs/method.md",
)
RESULTS = ROOT / "docs/results"
WORDS = {"goodbooks": "books", "movietweetings": "films", "goodbooks-to-read": "clicks"}
# Since this day prompt last is the default of ratings, and the zoo has the models of this version.
PROMPT_LAST = "2026-11-30"
BADGES = {"reproduced": "✅", "not reproduced": "❌", "undecided": "❔", "no evidence": "–"}
REFINED, FEW = f"{ALL_USERS}, refined", few_users(PAPER_STRATEGY)
FEW_REFINED, SHUFFLED = f"{FEW}, refined", "shuffled control"
ITEM_PROMPTS = "retrained, item prompts too"
RETRAINED, REUSED = "retrained", "reused as they are"
# The changes of the study of that name, in the order in which the page tells them.
CHANGES = ("source to target", "target to source", "source to other words")
ORDERS = ("prompt first", "item first", "prompt last")
TABLE = {
    "full retraining": "retrained",
    "PUMA, adapter trained on all users": ALL_USERS,
    "PUMA, adapter trained on 7 % of users": FEW,
    "the first, refined for all users": REFINED,
    "check: prompts swapped between users": SHUFFLED,
}


@dataclass(frozen=True)
class Main:
    """The main results (table2) of one data set and one target model.

    words: its name in texts. real_model: the target where it is not the zoo's.
    """

    report: dict[str, Any]
    dataset: str
    words: str
    real_model: str | None = None

    @cached_property
    def rows(self) -> dict[str, dict[str, Any]]:
        """Means over the seeds, by method."""
        lines = [line for line in self.report["summary"] if line["dataset"] == self.dataset]
        return {line["method"]: line for line in lines}

    @property
    def metric(self) -> str:
        return primary_metric(self.rows["retrained"])

    @property
    def ranking(self) -> str | None:
        return ranking_metric(list(self.rows.values()))

    @property
    def users(self) -> int:
        return int(self.rows["retrained"]["users_trained"])

    def loss(
        self, method: str, metric: str | None = None, against: str = "retrained"
    ) -> tuple[float, float, float] | None:
        """Loss against another method as a share of its score, and its ends over trainings."""
        metric = metric or self.metric
        if method not in self.rows:
            return None
        first, second = (
            scores_by_seed(self.report, {"dataset": self.dataset, "method": name}, metric)
            for name in (method, against)
        )
        if against in BASELINES:  # the same whatever the seed
            second = dict.fromkeys(first, self.rows[against][metric])
        seeds = sorted(first.keys() & second)
        sign = -1 if METRICS[metric].higher_is_better else 1
        whole = float(np.mean([second[seed] for seed in seeds]))
        losses = [sign * (first[seed] - second[seed]) / whole for seed in seeds]
        test = paired_t_test(losses)
        if test is None:
            return float(np.mean(losses)), -np.inf, np.inf
        return test.value, test.low, test.high

    def cost(self, method: str) -> float:
        """Arithmetic as a share of full retraining's."""
        return float(self.rows[method]["flops"] / self.rows["retrained"]["flops"])

    def kept(self, method: str, aspect: str) -> tuple[float, float, float] | None:
        """Share of full retraining's gain over random prompts that a method keeps, and its ends."""
        wanted = {
            "dataset": self.dataset,
            "method": method,
            "reference": "random",
            "aspect": aspect,
        }
        for line in self.report.get("shares_kept", ()):
            if wanted.items() <= line.items() and line["kept"] is not None:
                return line["kept"], line["kept_low"], line["kept_high"]
        return None

    def best(self, *, language_model: bool, metric: str | None = None) -> str:
        """The method with the best mean, of those with or without a language model.

        Blends are left out, and the old model.
        """
        metric = metric or self.metric
        methods = [
            name
            for name, row in self.rows.items()
            if (name in BASELINES) != language_model
            and row.get("kind") not in ("blended", "source")
        ]
        sign = -1 if METRICS[metric].higher_is_better else 1
        return min(methods, key=lambda name: sign * self.rows[name][metric])


def main_results(reports: Sequence[Evidence]) -> list[Main]:
    """Return the main results of each data set with the zoo, then those of other models."""
    of_zoo = {
        finding.dataset: finding.evidence
        for finding in evidence.findings([item for item in reports if item.real_model is None])
        if finding.claim.name == "all-users" and finding.evidence is not None
    }
    results = [
        Main(of_zoo[name].report, name, words) for name, words in WORDS.items() if name in of_zoo
    ]
    for item in reports:
        if item.real_model is not None and item.study == "table2" and not item.quick:
            for name in datasets(item.report):
                model = evidence.MODEL_NAMES.get(str(item.real_model), str(item.real_model))
                words = f"{WORDS.get(name, name)} on {model}"
                results.append(Main(item.report, name, words, model))
    return results


def published_results() -> list[Main]:
    """Return the main results of the published reports."""
    return main_results(evidence.published_evidence(RESULTS))


def percent(share: float) -> str:
    """A share in percent, with a digit where it is below 10."""
    return f"{100 * share:.{0 if abs(share) > 0.1 else 1}f} %"


def joined(parts: Iterable[str]) -> str:
    """a, b and c."""
    *first, last = [*parts] or [""]
    return f"{', '.join(first)} and {last}" if first else last


def losses(
    results: Sequence[Main], method: str, *, ranking: bool = False, against: str = "retrained"
) -> str:
    """How far a method is behind or ahead of another on each data set that has it."""
    parts = []
    for main in results:
        metric = main.ranking if ranking else main.metric
        loss = main.loss(method, metric, against) if metric else None
        if loss is None:
            continue
        value, low, high = loss
        size = percent(abs(value))
        side = f"{size} {'worse' if value > 0 else 'better'}" if size != percent(0) else "level"
        chance = "" if low > 0 or high < 0 else " (may be chance)"
        parts.append(f"{side} on {main.words}{chance}")
    return joined(parts)


def costs(results: Sequence[Main], method: str) -> str:
    """The arithmetic of a method on each data set that has it, as shares of retraining's."""
    return joined(percent(main.cost(method)) for main in results if method in main.rows)


def values(results: Sequence[Main], choose: Callable[[Main], str], metric: str) -> str:
    """A metric of a chosen method on each data set that has it."""
    return joined(
        f"{main.rows[choose(main)][metric]:.3f} on {main.words}"
        for main in results
        if choose(main) in main.rows and metric in main.rows[choose(main)]
    )


def wrapped(text: str) -> str:
    """Wrap the paragraphs of a Markdown text, without splitting links or numbers from their units."""
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    lines = [
        textwrap.fill(part.replace(" %", "\u00a0%"), 118, break_on_hyphens=False)
        for part in paragraphs
    ]
    return "\n\n".join(lines).replace("\u00a0", " ")


def arithmetic(orders: Evidence) -> str:
    """What retraining and a migration cost in the orders of the template."""
    lines = orders.report["summary"]
    users = next(row["users"] for row in orders.report["rows"])
    tflop = {line["method"]: line["flops"] / 1e12 for line in lines if line.get("flops")}
    first, item, last = (tflop[f"retrained, {order}"] for order in ORDERS)
    few = tflop[f"{FEW}, prompt last"]
    rmse = {line["method"]: line["rmse"] for line in lines if line.get("rmse")}
    worse = rmse[f"{FEW}, prompt last"] / rmse["retrained, prompt first"] - 1
    return (
        f"The prompt stands last, so one position is computed for an example. For {users:,} users of books, full "
        f"retraining takes {last:.1f} TFLOP, {item:.1f} with the item first, and {first:.0f} in the paper's order. A "
        f"migration on 7 % takes {few:.1f}, which is {percent(few / first)} of retraining in the paper's order, and "
        f"ends {percent(abs(worse))} {'worse' if worse > 0 else 'better'} than that."
    )


def level_and_order(results: Sequence[Main]) -> str:
    """What a migration of all users keeps of full retraining's gains in level and in order."""
    parts = []
    for main in results:
        level, order = (main.kept(ALL_USERS, aspect) for aspect in ("level", "ranking"))
        if level and order:
            parts.append(
                f"{percent(level[0])} in RMSE and {percent(order[0])} in pair accuracy on {main.words}"
            )
    gains = "Of what full retraining gains over random prompts, a migration of all users keeps"
    return f"{gains} {'; '.join(parts)}."


def against_no_language_model(results: Sequence[Main]) -> str:
    """The best plan with a language model against matrix factorisation."""
    names = sorted({label_of({"method": main.best(language_model=True)}) for main in results})
    ahead = [
        main.words
        for main in results
        if main.rows[main.best(language_model=True)][main.metric]
        > main.rows["matrix_factorisation"][main.metric]
    ]
    verdict = (
        f"Matrix factorisation is ahead on {joined(ahead)}" if ahead else "That is ahead on all"
    )
    every, few = (f"{method}, {BLENDED}" for method in (ALL_USERS, FEW))
    alone = {"against": "matrix_factorisation"}
    if any(every in main.rows for main in results):
        verdict += (
            f". Blended with it, a migration of all users has {values(results, lambda main: every, 'rmse')}: "
            f"{losses(results, every, **alone)} than matrix factorisation alone"
        )
        if order := losses(results, every, ranking=True, **alone):
            verdict += f", and in pair accuracy {order}"
        if losses(results, few, **alone):
            verdict += (
                f". One that 7 % of the users train, blended, is {losses(results, few, **alone)}"
            )
    return (
        f"Matrix factorisation, without a language model, has an RMSE of "
        f"{values(results, lambda main: 'matrix_factorisation', 'rmse')}. The best plan with a language model "
        f"({joined(names)}) has {values(results, lambda main: main.best(language_model=True), 'rmse')}. {verdict}."
    )


def representative(results: Sequence[Main]) -> str:
    """How few users of the default strategy for ratings end, and what they cost."""
    most, least = (few_users(DEFAULT_STRATEGIES["rating"], share) for share in (SMALL_SHARE, 0.01))
    return (
        f"Those are chosen by the paper's strategy. Representative users (facility location), the default for ratings: "
        f"7 % end {losses(results, most)}; 1 % end {losses(results, least)}, for {costs(results, least)} of the "
        f"arithmetic."
    )


def other_model(main: Main) -> str:
    """What a migration to a model that is not the zoo's reaches."""
    named = (
        (ALL_USERS, "All users"),
        (FEW, "7 % of the users (the paper's strategy)"),
        (few_users(DEFAULT_STRATEGIES["rating"]), "7 % (representative)"),
        (few_users("random"), "7 % (random)"),
        (few_users(PAPER_STRATEGY, 0.01), "1 % (the paper's strategy)"),
        (REFINED, "all users, refined,"),
        (FEW_REFINED, "7 %, refined for all users,"),
    )
    parts = []
    for method, words in named:
        if (loss := main.loss(method)) is not None:
            seeds = main.rows[method]["seeds"]
            side = "worse" if loss[0] > 0 else "better"
            single = " (one training)" if seeds == 1 else ""
            cost = percent(main.cost(method))
            parts.append(f"{words} end {percent(abs(loss[0]))} {side}{single} for {cost}")
    words = main.words[0].upper() + main.words[1:]
    level, order = (main.kept(ALL_USERS, aspect) for aspect in ("level", "ranking"))
    kept = (
        f" All users keep {percent(level[0])} of retraining's gain in RMSE and {percent(order[0])} in pair accuracy."
        if level and order
        else ""
    )
    best = [main.best(language_model=with_one) for with_one in (True, False)]
    model, without = (main.rows[name][main.metric] for name in best)
    return (
        f"**{words}, {main.users:,} users: {'; '.join(parts)} of the arithmetic.**{kept} The best plan has an RMSE of {model:.3f}, the "
        f"best method without a language model {without:.3f}."
    )


def worse_after(item: Evidence, method: str, changes: Sequence[str] = CHANGES) -> str:
    """How much worse than retraining a method is after each of some changes, in RMSE."""
    rmse = {(row["change"], row["method"]): row["rmse"] for row in item.report["summary"]}
    return joined(percent(rmse[name, method] / rmse[name, RETRAINED] - 1) for name in changes)


def changes_text(item: Evidence) -> str:
    """Say what reusing prompts costs after a change of weights or words, and what migrating them."""
    options = item.report["options"]
    return wrapped(f"""**Prompts reused as they are** end {worse_after(item, REUSED)} worse (RMSE) than retraining after a change of
`{options["source"]}` from Q4_1 to Q4_0, back, and to another wording of the template. A migration that all users train ends
{worse_after(item, ALL_USERS)} worse, one that 7 % of them train {worse_after(item, FEW)}
([report](results/changes/changes.md): {options["users"]} users of goodbooks, seeds: {len(options["seeds"])}, not tuned).""")


def changes_briefly(item: Evidence) -> str:
    """Say in a sentence that a new rounding of weights or new words need a migration, too."""
    both = CHANGES[0], CHANGES[2]
    return f"""Weights of other precision and a template in other words need a migration, too: on {item.report["options"]["users"]}
users of SmolLM2, prompts reused as they are end {worse_after(item, REUSED, both)} worse than retraining, migrated ones
{worse_after(item, ALL_USERS, both)} ([one training](docs/models.md#a-change-of-precision))."""


def findings_text(results: Sequence[Main], orders: Evidence) -> str:
    """Return the findings, each with its picture."""
    zoo = [main for main in results if main.real_model is None]
    rated = [main for main in zoo if main.metric == "rmse"]
    others = "\n\n".join(other_model(main) for main in results if main.real_model is not None)
    others = f"\n\n## And on a real language model?\n\n{others}" if others else ""
    return wrapped(f"""## Is a migration as good as full retraining?

**Trained on all users, it ends {losses(zoo, ALL_USERS)}.** Refined for all users, it ends
{losses(zoo, REFINED)}. In the order of each user's items (pair accuracy), all users end
{losses(zoo, ALL_USERS, ranking=True)}.

![Loss of migrations against full retraining, with intervals over trainings](images/results-quality.svg)

## How few users suffice, and what does that save?

**Trained on 7 % of the users, it ends {losses(zoo, FEW)}, for {costs(zoo, FEW)} of the arithmetic.**
{representative(rated)} As many random users as 7 %: {losses(zoo, few_users("random"))}. {arithmetic(orders)}

![Loss of migrations on few users, with their share of the arithmetic](images/results-cost.svg)

## What migrates, and what does it bring?

**What migrates is mostly the level of a user's ratings.** {level_and_order(rated)} With prompts swapped between users,
the error is {values(rated, lambda main: SHUFFLED, "rmse")} instead of {values(rated, lambda main: FEW, "rmse")}, so
migrated prompts are personal. {against_no_language_model(rated)} [What was tried](method.md#what-was-tried) is with
the method.

![Shares of full retraining's gain that a migration keeps](images/results-kept.svg){others}""")


def pictures(results: Sequence[Main]) -> dict[str, str]:
    """Return the pictures of the results page as SVG, by file name."""
    axis = "Loss against full retraining in % (left is better)"
    rows = [
        (f"{main.words}, {name}", kind, *(100 * value for value in loss))
        for main in results
        for method, name, kind in (
            (ALL_USERS, "all users", "migrated"),
            (REFINED, "all, refined", "refined"),
            (FEW_REFINED, "7 %, refined", "refined"),
        )
        if (loss := main.loss(method))
    ]
    quality = svg.interval_rows("Migrations against full retraining", rows, axis, line_at=0.0)
    rows = [
        (
            f"{main.words}, {100 * share:g} % (cost {percent(main.cost(method))})",
            "migrated",
            *scaled,
        )
        for main in results
        for share in (0.07, 0.03, 0.01)
        if (loss := main.loss(method := few_users(PAPER_STRATEGY, share)))
        for scaled in [[100 * value for value in loss]]
    ]
    cost = svg.interval_rows("Migrations on few users", rows, axis, line_at=0.0)
    rows = [
        (f"{main.words}, {name}: {label}", kind, *(100 * value for value in kept))
        for main in results
        for method, name, kind in (
            (ALL_USERS, "all", "migrated"),
            (FEW, "7 %", "migrated"),
            ("matrix_factorisation", "no LLM", "baseline"),
        )
        for aspect, label in (("level", "level"), ("ranking", "order"))
        if main.metric == "rmse" and (kept := main.kept(method, aspect))
    ]
    label = "Kept of full retraining's gain over random prompts, in %"
    shares = svg.interval_rows("What a migration keeps", rows, label, line_at=100.0)
    charts = {"quality": quality, "cost": cost, "kept": shares}
    return {f"results-{name}.svg": chart.file() for name, chart in charts.items()}


def orders_table(reports: Sequence[Evidence]) -> str:
    """Return the scores and the arithmetic of the main methods in each order of the template."""
    studies = [item for item in reports if item.study == "templates"]
    lines = [
        f"| {studies[0].report['options']['users']:,} users | | {' | '.join(ORDERS)} |",
        "| --- " * (2 + len(ORDERS)) + "|",
    ]
    for item in sorted(studies, key=lambda item: [*WORDS].index(datasets(item.report)[0])):
        name = datasets(item.report)[0]
        summary = {line["method"]: line for line in item.report["summary"]}
        for label, method in {
            "full retraining": RETRAINED,
            "all users": ALL_USERS,
            f"{SMALL_SHARE:.0%} of the users": FEW,
        }.items():
            cells = [order_cell(summary[f"{method}, {order}"]) for order in ORDERS]
            data = f"[{WORDS[name]}](results/{table_file(item)})"
            lines.append(f"| {data} | {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def order_cell(line: dict[str, Any]) -> str:
    """Return the scores of a method in one order, their spread over trainings, and its arithmetic."""
    metric = primary_metric(line)
    score = f"{line[metric]:.3f} ± {line[f'{metric}_sd']:.3f}"
    if "pair_accuracy" in line:
        score += f" / {line['pair_accuracy']:.3f}"
    return f"{score}, {line['flops'] / 1e12:.1f}"


def table_file(item: Evidence) -> Path:
    """Return the page of a report, from the folder of the reports."""
    file = Path(f"{item.name}.md")
    return file if (RESULTS / file).is_file() else Path(item.name) / file


def claims_table(reports: Sequence[Evidence]) -> str:
    """Return the table of claims: a row a claim, a column a data set or another model."""
    columns = evidence.findings_by_column(reports)
    names = [name for name in WORDS if name in columns]
    names += [name for name in columns if name not in WORDS]
    heads = [evidence.column_heading(name, WORDS) for name in names]
    lines = [f"| claim of the paper | {' | '.join(heads)} |", "| --- " * (1 + len(names)) + "|"]
    claims: list[Claim] = [finding.claim for finding in next(iter(columns.values())).values()]
    for claim in claims:
        cells = [verdict_cell(columns[name][claim.name]) for name in names]
        lines.append(f"| {claim.text} | {' | '.join(cells)} |")
    return "\n".join(lines)


def verdict_cell(finding: Finding) -> str:
    """A verdict as a badge with a link to its report, and what would settle an undecided one."""
    if finding.evidence is None or finding.assessed is None:
        return BADGES["no evidence"]
    old = "" if finding.evidence.report["date"] >= PROMPT_LAST else " °"
    cell = f"{BADGES[finding.verdict]} [{finding.verdict}](results/{table_file(finding.evidence)}){old}"
    more = finding.assessed.more_seeds
    cell += f"<br>about {more} more seed{'' if more == 1 else 's'}" if more else ""
    ranking = finding.ranking
    if ranking is not None and ranking.verdict != finding.verdict:
        cell += f"<br>in ranking {BADGES[ranking.verdict]} {ranking.verdict}"
    return cell


def reports_table(reports: Sequence[Evidence]) -> str:
    """Return a table of the published reports: what each compares, its size, date and device."""
    lines = [
        "| report | what it compares | data | users, seeds | made |",
        "| --- | --- | --- | --- | --- |",
    ]
    for item in reports:
        names = datasets(item.report)
        sizes = dict.fromkeys("{:,}, {}".format(*item.size(name)) for name in names)
        description = STUDIES[item.study].description
        words = ", ".join(names) + (f" on {item.real_model}" if item.real_model else "")
        lines.append(
            f"| [{item.name}]({table_file(item)}) | {description} | {words} | {'; '.join(sizes)} | {item.provenance} |"
        )
    return "\n".join(lines)


def readme_figures(results: Sequence[Main], orders: Evidence, changes: Evidence) -> str:
    """Return the README's answer, table and limits."""
    zoo = [main for main in results if main.real_model is None]
    rated = [main for main in zoo if main.metric == "rmse"]
    others = " ".join(other_model(main) for main in results if main.real_model is not None)
    seeds = " or ".join(sorted({str(main.rows["retrained"]["seeds"]) for main in results}))
    above = f"""**With 7 % of the users, a migration ends {losses(rated, FEW)} than full retraining,
for {costs(rated, FEW)} of its arithmetic.** With all users it ends {losses(zoo, ALL_USERS)}.

{others}

Test error (RMSE in stars, lower is better) of books and films, ranking (uAUC, higher is better) of clicks, mean of
{seeds} trainings. In brackets: the share of full retraining's arithmetic."""
    below = f"""{arithmetic(orders)} With prompts swapped between users the gain is gone, so migrated
prompts are personal.

{changes_briefly(changes)}"""
    limits = f"""**Limits.** The models are small ones of our own (1.2 and 2.7 million parameters), unless a column names
another, and the data sets are open ones, not the paper's. {against_no_language_model(rated)} A migration carries the level
of ratings better than the order of a user's items. {level_and_order(rated)} Several claims of the paper are undecided or
not reproduced: [results](docs/results.md) says which."""
    quoted = textwrap.indent(wrapped(limits), "> ")
    return "\n\n".join([wrapped(above), readme_table(results), wrapped(below), quoted])


def readme_table(results: Sequence[Main]) -> str:
    """Return the scores of the main methods, with their shares of full retraining's arithmetic."""
    heads = [f"{main.words}, {main.users:,} users" for main in results]
    lines = [f"| | {' | '.join(heads)} |", "| --- " * (1 + len(heads)) + "|"]
    for label, method in TABLE.items():
        cells = []
        for main in results:
            cell = f"{main.rows[method][main.metric]:.3f}" if method in main.rows else "–"
            if method not in ("retrained", SHUFFLED) and method in main.rows:
                single = ", one training" if main.rows[method]["seeds"] == 1 else ""
                cell += f" ({percent(main.cost(method))}{single})"
            cells.append(cell)
        lines.append(f"| {label} | {' | '.join(cells)} |")
    best = [f"{main.rows[main.best(language_model=False)][main.metric]:.3f}" for main in results]
    return "\n".join([*lines, f"| best without a language model | {' | '.join(best)} |"])


def write(page: Path, blocks: dict[str, str]) -> None:
    """Replace the text between the marks of each block."""
    text = page.read_text(encoding="utf-8")
    for name, block in blocks.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        if not after:
            raise SystemExit(f"{page} has no lines {begin} and {end}.")
        text = f"{before}{begin}\n{block}\n{end}{after}"
    page.write_text(text, encoding="utf-8")


def pages() -> dict[Path, dict[str, str]]:
    """Return the blocks of each page, by the name of their marks."""
    reports = evidence.published_evidence(RESULTS)
    results = main_results(reports)
    orders = next(item for item in reports if item.name == "templates")
    changes = next(item for item in reports if item.name == "changes")
    findings = evidence.findings_markdown(evidence.findings(reports))
    return {
        PAGE: {
            "findings": findings_text(results, orders),
            "verdicts": claims_table(reports),
        },
        REPORTS: {"reports": reports_table(reports), "claims": findings},
        README: {"figures": readme_figures(results, orders, changes)},
        MODELS: {"changes": changes_text(changes)},
        METHOD: {"orders": orders_table(reports)},
    }


def main() -> None:
    """Write the pages and their pictures."""
    for page, blocks in pages().items():
        write(page, blocks)
    for name, text in pictures(published_results()).items():
        (ROOT / "docs/images" / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
