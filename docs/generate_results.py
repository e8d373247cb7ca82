"""Writes the figures of the results page and the README from the published reports.

`python docs/generate_results.py` replaces the texts between the marks of docs/results.md,
docs/results/README.md, docs/models.md and README.md, and draws the pictures of the results page.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from puma_engine.defaults import DEFAULT_STRATEGIES, PAPER_STRATEGY
from puma_engine.evaluation.baselines import BASELINES
from puma_engine.evaluation.metrics import METRICS
from puma_engine.report import svg
from puma_engine.selection.strategies import STRATEGIES
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
PAGE, REPORTS, README, MODELS, METHOD, BIGGER, PROMPTS = (
    ROOT / "docs/results.md",
    ROOT / "docs/results/README.md",
    ROOT / "README.md",
    ROOT / "docs/models.md",
    ROOT / "docs/method.md",
    ROOT / "docs/bigger-models.md",
    ROOT / "docs/prompts.md",
)
RESULTS = ROOT / "docs/results"
WORDS = {"goodbooks": "books", "movietweetings": "films", "goodbooks-to-read": "clicks"}
BADGES = {"reproduced": "✅", "not reproduced": "❌", "undecided": "❔", "no evidence": "–"}
REFINED, FEW = f"{ALL_USERS}, refined", few_users(PAPER_STRATEGY)
FEW_REFINED, SHUFFLED = f"{FEW}, refined", "shuffled control"
ITEM_PROMPTS = "retrained, item prompts too"
RETRAINED, REUSED, REFINED_REUSED = "retrained", "reused as they are", "reused, refined"
# The changes of the study of that name, in the order in which the page tells them.
CHANGES = ("source to target", "target to source", "source to other words")
# Shares of users in table4, by size.
FEWEST_SHARES, MORE_SHARES = (0.01, 0.03), (0.07, 0.15)
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

    words: its name in texts. route: the models outside the zoo, see Evidence.
    """

    report: dict[str, Any]
    dataset: str
    words: str
    route: str = ""

    @cached_property
    def rows(self) -> dict[str, dict[str, Any]]:
        """Means over the seeds, by method."""
        lines = [line for line in self.report["summary"] if line["dataset"] == self.dataset]
        return {line["method"]: line for line in lines}

    @property
    def role(self) -> str | None:
        """Role of a model outside the zoo: "on" for the target, "from" for the source."""
        return self.route.partition(" ")[0] or None

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

        Blends are left out, the old model, and single trainings where retraining has more.
        """
        metric = metric or self.metric
        fewest = min(2, self.rows["retrained"]["seeds"]) if language_model else 1
        methods = [
            name
            for name, row in self.rows.items()
            if (name in BASELINES) != language_model
            and row.get("kind") not in ("blended", "source")
            and row["seeds"] >= fewest
        ]
        sign = -1 if METRICS[metric].higher_is_better else 1
        return min(methods, key=lambda name: sign * self.rows[name][metric])


def main_results(reports: Sequence[Evidence]) -> list[Main]:
    """Return the main results of each data set with the zoo, then those of other models.

    Of several reports on the same data and models, the one that the claims use is taken.
    """
    results = []
    for column, found in evidence.findings_by_column(reports).items():
        item = found["all-users"].evidence
        if item is None or item.quick:
            continue
        name = found["all-users"].dataset
        words = evidence.column_heading(column, WORDS)
        results.append(Main(item.report, name, words, item.route))
    order = list(WORDS)
    return sorted(
        results,
        key=lambda main: (
            main.route != "",
            main.role != "on",
            order.index(main.dataset) if main.dataset in order else len(order),
        ),
    )


def published_results() -> list[Main]:
    """Return the main results of the published reports."""
    return main_results(evidence.published_evidence(RESULTS))


def percent(share: float) -> str:
    """A share in percent, with a digit where it is below 10."""
    return f"{100 * share:.{0 if abs(share) > 0.1 else 1}f} %"


def signed(share: float) -> str:
    """A share in percent with its sign and a digit, without the unit; zero is +0.0."""
    return f"{round(100 * share, 1) + 0.0:+.1f}"


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
        side, chance = loss_in_words(loss)
        parts.append(f"{side} on {main.words}{chance}")
    return joined(parts)


def loss_in_words(loss: tuple[float, float, float]) -> tuple[str, str]:
    """Return a loss as "0.8 % worse", and " (may be chance)" where its interval holds zero."""
    value, low, high = loss
    size = percent(abs(value))
    side = f"{size} {'worse' if value > 0 else 'better'}" if size != percent(0) else "level"
    return side, "" if low > 0 or high < 0 else " (may be chance)"


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
    return "\n\n".join(filled(part) for part in text.split("\n\n"))


def filled(paragraph: str, **indents: str) -> str:
    """Wrap a paragraph. indents: initial_indent and subsequent_indent."""
    text = " ".join(paragraph.split()).replace(" %", "\u00a0%")
    return textwrap.fill(text, 118, break_on_hyphens=False, **indents).replace("\u00a0", " ")  # type: ignore[arg-type]


def quoted_list(title: str, points: Sequence[str]) -> str:
    """Return a quoted list below a title."""
    lines = [filled(point, initial_indent="> - ", subsequent_indent=">   ") for point in points]
    return "\n".join([f"> **{title}**", *lines])


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
        "Matrix factorisation, without a language model, has an RMSE of "
        f"{values(results, lambda main: 'matrix_factorisation', 'rmse')}. The best plan with a language model "
        f"({joined(names)}) has {values(results, lambda main: main.best(language_model=True), 'rmse')}. {verdict}."
    )


def few_users_table(results: Sequence[Main]) -> str:
    """Return the losses of migrations that few users train, by how these are chosen."""
    choices = {
        "the paper's strategy": PAPER_STRATEGY,
        "representative (facility location)": DEFAULT_STRATEGIES["rating"],
        "random": "random",
    }
    methods = {
        f"{100 * share:g} %, {label}": few_users(strategy, share)
        for share in (SMALL_SHARE, 0.01)
        for label, strategy in choices.items()
    }
    measured = {
        label: method
        for label, method in methods.items()
        if any(method in main.rows for main in results)
    }
    return "\n".join(loss_table(results, measured))


def real_models_text(results: Sequence[Main]) -> str:
    """Return what migrations to a model outside the zoo reach, and migrations from one."""
    targets = targets_briefly(results)
    above = wrapped(f"""**With SmolLM2 (135 million parameters) as the target, all users end {losses(targets, ALL_USERS)},
and in pair accuracy {losses(targets, ALL_USERS, ranking=True)}. 7 % of the users end {losses(targets, FEW)}.** "On" names
the target, "from" the source.""")
    return f"{above}\n\n{real_models_table(results)}"


def targets_briefly(results: Sequence[Main]) -> list[Main]:
    """Return the results with a target outside the zoo, named by their data alone."""
    return [
        replace(main, words=WORDS.get(main.dataset, main.dataset))
        for main in results
        if main.role == "on"
    ]


def real_models_table(results: Sequence[Main]) -> str:
    """Return the losses of the main methods where a model is not the zoo's, with their arithmetic."""
    results = sorted(results, key=lambda main: main.role != "on")
    methods = {
        "all users": ALL_USERS,
        "7 %, the paper's strategy": FEW,
        "7 %, random": few_users("random"),
        "1 %, the paper's strategy": few_users(PAPER_STRATEGY, 0.01),
        "all users, refined": REFINED,
        "7 %, refined for all": FEW_REFINED,
    }
    lines = loss_table(results, methods)
    for label, language_model in (
        ("best plan (RMSE; clicks: uAUC)", True),
        ("best without a language model", False),
    ):
        cells = [
            f"{main.rows[main.best(language_model=language_model)][main.metric]:.3f}"
            for main in results
        ]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def loss_table(results: Sequence[Main], methods: Mapping[str, str]) -> list[str]:
    """Return the lines of a table of losses against full retraining. methods: by their label."""
    heads = [f"{main.words}, {main.users:,} users" for main in results]
    lines = [f"| | {' | '.join(heads)} |", "| --- " * (1 + len(heads)) + "|"]
    for label, method in methods.items():
        cells = [loss_cell(main, method) for main in results]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return lines


def loss_cell(main: Main, method: str) -> str:
    """Return a method's loss against full retraining with its sign, and its arithmetic."""
    loss = main.loss(method)
    if loss is None:
        return "–"
    value, low, high = loss
    chance = "" if low > 0 or high < 0 else "*"
    return f"{signed(value)} %{chance} ({percent(main.cost(method))})"


def changes_block(items: Sequence[Evidence]) -> str:
    """Return what the published reports of the study of changes say."""
    intro = wrapped("""Each list below has three changes: weights from Q4_1 to Q4_0, back, and another wording of the
template. Refining costs less than migrating all users, so where the width stays, refine first.""")
    return "\n\n".join([intro, *map(changes_text, items)])


def changes_text(item: Evidence) -> str:
    """Say what reusing, refining and migrating prompts end at after a change of weights or words."""
    options = item.report["options"]
    flops = {(row["change"], row["method"]): row.get("flops") for row in item.report["summary"]}
    cost = joined(percent(flops[name, REFINED_REUSED] / flops[name, RETRAINED]) for name in CHANGES)
    return wrapped(f"""**`{options["source"]}`** (in RMSE, against retraining; \\* may be chance): {differences_after(item, REUSED)} reused as
they are, {differences_after(item, REFINED_REUSED)} refined (for {cost} of its arithmetic),
{differences_after(item, ALL_USERS)} migrated by all users, {differences_after(item, FEW)} by 7 % of them. Refined against
migrated by all: {differences_after(item, REFINED_REUSED, ALL_USERS)}. Refined prompts have a pair accuracy of
{pair_accuracies(item, REFINED_REUSED)}, migrated ones of {pair_accuracies(item, ALL_USERS)}, retrained ones of
{pair_accuracies(item, RETRAINED)} ([report](results/{table_file(item)}): {options["users"]:,} users of goodbooks, seeds:
{len(options["seeds"])}, not tuned).""")


def tuning_text(reports: Mapping[str, Evidence]) -> str:
    """Say what tuning and more users brought on SmolLM2. reports: by name."""
    few = "smollm2/goodbooks/2000-users/table2"
    pairs = [
        (few, "smollm2/goodbooks/table3", "books"),
        ("smollm2/movietweetings/table2", "smollm2/movietweetings/table3", "films"),
    ]
    scores = []
    for tuned, default, words in pairs:
        rows = [
            {line["method"]: line["rmse"] for line in reports[name].report["summary"]}
            for name in (tuned, default)
        ]
        scores.append(
            f"on {words} {rows[0][ALL_USERS]:.3f} tuned ([report](results/{table_file(reports[tuned])})) and "
            f"{rows[1][ALL_USERS]:.3f} with the defaults ([report](results/{table_file(reports[default])})); with full "
            f"retraining {rows[0][RETRAINED]:.3f} and {rows[1]['retraining, 10 epochs']:.3f}"
        )
    users = []
    for name in (few, "smollm2/goodbooks/table2"):
        main = Main(reports[name].report, "goodbooks", "books", reports[name].route)
        loss = main.loss(ALL_USERS)
        assert loss is not None
        users.append(f"{''.join(loss_in_words(loss))} with {main.users:,} users of books")
    return wrapped(f"""Tuning changed little on SmolLM2. The test RMSE of a migration of all users is {"; ".join(scores)}.
It ends {joined(users)} than full retraining ([report](results/{table_file(reports["smollm2/goodbooks/table2"])})).""")


def chat_text(item: Evidence) -> str:
    """Say what reading in the model's chat template changed in the report of the study chat."""
    seeds: dict[str, dict[int, Any]] = {}
    for row in item.report["rows"]:
        seeds.setdefault(row["method"], {})[row["seed"]] = row
    parts = []
    for words, method in (
        ("full retraining", RETRAINED),
        ("a migration that all users train", ALL_USERS),
    ):
        alone, in_chat = seeds[method], seeds[f"{method}, chat template"]
        values = []
        for metric in ("rmse", "pair_accuracy"):
            means = [np.mean([row[metric] for row in rows.values()]) for rows in (alone, in_chat)]
            change = paired_change([(in_chat[s][metric], alone[s][metric]) for s in in_chat])
            values.append(
                f"{means[0]:.3f} alone and {means[1]:.3f} in the chat template ({change})"
            )
        parts.append(f"{words} has an RMSE of {values[0]}, and a pair accuracy of {values[1]}")
    users, count = item.report["options"]["users"], len(seeds[RETRAINED])
    return wrapped(f"""Whether it helps is a question for your data: `puma study chat --target MODEL` compares both. With SmolLM2 on
{users} users of books ([report](results/{table_file(item)}), {count} trainings, \\* may be chance), {"; ".join(parts)}.""")


def differences_after(
    item: Evidence, method: str, against: str = RETRAINED, changes: Sequence[str] = CHANGES
) -> str:
    """Signed differences of a method from another after each change, in RMSE, with * where they may be chance."""
    rmse = {(row["change"], row["method"], row["seed"]): row["rmse"] for row in item.report["rows"]}
    parts = []
    for change in changes:
        seeds = [seed for name, other, seed in rmse if (name, other) == (change, method)]
        pairs = [(rmse[change, method, seed], rmse[change, against, seed]) for seed in seeds]
        parts.append(paired_change(pairs))
    return joined(parts)


def paired_change(pairs: Sequence[tuple[float, float]]) -> str:
    """The mean signed change of paired values (new, old), with * where it may be chance."""
    changes = [new / old - 1 for new, old in pairs]
    test = paired_t_test(changes)
    chance = r"\*" if test is None or test.low <= 0 <= test.high else ""
    return f"{signed(float(np.mean(changes)))} %{chance}"


def pair_accuracies(item: Evidence, method: str) -> str:
    """The pair accuracy of a method after each change."""
    values = {
        (row["change"], row["method"]): row["pair_accuracy"] for row in item.report["summary"]
    }
    return joined(f"{values[name, method]:.3f}" for name in CHANGES)


def changes_briefly(item: Evidence) -> str:
    """Say briefly what a new rounding of weights or new words cost."""
    both = CHANGES[0], CHANGES[2]
    options = item.report["options"]
    return f"""Weights of other precision and a template in other words cost quality, too. On {options["users"]:,} users of
SmolLM2 ({len(options["seeds"])} trainings), prompts reused as they are end at {differences_after(item, REUSED, changes=both)}
RMSE against retraining, migrated ones at {differences_after(item, ALL_USERS, changes=both)}, and prompts
[refined for the change](docs/models.md#a-change-of-precision) at {differences_after(item, REFINED_REUSED, changes=both)}
(\\* may be chance)."""


def findings_text(results: Sequence[Main], orders: Evidence, selections: Sequence[Evidence]) -> str:
    """Return the findings, each with its picture."""
    zoo = [main for main in results if not main.route]
    rated = [main for main in zoo if main.metric == "rmse"]
    others = [main for main in results if main.route]
    real = f"\n\n## And with a real language model?\n\n{real_models_text(others)}" if others else ""
    quality = wrapped(f"""## Is a migration as good as full retraining?

**Trained on all users, it ends {losses(zoo, ALL_USERS)}.** Refined for all users, it ends
{losses(zoo, REFINED)}. In the order of each user's items (pair accuracy), all users end
{losses(zoo, ALL_USERS, ranking=True)}.

![Loss of migrations against full retraining, with intervals over trainings](images/results-quality.svg)

## How few users suffice, and what does that save?

**Trained on 7 % of the users, it ends {losses(zoo, FEW)}, for {costs(zoo, FEW)} of the arithmetic.**
The table has differences from full retraining (negative is better, * may be chance) and shares of its arithmetic.""")
    bring = wrapped(f"""{chosen_users(selections)}

{arithmetic(orders)}

![Loss of migrations on few users, with their share of the arithmetic](images/results-cost.svg)

## What migrates, and what does it bring?

**What migrates is mostly the level of a user's ratings.** {level_and_order(rated)} With prompts swapped between users,
a migration ends {losses(rated, SHUFFLED, against=FEW)}, so migrated prompts are personal.

{against_no_language_model(rated)} [What was tried](method.md#what-was-tried) is with the method.

![Shares of full retraining's gain that a migration keeps](images/results-kept.svg)""")
    findings = "\n\n".join([quality, few_users_table(zoo), bring])
    return findings + real


def pictures(results: Sequence[Main]) -> dict[str, str]:
    """Return the pictures of the results page as SVG, by file name.

    They show the zoo and other models as targets; shares of the gain the zoo alone, since on films
    SmolLM2 gains too little to divide by.
    """
    results = [main for main in results if main.role != "from"]
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
            f"{main.words}, {100 * share:g} % ({percent(main.cost(method))})",
            "migrated",
            *scaled,
        )
        for main in results
        for share in (0.07, 0.03, 0.01)
        if (loss := main.loss(method := few_users(PAPER_STRATEGY, share)))
        for scaled in [[100 * value for value in loss]]
    ]
    axis = "Loss in % (in brackets: share of arithmetic)"
    cost = svg.interval_rows("Migrations on few users", rows, axis, line_at=0.0)
    rows = [
        (f"{main.words}, {name}: {label}", kind, *(100 * value for value in kept))
        for main in results
        if main.role is None
        for method, name, kind in (
            (ALL_USERS, "all", "migrated"),
            (FEW, "7 %", "migrated"),
            ("matrix_factorisation", "no LLM", "baseline"),
        )
        for aspect, label in (("level", "level"), ("ranking", "order"))
        if main.metric == "rmse" and (kept := main.kept(method, aspect))
    ]
    label = "Kept of full retraining's gain, in %"
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
            f"{100 * SMALL_SHARE:g} % of the users": FEW,
        }.items():
            cells = [order_cell(summary[f"{method}, {order}"]) for order in ORDERS]
            data = f"[{WORDS[name]}](results/{table_file(item)})"
            lines.append(f"| {data} | {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


@dataclass(frozen=True)
class Gain:
    """Loss of a strategy against random users as a share, with its 95 % interval over trainings."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{signed(self.value)} % [{signed(self.low)}, {signed(self.high)}]"

    @property
    def in_words(self) -> str:
        return "".join(loss_in_words((self.value, self.low, self.high)))


def against_random(
    selections: Sequence[Evidence], strategy: str, shares: Sequence[float]
) -> Gain | None:
    """Return the loss of a strategy against random users, in the mean of data sets, shares and seeds.

    selections: reports of table4 with one metric. The interval is over pairs of trainings (Student's
    t): one value for each data set and seed, the mean over the shares of users. Seeds that lack one
    are left out.
    """
    losses = []
    for item in selections:
        rows = {
            (row["method"], row["share"], row["seed"]): row
            for row in item.report["rows"]
            if row.get("share") is not None
        }
        metric = primary_metric(next(iter(rows.values())))
        sign = -1 if METRICS[metric].higher_is_better else 1
        for seed in sorted({seed for _, _, seed in rows}):
            pairs = [((strategy, share, seed), ("random", share, seed)) for share in shares]
            if all(key in rows for pair in pairs for key in pair):
                ratios = [rows[chosen][metric] / rows[random][metric] for chosen, random in pairs]
                losses.append(sign * (float(np.mean(ratios)) - 1))
    test = paired_t_test(losses)
    return None if test is None else Gain(test.value, test.low, test.high)


def strategy_columns(selections: Sequence[Evidence]) -> dict[str, dict[str, Gain | None]]:
    """Return the losses of each strategy against random users, by task and shares of users."""
    columns = {}
    for task, metric in (("ratings", "rmse"), ("clicks", "uauc")):
        items = [item for item in selections if item.report["rows"][0].get(metric) is not None]
        for words, shares in (("1 % and 3 %", FEWEST_SHARES), ("7 % and 15 %", MORE_SHARES)):
            columns[f"{task}, {words}"] = {
                strategy: against_random(items, strategy, shares)
                for strategy in STRATEGIES
                if strategy != "random"
            }
    return columns


def strategies_table(selections: Sequence[Evidence]) -> str:
    """Return the losses of all strategies against random users, and which are surely ahead."""
    columns = strategy_columns(selections)
    lines = [f"| strategy | {' | '.join(columns)} |", "| --- " * (1 + len(columns)) + "|"]
    for strategy in STRATEGIES:
        gains = [column.get(strategy) for column in columns.values()]
        if any(gain is not None for gain in gains):
            lines.append(f"| `{strategy}` | {' | '.join(str(gain or '–') for gain in gains)} |")
    ahead = [
        f"on {name.replace(', ', ' with ')}: {joined(f'`{strategy}`' for strategy, gain in column.items() if gain and gain.high < 0) or 'none'}"
        for name, column in columns.items()
    ]
    count = sum(gain is not None for column in columns.values() for gain in column.values())
    text = wrapped(f"""Surely ahead of random users are {"; ".join(ahead)}. Of {count} such intervals, about
{0.025 * count:.0f} would be below zero by chance alone.""")
    return "\n".join([*lines, "", text])


def chosen_users(selections: Sequence[Evidence]) -> str:
    """Say what choosing users by the paper's strategy is worth on ratings, on few users and on more."""
    rated = [item for item in selections if item.report["rows"][0].get("rmse") is not None]
    few, more = (
        against_random(rated, PAPER_STRATEGY, shares) for shares in (FEWEST_SHARES, MORE_SHARES)
    )
    if few is None or more is None:
        return ""
    return (
        f"[Choosing users](method.md#which-users) matters where they are few. Over both rating sets, the paper's strategy "
        f"is {few.in_words} than random users on 1 % and 3 % of the users, and {more.in_words} on 7 % and 15 %."
    )


def small_study(reports: Sequence[Evidence], study: str) -> list[Main]:
    """Return the results of a study that has one report for each data set, in the order of WORDS."""
    mains = {
        name: Main(item.report, name, WORDS[name])
        for item in reports
        if item.study == study
        for name in datasets(item.report)
    }
    return [mains[name] for name in WORDS if name in mains]


def mixed_text(reports: Sequence[Evidence]) -> str:
    """Return the losses of plans that migrate and then refine some users, and what the choice of these is worth."""
    results = small_study(reports, "mixed")
    methods = {
        method.replace("PUMA, ", "adapter of ").replace("%", " %"): method
        for method in results[0].rows
        if method != RETRAINED and method not in BASELINES
    }
    at_risk = [
        f"with {part.split('%')[0]} %, {losses(results, method, against=method.replace('at risk', 'at random'))}"
        for method in methods.values()
        if method.endswith("at risk")
        for part in [method.split(", ")[-1]]
    ]
    text = wrapped(
        f"""Refining those at risk ends, compared with refining as many random users: {"; ".join(at_risk)}."""
    )
    return "\n".join([*loss_table(results, methods), "", text])


def items_text(reports: Sequence[Evidence]) -> str:
    """Say what item prompts change in retraining and in a migration of all users."""
    results = small_study(reports, "items")
    migrated = f"{ALL_USERS}, item prompts too"
    return wrapped(f"""With {results[0].users:,} users, retraining with item prompts ends {losses(results, ITEM_PROMPTS)} than without
them, and a migration of all users with them {losses(results, migrated, against=ALL_USERS)} than one without.""")


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
    """Return the tables of claims, with the zoo and with other targets: a row a claim, a column a data set."""
    columns = evidence.findings_by_column(reports)
    zoo = [name for name in WORDS if name in columns]
    others = [name for word in WORDS for name in columns if name.startswith(f"{word}, on ")]
    parts = [verdicts(columns, zoo)]
    if others:
        parts += ["With a real language model as the target:", verdicts(columns, others)]
    return "\n\n".join(parts)


def verdicts(columns: dict[str, dict[str, Finding]], names: Sequence[str]) -> str:
    """Return a table of the claims for which one of the named columns has evidence."""
    heads = [evidence.column_heading(name, WORDS) for name in names]
    lines = [f"| claim of the paper | {' | '.join(heads)} |", "| --- " * (1 + len(names)) + "|"]
    claims: list[Claim] = [finding.claim for finding in columns[names[0]].values()]
    for claim in claims:
        found = [columns[name][claim.name] for name in names]
        if any(finding.evidence is not None for finding in found):
            cells = [verdict_cell(finding) for finding in found]
            lines.append(f"| {claim.text} | {' | '.join(cells)} |")
    return "\n".join(lines)


def verdict_cell(finding: Finding) -> str:
    """A verdict as a badge with a link to its report, and what would settle an undecided one."""
    if finding.evidence is None or finding.assessed is None:
        return BADGES["no evidence"]
    cell = f"{BADGES[finding.verdict]} [{finding.verdict}](results/{table_file(finding.evidence)})"
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
        words = ", ".join(names) + (f" {item.route}" if item.route else "")
        lines.append(
            f"| [{item.name}]({table_file(item)}) | {description} | {words} | {'; '.join(sizes)} | {item.provenance} |"
        )
    return "\n".join(lines)


def readme_figures(results: Sequence[Main], orders: Evidence, changes: Evidence) -> str:
    """Return the README's answer, table and limits."""
    zoo = [main for main in results if not main.route]
    rated = [main for main in zoo if main.metric == "rmse"]
    targets = [main for main in results if main.role == "on"]
    results = [*zoo, *targets]
    seeds = sorted({main.rows["retrained"]["seeds"] for main in results})
    above = f"""With all users, a migration ends {losses(zoo, ALL_USERS)} than full retraining.

SmolLM2 is a real language model of 135 million parameters. With it as the target, a migration of all users ends
{losses(targets_briefly(results), ALL_USERS)}, and one of 7 % of the users ends
{losses(targets_briefly(results), FEW)}.

Test error (RMSE in stars, lower is better) of books and films, ranking (uAUC, higher is better) of clicks, mean of
{seeds[0]} to {seeds[-1]} trainings. In brackets: the share of full retraining's arithmetic."""
    below = f"""{arithmetic(orders)} With prompts swapped between users the gain is gone, so migrated
prompts are personal.

{changes_briefly(changes)}"""
    limits = [
        """The models are small ones of our own (1.2 and 2.7 million parameters), unless a column names another. The data sets
are open ones, not the paper's.""",
        against_no_language_model(rated),
        f"""A migration carries the level of ratings better than the order of a user's items. {level_and_order(rated)}""",
        """Several claims of the paper are undecided or not reproduced: [results](docs/results.md) says which.""",
    ]
    quoted = quoted_list("Limits.", limits)
    return "\n\n".join([wrapped(above), readme_table(results), wrapped(below), quoted])


def readme_answer(results: Sequence[Main]) -> str:
    """Return the answer in one sentence, which the README begins with."""
    rated = [main for main in results if not main.route and main.metric == "rmse"]
    return wrapped(f"""**With an adapter that 7 % of the users train, the test error ends {losses(rated, FEW)} than
after training every prompt again (full retraining), for {costs(rated, FEW)} of its arithmetic (floating-point
operations).** Both data sets have open ratings: [what it achieves](#what-it-achieves).""")


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
    by_name = {item.name: item for item in reports}
    orders = by_name["goodbooks/templates"]
    changes = by_name["smollm2/goodbooks/changes"]
    selections = [item for item in reports if item.study == "table4"]
    findings = evidence.findings_markdown(evidence.findings_by_model(reports))
    return {
        PAGE: {
            "findings": findings_text(results, orders, selections),
            "verdicts": claims_table(reports),
        },
        REPORTS: {"reports": reports_table(reports), "claims": findings},
        README: {
            "answer": readme_answer(results),
            "figures": readme_figures(results, orders, changes),
        },
        BIGGER: {"tuning": tuning_text(by_name)},
        MODELS: {"changes": changes_block([changes, by_name["goodbooks/changes"]])},
        PROMPTS: {"chat": chat_text(by_name["smollm2/goodbooks/chat"])},
        METHOD: {
            "orders": orders_table(reports),
            "strategies": strategies_table(selections),
            "mixed": mixed_text(reports),
            "items": items_text(reports),
        },
    }


def main() -> None:
    """Write the pages and their pictures."""
    for page, blocks in pages().items():
        write(page, blocks)
    for name, text in pictures(published_results()).items():
        (ROOT / "docs/images" / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
