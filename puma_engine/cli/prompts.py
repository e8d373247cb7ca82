"""puma prompts: tables of soft prompts, one row a user."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from puma_engine.cli.session import run_row, session
from puma_engine.cli.settings import Device, Name, Queue, with_settings
from puma_engine.config import PromptConfig, TrainingConfig

app = typer.Typer(help="Tables of soft prompts, one row a user.", no_args_is_help=True)
Data = Annotated[str, typer.Option("--dataset", help="Data set: id, prefix or name.")]
Backbone = Annotated[
    str, typer.Option("--backbone", help="Backbone run, zoo name, model folder or hub id.")
]
RoleOption = Annotated[
    str, typer.Option("--role", help="source, retrained, or random (the head alone is trained).")
]
TemplateOption = Annotated[
    str | None, typer.Option("--template", help="Prompt template (default: item first).")
]


@app.command("fit")
@with_settings(training=TrainingConfig, prompt=PromptConfig)
def fit(
    dataset: Data,
    backbone: Backbone,
    training: dict[str, Any],
    prompt: dict[str, Any],
    role: RoleOption = "source",
    template: TemplateOption = None,
    name: Name = None,
    device: Device = None,
    queue: Queue = False,
) -> None:
    """Fit one soft prompt a user: what a migration starts from, or the full retraining."""
    session().do(
        "fit_prompts",
        f"fitting {role} prompts on {backbone}",
        queue=queue,
        dataset=dataset,
        backbone=backbone,
        role=role,
        template=template,
        training=training,
        prompt=prompt,
        name=name,
        device=device,
    )


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="File made by puma prompts export.")],
    dataset: Data,
    backbone: Backbone,
    role: RoleOption = "source",
    template: TemplateOption = None,
    name: Name = None,
    device: Device = None,
    queue: Queue = False,
) -> None:
    """Bring in prompts that were fitted elsewhere, keyed by user id."""
    session().do(
        "import_prompts",
        f"importing {path.name}",
        queue=queue,
        dataset=dataset,
        backbone=backbone,
        path=str(path.resolve()),
        role=role,
        template=template,
        name=name,
        device=device,
    )


@app.command("export")
def export(
    prompts: Annotated[str, typer.Argument(help="Prompts or migration run: id, prefix or name.")],
    out: Annotated[Path, typer.Option("--out", help="File to write (.safetensors).")],
    made_by: Annotated[
        str | None,
        typer.Option("--made-by", help="Command to record as the origin (default: this one)."),
    ] = None,
) -> None:
    """Write a run's prompts to one safetensors file keyed by user id."""
    from puma_engine.pipeline import export_prompts

    command = made_by or shlex.join(["puma", *sys.argv[1:]])
    file = export_prompts(session().open(), prompts, out, command=command)
    session().show({"file": str(file), "bytes": file.stat().st_size})


@app.command("list")
def list_() -> None:
    """List prompt tables: fitted, imported and migrated."""
    ws = session().open()
    runs = [run for kind in ("prompts", "migration") for run in ws.runs(kind=kind)]
    session().table([run_row(run) | {"role": run.config["role"]} for run in runs], raw=runs)
