"""puma demo: a whole migration on shipped data."""

from __future__ import annotations

from typing import Annotated

import typer

from puma_engine.cli.config_options import Device
from puma_engine.cli.evaluation import show_comparison
from puma_engine.cli.session import session


def register(app: typer.Typer) -> None:
    """Add the command of this module to the tree."""
    app.command("demo")(demo)


def demo(
    users: Annotated[
        int | None, typer.Option("--users", help="Number of goodbooks users (default: 600).")
    ] = None,
    device: Device = None,
) -> None:
    """Run a whole migration on shipped data; runs that exist are reused.

    Source prompts on the small model, migration to the larger one on few users and on all,
    full retraining, random prompts, the shuffled control, baselines, and their comparison.
    """
    from puma_engine.cli.progress_bars import watched
    from puma_engine.defaults import DEMO_USERS
    from puma_engine.pipeline.demo import demo as run_demo

    ws = session().open(create=True, together=True)
    with watched("demo", quiet=session().as_json) as (progress, should_cancel):
        run = run_demo(
            ws,
            users=users or DEMO_USERS,
            device=device,
            progress=progress,
            should_cancel=should_cancel,
        )
    show_comparison(ws, run)
