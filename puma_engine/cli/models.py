"""puma models: language models that can serve as backbones."""

from __future__ import annotations

from typing import Annotated

import typer

from puma_engine.cli.session import session
from puma_engine.cli.settings import Device, Name, Queue

app = typer.Typer(help="Language models that can serve as backbones.", no_args_is_help=True)
Spec = Annotated[str, typer.Argument(help="Zoo name, model folder, or hub id such as owner/name.")]
Revision = Annotated[
    str | None, typer.Option("--revision", help="Branch, tag or commit of a hub id.")
]


@app.command("inspect")
def inspect(spec: Spec, revision: Revision = None, device: Device = None) -> None:
    """Show family, dimensions, memory, and answer tokens in every template; keeps nothing."""
    from puma_engine.backbone import inspect_backbone

    session().show(inspect_backbone(spec, device=device, revision=revision))


@app.command("add")
def add(
    spec: Spec,
    revision: Revision = None,
    name: Name = None,
    device: Device = None,
    queue: Queue = False,
) -> None:
    """Check a model and record it in the workspace."""
    session().do(
        "add_backbone",
        f"inspecting {spec}",
        queue=queue,
        spec=spec,
        revision=revision,
        name=name,
        device=device,
    )


@app.command("list")
def list_() -> None:
    """List the backbones of the workspace."""
    runs = session().open().runs(kind="backbone")
    facts = ("family", "layers", "width", "vocabulary", "parameters", "memory_bytes")
    rows = [
        {"id": run.id, "name": run.name, "status": run.status}
        | {key: run.summary.get(key) for key in facts}
        for run in runs
    ]
    session().table(rows, raw=runs)
