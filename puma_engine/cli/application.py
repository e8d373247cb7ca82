"""The command tree, the common options, and the printing of errors."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from puma_engine.cli import (
    adapters,
    dashboard,
    data,
    doctor,
    jobs,
    models,
    plan,
    prompts,
    published,
    reports,
    runs,
    serving,
    stages,
    study,
    upkeep,
)
from puma_engine.cli.session import session
from puma_engine.errors import Cancelled, PumaError
from puma_engine.training import distributed
from puma_engine.version import __version__

COMMON_OPTIONS = {"--workspace": True, "-w": True, "--json": False, "--offline": False}


class PumaGroup(TyperGroup):
    """The root command: accepts the common options anywhere and prints errors as one line."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return list(super().parse_args(ctx, hoist(args)))

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except PumaError as error:
            text = " ".join(str(error).split())
            if ctx.params.get("as_json"):
                text = json.dumps({"error": text, "type": type(error).__name__})
            else:
                text = f"Error: {text}"
            if distributed.is_main_process():
                print(text, file=sys.stderr)
            raise typer.Exit(130 if isinstance(error, Cancelled) else 1) from None


def hoist(arguments: list[str]) -> list[str]:
    """Move the common options from anywhere to the front."""
    front: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            return [*front, *rest, word, *words]
        if word.split("=", 1)[0] not in COMMON_OPTIONS:
            rest.append(word)
            continue
        front.append(word)
        if COMMON_OPTIONS[word.split("=", 1)[0]] and "=" not in word:
            front += [value for value in [next(words, None)] if value is not None]
    return front + rest


app = typer.Typer(
    name="puma",
    cls=PumaGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Move personal soft prompts from one language model to another without starting over.",
    epilog="--workspace, --json and --offline may stand anywhere on the line.",
)


def show_version(requested: bool) -> None:
    """Print the version and exit, if it was requested."""
    if requested:
        print(f"puma {__version__}")
        raise typer.Exit


@app.callback()
def common(
    workspace: Annotated[
        Path | None,
        typer.Option(
            "--workspace",
            "-w",
            help="Workspace folder (default: PUMA_WORKSPACE, else ./workspace).",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Use hub models from the local cache only.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=show_version),
    ] = False,
) -> None:
    """Store the options that every command shares."""
    if offline:
        # The hub client reads this when it is first imported; jobs of a worker inherit it.
        os.environ["HF_HUB_OFFLINE"] = "1"
    session.path, session.as_json = workspace, as_json


for command in (
    *(stages.select, stages.migrate, stages.aggregate, stages.chain, stages.predict_regressions),
    *(stages.evaluate, stages.anchors, stages.compare, stages.predict, stages.project),
    *(reports.report, published.publish, jobs.worker, doctor.doctor),
    *(upkeep.gc, upkeep.backup, upkeep.restore),
    *(serving.serve_adapter, serving.select_stream, serving.migrate_stream),
    serving.evaluate_stream,
    *(stages.demo, study.study, study.claims, dashboard.serve),
):
    app.command()(command)
for group in (
    *(data.app, models.zoo, models.app, prompts.app, adapters.app, plan.app),
    *(reports.app, published.app, runs.app, jobs.app, upkeep.users),
):
    app.add_typer(group, no_args_is_help=True)
