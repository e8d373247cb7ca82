"""puma plan: what a migration would cost, measuring it, and executing it whole."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from puma_engine.cli.config_options import Device, Queue, with_settings
from puma_engine.cli.migration import BOTH, Budget, Data, Share, Strategy, TemplateOption
from puma_engine.cli.session import session
from puma_engine.requests import PlanRequest

app = typer.Typer(
    help="Whole migrations: predict the cost, measure speeds, migrate and evaluate.",
    no_args_is_help=True,
)
Sources = Annotated[
    list[str],
    typer.Option(
        "--source", help="Prompts or migration run to start from; repeat it for an aggregation."
    ),
]
Targets = Annotated[
    list[str],
    typer.Option("--target", help="Backbone to move to; repeat it for a chain, in order."),
]


@app.command("run")
@with_settings(**BOTH)
def run(
    source: Sources,
    target: Targets,
    training: dict[str, Any],
    adapter: dict[str, Any],
    strategy: Strategy = None,
    budget: Budget = None,
    share: Share = None,
    dataset: Data = None,
    template: TemplateOption = None,
    device: Device = None,
    queue: Queue = False,
) -> None:
    """Migrate, evaluate, and compare with a finished full retraining if there is one."""
    request = _request(locals())
    session().do("run_plan", f"migrating to {target[-1]}", request, queue=queue, device=device)


@app.command("costs")
@with_settings(**BOTH)
def costs(
    source: Sources,
    target: Targets,
    training: dict[str, Any],
    adapter: dict[str, Any],
    strategy: Strategy = None,
    budget: Budget = None,
    share: Share = None,
    dataset: Data = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device", help="cpu or a GPU's name (default: that of the newest training)."
        ),
    ] = None,
) -> None:
    """Predict what a migration and full retraining would take, from trainings measured here."""
    from puma_engine.pipeline import predict_costs

    request = _request(locals())
    predicted = predict_costs(session().open(), request, device)
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
    session().table(rows, raw=predicted)
    if not session().as_json and None in options.values():
        print("What has no seconds was never measured here; `puma plan calibrate` measures it.")


@app.command("calibrate")
@with_settings(**BOTH)
def calibrate(
    source: Sources,
    target: Targets,
    training: dict[str, Any],
    adapter: dict[str, Any],
    strategy: Strategy = None,
    budget: Budget = None,
    share: Share = None,
    dataset: Data = None,
    device: Device = None,
    queue: Queue = False,
) -> None:
    """Measure the speed of every hop of a plan, and of full retraining, by short trainings."""
    request = _request(locals())
    session().do("calibrate", f"measuring {target[-1]}", request, queue=queue, device=device)


def _request(options: dict[str, Any]) -> PlanRequest:
    """Build the request from the options of a command, by name."""
    training = dict(options["training"])
    given = {"sources": options["source"], "targets": options["target"]}
    given |= {"seed": training.pop("seed", None), "training": training}
    return PlanRequest.from_arguments(options | given)
