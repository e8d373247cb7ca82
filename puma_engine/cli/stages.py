"""The stages of a migration and their results: select, migrate, evaluate, compare, demo and others."""

from typing import Any

import typer

from puma_engine.cli.options import HELP, stage, with_options
from puma_engine.cli.session import session
from puma_engine.defaults import DEMO_USERS, MARGIN
from puma_engine.errors import ConfigError
from puma_engine.requests import (
    AnchorRequest,
    ChainRequest,
    EvaluationRequest,
    MigrationRequest,
    SelectionRequest,
)
from puma_engine.training import distributed


@stage(
    "select",
    "prompts",
    strategy="all, random, variance, loss, kmeans, kmeans-pca, kmeans-farthest, kmeans-loss, "
    "kmeans-variance, ffn-kmeans, ffn-loss, ffn-variance, facility, activity, most-active "
    "or kmeans-activity (default: facility for ratings, kmeans-variance for clicks).",
)
def select(request: SelectionRequest) -> str:
    """Choose the users on whom an adapter will be trained."""
    return f"selecting users{f' by {request.strategy}' if request.strategy else ''}"


@stage("migrate", "source", "target", sources=HELP["source"], missing=None)
def migrate(request: MigrationRequest) -> str:
    """Move prompts to another backbone: train an adapter on some users, map all users."""
    return f"migrating {request.sources[0]} to {request.target}"


@stage(
    "migrate",
    "sources",
    sources="Runs with prompts or vectors, or migrations, two or more.",
    target="Backbone: run, zoo name, model folder, GGUF file or hub id.",
    shuffled=None,
)
def aggregate(request: MigrationRequest) -> str:
    """Migrate several sources at once: their prompts side by side, joined by user id."""
    if len(request.sources) < 2:
        raise typer.BadParameter("aggregate needs two sources or more; for one, use migrate.")
    return f"aggregating {len(request.sources)} sources to {request.target}"


@stage(
    "chain",
    "source",
    "targets",
    targets="Backbones in order: runs, zoo names, folders, GGUF files or hub ids.",
)
def chain(request: ChainRequest) -> str:
    """Migrate over several backbones, each hop from the prompts of the last one."""
    return f"migrating {request.source} over {len(request.targets)} backbones"


@stage(
    "predict_regressions",
    "migration",
    migration="Migration run.",
    share="Share of its users to select, in (0, 1].",
)
def predict_regressions(migration: str, share: float, name: str | None = None) -> str:
    """Select the users whose train loss grew most: who will likely regress, before retraining."""
    return f"predicting regressions of {migration}"


@stage(
    "evaluate",
    "subject",
    dataset="Data set (default: the run's; baselines need one).",
    backbone="Another model, to read the prompts as they are: what reusing them would cost.",
    template="Prompt template: a name, or a file with your own (default: the run's).",
)
def evaluate(request: EvaluationRequest) -> str:
    """Predict a split and score it: pooled metrics with 95 % intervals, and metrics of each user."""
    return f"evaluating {request.subject}"


@stage(
    "predict_anchors",
    "prompts",
    prompts="Prompts or migration run.",
)
def anchors(request: AnchorRequest) -> str:
    """Predict the same items for every user, so that users and models can be compared."""
    return f"predicting anchor items with {request.prompts}"


@with_options(
    "evaluations",
    evaluations="Evaluation runs, two or more.",
    reference="Evaluation to take differences from (default: full retraining).",
    baselines="Add the methods that need no language model.",
    margin="Loss against retraining that counts as equivalent, as a share, in the verdict that is printed "
    f"(default: {MARGIN:g}).",
    seed="Seed of the bootstrap.",
)
def compare(
    evaluations: list[str],
    reference: str | None = None,
    baselines: bool = False,
    margin: float | None = None,
    seed: int = 0,
    name: str | None = None,
    queue: bool = False,
) -> None:
    """Compare evaluations, and print the verdict: migrate, retrain, or refine some users."""
    from puma_engine.evaluation.verdict import check_margin

    if margin is not None:
        check_margin(margin)
        if queue:
            raise ConfigError(
                "--margin is of the verdict that this command prints, and a queued job prints none; leave it "
                "out, and give it to puma report."
            )
    session.do(
        "compare",
        "comparing",
        queue=queue,
        show=lambda run: show_comparison(run, MARGIN if margin is None else margin),
        evaluations=evaluations,
        reference=reference,
        baselines=baselines,
        seed=seed,
        name=name,
    )


def show_comparison(run: Any, margin: float = MARGIN) -> None:
    """Print a comparison: a row for each method, then the verdict; JSON has every metric and the run."""
    from puma_engine.evaluation.formatting import format_interval
    from puma_engine.evaluation.metrics import PRIMARY_METRIC, RANKING_METRIC
    from puma_engine.pipeline import comparison_scores, comparison_shares, judge_comparison

    def interval(row: dict[str, Any] | None, *names: str) -> str:
        if row is None:
            return "not measured"
        value, low, high = (row[name] for name in names)
        return "-" if value != value else format_interval(value, low, high)

    ws = session.open(together=True)
    verdict = judge_comparison(ws, run, margin=margin)
    methods = ws.get_table(run.id, "methods").to_dict("records")
    scores = comparison_scores(ws, run).to_dict("records")
    main = PRIMARY_METRIC[run.summary["task"]]
    ranking = RANKING_METRIC[run.summary["task"]]
    score = {row["method"]: row for row in scores if row["metric"] == main}
    order = {row["method"]: row for row in scores if row["metric"] == ranking}
    rows = [
        {
            "method": row["method"],
            main: interval(score[row["method"]], "value", "low", "high"),
            "difference": interval(
                score[row["method"]], "difference", "difference_low", "difference_high"
            ),
            **(
                {ranking: interval(order.get(row["method"]), "value", "low", "high")}
                if ranking != main
                else {}
            ),
            "users trained": row["users_trained"],
            "seconds": row["seconds"],
        }
        for row in methods
    ]
    shares = comparison_shares(ws, run).to_dict("records")
    record = {"run": run, "methods": methods, "metrics": scores, "shares_kept": shares}
    record["verdict"] = verdict
    session.table(rows, raw=record)
    if not session.as_json:
        print("\n".join(["", verdict.headline, *verdict.evidence, *verdict.cautions]))


@with_options(
    "run",
    run="Prompts or migration run.",
    user="User id, as in the data set.",
    title="Title of any item, known or not.",
    template="Prompt template: a name, or a file with your own (default: that of the prompts).",
)
def predict(
    run: str, user: str, title: str, template: str | None = None, device: str | None = None
) -> None:
    """Predict a user's rating or click for a title, and the probability of each answer."""
    from puma_engine.pipeline import predict_title

    session.show(predict_title(session.open(), run, user, title, template=template, device=device))


@stage(
    "project",
    "source",
    "migrated",
    device=False,
    source="Prompts or migration run: the first map.",
    migrated="Prompts or migration run: the second map, aligned with the first.",
    method="umap, or pca (fast).",
    most="Maximum number of points; with more users a random sample is drawn.",
    neighbours="Neighbours for UMAP and for the trustworthiness measure.",
    seed="Random seed.",
)
def project(
    source: str,
    migrated: str,
    method: str = "umap",
    most: int = 50_000,
    clusters: int = 15,
    neighbours: int = 15,
    seed: int = 0,
    name: str | None = None,
) -> str:
    """Project two prompt tables of the same users to aligned maps and measure their trustworthiness."""
    return f"drawing {source} and {migrated}"


@with_options(
    users="Number of goodbooks users (default: 600; 60 with --real).",
    real="Migrate to SmolLM2, a pre-trained language model; the log says first how many minutes it takes.",
)
def demo(users: int | None = None, real: bool = False, device: str | None = None) -> None:
    """Run a whole migration on shipped data; existing runs are reused.

    Source prompts on the small model, migrations to the larger one trained on 1 % to all of the
    users, refining, full retraining, random prompts, the shuffled control, baselines, and their
    comparison; a second seed, random users, a chain and an aggregation, which ship with PUMA as
    published runs; maps by PCA. A job in the background then draws the maps by UMAP.
    """
    from puma_engine.pipeline.demo import demo_seconds

    if not real and not session.as_json:
        seconds = round(demo_seconds(users or DEMO_USERS), -1)
        print(
            f"The demo takes about {seconds:.0f} s on two free CPU cores; its maps by UMAP are drawn "
            "after it, in the background."
        )
    session.do("demo", "demo", show=show_comparison, users=users, real=real, device=device)
    if not real and distributed.world_size() == 1:
        _queue_umap(users or DEMO_USERS)


def _queue_umap(users: int) -> None:
    """Queue the demo's maps by UMAP and start a worker, unless they exist or are queued."""
    from puma_engine.jobs import enqueue, ensure_worker, jobs

    ws = session.open()
    exists = any(run.config["method"] == "umap" for run in ws.runs("projection", "finished"))
    waits = any(job.command == "demo" and job.status in ("queued", "running") for job in jobs(ws))
    if not exists and not waits:
        enqueue(ws, "demo", {"users": users, "umap": True}, title="Maps of the demo by UMAP")
        ensure_worker(ws)
