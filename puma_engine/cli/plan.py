"""puma plan: predict the cost of a migration, measure it, and run the whole migration."""

from typing import Any

import typer

from puma_engine.cli.options import stage, with_options
from puma_engine.cli.session import session
from puma_engine.cli.stages import show_comparison
from puma_engine.requests import PlanRequest

app = typer.Typer(
    name="plan", help="Whole migrations: predict the cost, measure speeds, migrate and evaluate."
)


def show_result(run: Any) -> None:
    """Print the result of a plan: its comparison and the verdict, or its evaluation."""
    if session.as_json:
        session.show(run)
    elif run.kind == "comparison":
        show_comparison(run)
        print(
            f"\nThe comparison is {run.name} ({run.id}); `puma report {run.id} --out report.html` writes "
            "it as HTML."
        )
    else:
        session.show(run)
        print("\nNo full retraining to judge the migration by; --retrain makes it, too.")


@app.command()
@stage("run_plan", show=show_result)
def run(request: PlanRequest) -> str:
    """Migrate, evaluate, and compare with full retraining: from a data set, or prompts, to a verdict."""
    return f"migrating to {request.targets[-1]}"


@app.command()
@with_options(
    name=None, retrain=None, device="cpu or a GPU's name (default: that of the newest training)."
)
def costs(request: PlanRequest, device: str | None = None) -> None:
    """Predict the time of a migration and of full retraining from trainings measured here."""
    from puma_engine.pipeline import predict_costs

    predicted = predict_costs(session.open(), request, device)
    options = {"retraining": predicted.retraining, "migration": predicted.migration}
    rows = [
        {
            "option": name,
            "users trained": predicted.users if name == "retraining" else predicted.trained,
            "seconds": cost and cost.seconds,
            "low": cost and cost.low,
            "high": cost and cost.high,
            "measured runs": len(cost.evidence) if cost else 0,
        }
        for name, cost in options.items()
    ]
    session.table(rows, raw=predicted)
    if session.as_json:
        return
    if None in options.values():
        print("What has no seconds was never measured here; `puma plan calibrate` measures it.")
    for name, cost in options.items():
        if cost and cost.mismatches:
            print(
                f"The seconds of the {name} are a guess: they come from runs with "
                f"{' and '.join(cost.mismatches)}; `puma plan calibrate` measures them."
            )


@app.command()
@stage("calibrate", name=None, retrain=None)
def calibrate(request: PlanRequest) -> str:
    """Measure the speed of every hop of a plan, and of full retraining, by short trainings."""
    return f"measuring {request.targets[-1]}"
