"""puma evaluate, compare and predict."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from puma_engine.cli.config_options import Device, Name, Queue
from puma_engine.cli.session import session
from puma_engine.defaults import MARGIN
from puma_engine.requests import EvaluationRequest


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the tree."""
    app.command("evaluate")(evaluate)
    app.command("compare")(compare)
    app.command("predict")(predict)


def evaluate(
    subject: Annotated[
        str,
        typer.Argument(
            help="Prompts or migration run, or a baseline: global_mean, item_mean, user_item_bias, "
            "matrix_factorisation."
        ),
    ],
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", help="Data set (default: the run's; baselines need one)."),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="train, validation or test.")] = "test",
    template: Annotated[
        str | None, typer.Option("--template", help="Prompt template (default: the run's).")
    ] = None,
    precision: Annotated[
        str, typer.Option("--precision", help="auto, fp32, bf16 or fp16.")
    ] = "auto",
    name: Name = None,
    device: Device = None,
    queue: Queue = False,
) -> None:
    """Predict a split and score it: pooled metrics with 95 % intervals, and metrics a user."""
    request = EvaluationRequest.from_arguments(locals())
    session().do("evaluate", f"evaluating {subject}", request, queue=queue, device=device)


def compare(
    evaluations: Annotated[list[str], typer.Argument(help="Evaluation runs, two or more.")],
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference", help="Evaluation to take differences from (default: full retraining)."
        ),
    ] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Add the methods that need no language model.")
    ] = False,
    margin: Annotated[
        float,
        typer.Option(
            "--margin", help="Loss against retraining that counts as equivalent, as a share."
        ),
    ] = MARGIN,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the bootstrap.")] = 0,
    name: Name = None,
    queue: Queue = False,
) -> None:
    """Compare evaluations, and say what follows: migrate, retrain, or refine some users."""
    from puma_engine.cli.progress_bars import watched
    from puma_engine.evaluation.verdict import check_margin
    from puma_engine.pipeline import compare as pipeline_compare

    check_margin(margin)
    settings: dict[str, Any] = {
        "evaluations": evaluations,
        "reference": reference,
        "baselines": baselines,
        "seed": seed,
        "name": name,
    }
    if queue:
        session().do("compare", "comparing", queue=True, **settings)
        return
    ws = session().open(together=True)
    with watched("comparing", quiet=session().as_json) as (progress, should_cancel):
        run = pipeline_compare(ws, progress=progress, should_cancel=should_cancel, **settings)
    show_comparison(ws, run, margin)


def show_comparison(ws: Any, run: Any, margin: float = MARGIN) -> None:
    """Print a comparison: a row a method, then the verdict; JSON holds every metric and the run."""
    from puma_engine.evaluation.metrics import PRIMARY_METRIC
    from puma_engine.pipeline import judge_comparison

    verdict = judge_comparison(ws, run, margin=margin)
    methods = ws.get_table(run.id, "methods").to_dict("records")
    scores = ws.get_table(run.id, "comparison").to_dict("records")
    main = PRIMARY_METRIC[run.summary["task"]]
    score = {row["method"]: row for row in scores if row["metric"] == main}
    rows = [
        {
            "method": row["method"],
            main: interval(score[row["method"]], "value", "low", "high"),
            "difference": interval(
                score[row["method"]], "difference", "difference_low", "difference_high"
            ),
            "users trained": row["users_trained"],
            "seconds": row["seconds"],
        }
        for row in methods
    ]
    facts = {"run": run, "methods": methods, "metrics": scores, "verdict": verdict}
    session().table(rows, raw=facts)
    if not session().as_json:
        print("\n".join(["", verdict.headline, *verdict.evidence, *verdict.cautions]))


def interval(row: dict[str, Any], *names: str) -> str:
    """Return a value with its interval, or a dash where there is none."""
    from puma_engine.evaluation.formatting import format_interval

    value, low, high = (row[name] for name in names)
    return "-" if value != value else format_interval(value, low, high)


def predict(
    run: Annotated[str, typer.Argument(help="Prompts or migration run.")],
    user: Annotated[str, typer.Option("--user", help="User id, as in the data set.")],
    title: Annotated[str, typer.Option("--title", help="Title of any item, known or not.")],
    device: Device = None,
) -> None:
    """Predict what a user would think of a title: rating or click, and each answer's probability."""
    from puma_engine.pipeline import predict_title

    session().show(predict_title(session().open(), run, user, title, device=device))
